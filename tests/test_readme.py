"""What README.md names exists, and its Python example runs."""

import importlib
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from train import cli

ROOT = Path(__file__).resolve().parents[1]
PATTERNS = ("*.md", "docs/*.md", "duplex/**/*.md")
PAGES = sorted({p.relative_to(ROOT).as_posix() for pattern in PATTERNS for p in ROOT.glob(pattern)})
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)\)", text):
        if not target.startswith(("http://", "https://")):
            assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}, which does not exist"


@pytest.mark.parametrize("page", PAGES)
def test_commands_exist(page):
    for module in re.findall(r"python -m ([a-z_.]+[a-z_])", (ROOT / page).read_text(encoding="utf-8")):
        assert importlib.util.find_spec(module) is not None, f"{page} names python -m {module}"


def test_make_targets_exist():
    makefile = "".join((ROOT / name).read_text(encoding="utf-8") for name in ("Makefile", "train/tiny.mk"))
    for target in set(re.findall(r"\bmake ([a-z]+)\b", README)):
        assert re.search(rf"^{target}:", makefile, re.M), f"README names make {target}"


@pytest.mark.parametrize("brief", (False, True))
def test_the_training_commands_of_the_makefile_are_understood(monkeypatch, brief):
    """Every one of them, with its options; what it makes is what the next one takes."""
    if shutil.which("make") is None:
        pytest.skip("needs make")
    plan = subprocess.run(["make", "-n", "tiny", *["BRIEF=1"] * brief], cwd=ROOT, check=True, capture_output=True, text=True)
    lines = re.sub(r"\$\(.*?\)\"?\)", "1", plan.stdout.replace("\\\n", " ")).splitlines()
    commands = [shlex.split(line.split(" -m ", 1)[1]) for line in lines if " -m train." in line]
    monkeypatch.setattr(cli, "run", lambda parser, body, argv: parser.parse_args(argv))
    assert len(commands) == 20 - brief and commands[-1][0] == "train.export"
    made: set[Path] = set()
    for module, *options in commands:
        args = vars(importlib.import_module(module).main(options))
        given = [value for name, value in args.items() if name != "out" and isinstance(value, Path) and value.parts[0] == "out"]
        assert all(any(path == one or one in path.parents or path in one.parents for one in made) for path in given), module
        made.add(args["out"])


def test_its_figures_of_the_embedded_model_are_those_of_the_card():
    card = json.loads((ROOT / "docs" / "results" / "card.json").read_text(encoding="utf-8"))
    rows = {row["name"]: row["systems"] for row in card["rows"]}
    value = {name: systems["model"]["value"] for name, systems in rows.items()}
    said = " ".join(README.split())
    for phrase in (f"takes its turn ({100 * value['takes_turn']:.0f} % of the questions, after {value['response_s']:.2f} s)",
                   f"falls silent {value['stop_s']:.2f} s after a barge-in",
                   f"goes on through {100 * value['goes_on']:.0f} % of the acknowledgements",
                   f"(WER {100 * value['spoken_wer']:.0f} % against its own text)",
                   f"{100 * value['right']:.0f} % right answers on held-out voices and wordings",
                   f"takes over in {100 * value['pause_takes_over']:.0f} % of the pauses inside a turn, where a VAD end-pointer "
                   f"does in {100 * rows['pause_takes_over']['VAD end-pointer']['value']:.0f} %",
                   f"(p99 {value['frame_p99_ms']:.0f} ms)"):
        assert phrase in said, phrase


def test_the_python_example_runs():
    (example,) = re.findall(r"```python\n(.*?)```", README, re.S)
    scope: dict[str, object] = {}
    exec(example, scope)
    assert scope["frame"].pcm.shape == (1920,)
