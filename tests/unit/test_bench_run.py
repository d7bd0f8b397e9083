"""The runner of all benches and what it keeps: what is done stays done, what failed is named and tried again."""

import json
import math
import sys
from types import SimpleNamespace

import pytest

from benchmarks import bench, kept, record, render


def test_parts_are_kept_until_what_they_depend_on_changes(tmp_path):
    calls = []

    def make():
        calls.append(1)
        return {"scores": [math.inf, None, 1.5], "n": len(calls)}

    first = kept.Kept(tmp_path, model="a", seed=0)
    assert first.get("card turn", make, items=5)["n"] == 1 and not first.measured
    again = kept.Kept(tmp_path, model="a", seed=0)
    assert again.get("card turn", make, items=5) == {"scores": [math.inf, None, 1.5], "n": 1}
    assert "commit" in again.measured["card turn"]
    for other in (kept.Kept(tmp_path, model="b", seed=0), kept.Kept(tmp_path, model="b", seed=1)):
        assert other.get("card turn", make, items=5)["n"] == len(calls)
    assert len(calls) == 3 and kept.Kept(tmp_path, model="b", seed=1).get("card turn", make, items=6)["n"] == 4
    assert kept.Kept(tmp_path, model="b", seed=1).get("card turn", make, anew=True, items=6)["n"] == 5
    next(tmp_path.glob("*.json")).write_text("{half")
    assert kept.Kept(tmp_path, model="b", seed=1).get("card turn", make, items=6)["n"] == 6
    assert kept.Kept(None).get("x", make)["n"] == 7 and len(list(tmp_path.iterdir())) == 1


def test_a_models_fingerprint_is_of_its_contents(saved, folder):
    before = kept.fingerprint(saved)
    assert kept.fingerprint(folder) == before
    kept.fingerprint.cache_clear()
    (folder / "MODEL_CARD.md").write_text("words")
    assert kept.fingerprint(folder) == before
    kept.fingerprint.cache_clear()
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    assert kept.fingerprint(folder) != before


def test_benches_run_once_and_what_failed_is_named(tmp_path, monkeypatch, capsys, saved):
    """Stand-ins: some work, one fails once, one is timed, runs after the others and completes the card."""
    out = tmp_path / "bench"
    result = json.dumps(record.stamp("ablation", 0) | {"rows": []})
    write = f"import sys, pathlib; pathlib.Path(sys.argv[-1]).write_text({result!r})"
    fail_once = ("import sys, pathlib; first = pathlib.Path(sys.argv[-1] + '.tried'); there = first.exists(); first.touch()\n"
                 "if not there: print('error: too few items', file=sys.stderr); sys.exit(2)\n" + write)

    def commands(args, out):
        return {name: [sys.executable, "-c", code, str(out / f"{bench.result_of(name)}.json")] for name, code in (
            ("ablation", write), ("codec", fail_once), ("card", write), ("timed", write))}

    monkeypatch.setattr(bench, "commands", commands)
    monkeypatch.setattr(bench.report, "main", lambda arguments: (out / "index.html").write_text("page"))
    arguments = ["--out", str(out), "--model", str(saved), "--whisper", "x"]
    assert bench.main(arguments) == 1
    said = capsys.readouterr().out
    assert "ablation: done" in said and "codec: FAILED (error: too few items)" in said and "timed: done" in said
    assert said.index("codec") < said.index("timed") and (out / "index.html").is_file()
    assert not record.read(out / "bench.json")["whole"]
    assert bench.main(arguments) == 0
    said = capsys.readouterr().out
    assert "ablation: done before" in said and "codec: done\n" in said and "timed: done before" in said
    took = record.read(out / "bench.json")
    assert took["parts"]["ablation"] is None and 0 < took["parts"]["codec"] <= took["seconds"] and not took["whole"]
    assert "| ablation | done before |" in dict(render.tables(took))["How long it took"]
    (out / "kept" / "card.done").unlink()  # the card is made again, so what completes it is, too
    assert bench.main(arguments) == 0
    said = capsys.readouterr().out
    assert "card: done\n" in said and "timed: done\n" in said and "ablation: done before" in said


def test_who_stops_the_benches_stops_all_of_them(tmp_path, monkeypatch, saved):
    started, start = [], bench.subprocess.Popen

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(bench.subprocess, "Popen", lambda *given, **named: started.append(start(*given, **named)) or started[-1])
    monkeypatch.setattr(bench.time, "sleep", interrupted)
    runner = bench.Runner(SimpleNamespace(model=str(saved)), tmp_path)
    with pytest.raises(KeyboardInterrupt):
        runner.run({name: [sys.executable, "-c", "import time; time.sleep(600)"] for name in ("card", "codec")}, 2)
    assert len(started) == 2 and all(process.returncode not in (None, 0) for process in started)


def test_results_are_put_on_record_without_their_items(tmp_path):
    for name in bench.RECORDED:
        record.write(tmp_path / f"{name}.json", record.stamp(name, 0) | {"details": {"turn": []}, "rows": [1]})
    (tmp_path / "results").mkdir()
    for whole in (True, False):
        record.write(tmp_path / "bench.json", record.stamp("bench", 0) | {"whole": whole})
        bench.put_on_record(tmp_path, tmp_path / "results")
        assert record.read(tmp_path / "results" / "bench.json")["whole"]  # of a run that kept parts no time is put on record
    assert record.read(tmp_path / "results" / "latency-bench.json")["rows"] == [1]
    assert "details" not in record.read(tmp_path / "results" / "card.json")


def test_every_bench_keeps_its_parts_and_the_timed_ones_come_last():
    args = SimpleNamespace(model="tiny", quick=False, seed=3, whisper=None)
    found = bench.commands(args, bench.Path("out"))
    assert list(found)[-3:] == ["timed", "timed capability", "latency"]
    assert all("--keep" in command for name, command in found.items() if name != "latency")
    assert found["card"][found["card"].index("--items") + 1] == "200" and "30" in found["latency"]
    assert found["codec"][found["codec"].index("--clips") + 1] == "200"  # as many as in the card, so that they are one part
