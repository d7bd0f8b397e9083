"""Results stay true: every table in the documents is the one that its JSON gives, and says who measured it."""

import json
import re
from pathlib import Path

import pytest

from benchmarks import record, render
from duplex.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [path for path in (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")),
                               ROOT / "duplex" / "assets" / "tiny" / "MODEL_CARD.md") if path.is_file()]


def example() -> dict:
    estimate = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 20}
    row = {"name": "right", "what": "right answer", "unit": "%", "target": 0.85, "at_most": False, "met": False,
           "systems": {"model": estimate, "oracle": {"value": 1.0, "low": 1.0, "high": 1.0, "n": 20}}}
    return record.stamp("card", 0) | {"rows": [row], "scenarios": {"addition": estimate}}


def test_tables_equal_their_json():
    old = [path.relative_to(ROOT).as_posix() for path in DOCUMENTS if render.refreshed(path) != path.read_text(encoding="utf-8")]
    assert old == [], f"make them anew: python -m benchmarks.report --docs {' '.join(old)}"


def test_every_result_says_where_it_comes_from():
    for path in sorted((ROOT / "docs" / "results").glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        assert re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\d UTC", result["date"]), path.name
        assert result["commit"] and result["machine"] and isinstance(result["seed"], int) and result["command"], path.name


def test_a_table_that_was_changed_by_hand_is_noticed(tmp_path):
    record.write(tmp_path / "card.json", example())
    document = tmp_path / "page.md"
    document.write_text("Before.\n\n<!-- results: card.json -->\n<!-- end of results -->\n\nBetween.\n\n"
                        "<!-- results: card.json | Right answers by scenario -->\nold\n<!-- end of results -->\nAfter.\n")
    made = render.refreshed(document)
    assert made.startswith("Before.") and "Between." in made and made.endswith("After.\n") and "old" not in made
    assert "| right answer | ≥ 85.0 % | 50.0 % [40.0, 60.0] (n = 20) | **no** |" in made and "| addition | 50.0 %" in made
    assert "seed 0" in made and record.NOTICE in made
    document.write_text(made)
    assert render.refreshed(document) == made
    document.write_text(made.replace("50.0 %", "58.0 %", 1))
    assert render.refreshed(document) == made != document.read_text()


def test_results_that_cannot_be_shown_say_so(tmp_path):
    document = tmp_path / "page.md"
    document.write_text("<!-- results: none.json -->\n<!-- end of results -->\n")
    with pytest.raises(InputError, match="none.json"):
        render.refreshed(document)
    record.write(tmp_path / "none.json", example())
    document.write_text("<!-- results: none.json | No such table -->\n<!-- end of results -->\n")
    with pytest.raises(InputError, match="there are: Model card"):
        render.refreshed(document)
    (tmp_path / "none.json").write_text("[]")
    with pytest.raises(InputError, match="not a result"):
        render.refreshed(document)
