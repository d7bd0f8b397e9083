"""The report on promises: sections merge, a broken promise is an exit status, and an error of a section is no silence."""

from __future__ import annotations

import importlib
import json

import pytest

from benchmarks.trust import SECTIONS, Options, Promise, report
from benchmarks.trust.__main__ import main


@pytest.fixture
def sections(monkeypatch):
    """Sections that yield what a test puts in here, in place of the real ones."""
    lines = {}

    class Module:
        def __init__(self, name):
            self.name = name

        def run(self, options):
            assert options.out.is_dir()
            yield from lines[self.name]

    real = importlib.import_module
    monkeypatch.setattr("importlib.import_module", lambda name, *rest, **more: Module(name.rpartition(".")[2])
                        if name.startswith("benchmarks.trust.") else real(name, *rest, **more))
    return lines


def line(area, met=True, measured="3 ms"):
    return Promise(area, "it is quick", "≤ 5 ms", measured, met, "by a clock | with a bar")


def test_sections_merge_into_one_report(sections, tmp_path, capsys):
    out = tmp_path / "trust"
    sections |= {"faults": [line("faults")], "access": [line("access", None, "")], "echo": [line("echo")]}
    assert main(["--only", "access", "faults", "--short", "--out", str(out)]) == 0
    assert main(["--only", "echo", "--out", str(out)]) == 0
    result = json.loads((out / "trust.json").read_text())
    assert list(result["areas"]) == ["faults", "echo", "access"]  # in the report's order, not in that of the runs
    assert result["areas"]["faults"]["short"] and not result["areas"]["echo"]["short"]
    assert result["areas"]["echo"]["command"] == "python -m benchmarks.trust --only echo"
    page, text = (out / "index.html").read_text(), (out / "trust.md").read_text()
    assert "2 kept, 0 broken, 1 not measured" in page and "| echo | it is quick | ≤ 5 ms | 3 ms | yes |" in text
    assert "by a clock / with a bar" in text
    sections["echo"] = [line("echo", False, "9 ms")]
    assert main(["--only", "echo", "--out", str(out)]) == 1
    assert "9 ms | **no** |" in (out / "trust.md").read_text()
    assert main(["--only", "faults", "--out", str(out)]) == 0  # what others broke is not this run's


def test_reports_made_elsewhere_are_put_together(sections, tmp_path, capsys):
    sections |= {"faults": [line("faults")], "echo": [line("echo", False)]}
    for name in ("faults", "echo"):
        main(["--only", name, "--out", str(tmp_path / name)])
    files = [str(tmp_path / name / "trust.json") for name in ("echo", "faults")]
    assert main(["--merge", *files, "--out", str(tmp_path / "all")]) == 1  # one of them is broken
    result = report.read(tmp_path / "all")
    assert list(result["areas"]) == ["faults", "echo"]
    old = result | {"areas": {"echo": result["areas"]["echo"] | {"date": "2020-01-01 00:00 UTC", "promises": []}}}
    assert report.joined([result, old])["areas"] == report.joined([old, result])["areas"] == result["areas"]
    (tmp_path / "other.json").write_text(json.dumps(result | {"benchmark": "card"}))
    assert main(["--merge", str(tmp_path / "other.json"), "--out", str(tmp_path / "all")]) == 2


def test_an_error_in_a_section_is_a_broken_promise(sections, tmp_path, capsys):
    def failing():
        yield line("faults")
        raise RuntimeError("the wheels came off")

    sections |= {"faults": failing(), "echo": [line("echo")]}
    assert main(["--only", "faults", "echo", "--out", str(tmp_path)]) == 1
    result = report.read(tmp_path)
    assert [one.met for one in report.lines_of(result)] == [True, False, True]
    assert "the wheels came off" in report.broken(result)[0].measured


def test_bad_options_end_in_one_line(tmp_path, capsys):
    for argv, words in [(["--only", "weather"], "weather"), (["--soak", str(tmp_path / "none.json")], "none.json"),
                        (["--minutes", "0"], "0")]:
        assert main([*argv, "--out", str(tmp_path / "x")]) == 2
        assert words in capsys.readouterr().err
    (tmp_path / "trust.json").write_text("[]")
    assert main(["--only", "echo", "--out", str(tmp_path)]) == 2
    assert "not a result" in capsys.readouterr().err


def test_every_section_that_is_there_has_its_name():
    found = 0
    for name, area in SECTIONS.items():
        spec = importlib.util.find_spec(f"benchmarks.trust.{name}")
        if spec is not None:
            module = importlib.import_module(spec.name)
            assert module.AREA == area and callable(module.run), name
            found += 1
    assert found <= len(SECTIONS)


def test_lengths():
    assert Options().length(120, 0.2) == 120 and Options(short=True).length(120, 0.2) == 0.2
    assert Options(short=True, minutes=3).length(120, 0.2) == 3


def test_the_main_promises_are_on_record():
    from benchmarks.record import ROOT

    result = report.read(ROOT / "docs" / "results")
    for area, parts in report.MAIN.items():
        for part in parts:
            assert any(part in one.promise for one in report.main_lines(result) if one.area == area), (area, part)
    for one in report.main_lines(result):
        assert one.measured or one.how, one.promise
    # What the security page says of the soak in words.
    rated = next(one.measured for one in report.main_lines(result) if "rated for" in one.promise)
    soaked = {one.how.rpartition("it gave")[2].partition(" conversations for")[0].rpartition(" ")[2]
              for one in report.lines_of(result) if one.promise.startswith("soak: ")}
    text = " ".join((ROOT / "SECURITY.md").read_text(encoding="utf-8").split())
    assert len(soaked) == 1
    assert f"soak of two hours was of {soaked.pop()} conversations, while the rated number is {rated}" in text


def test_a_line_that_was_not_measured_says_why_among_the_main_ones():
    lines = [Promise("faults", "a peer that falls silent", "1 s", "", None, "too busy: it gave 3 | 4"), line("faults")]
    assert report.main_lines({"areas": {"faults": {"promises": [vars(one) for one in lines]}}}) == lines[:1]
    assert "| faults | a peer that falls silent | 1 s |  | not measured | too busy: it gave 3 / 4 |" in report.main_table(lines)
