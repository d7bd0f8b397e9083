"""Training curves as a picture."""

import json
import os

from train import curves


def _run(folder, parts):
    (folder / "logs").mkdir(parents=True)
    for number, rows in enumerate(parts):
        path = folder / "logs" / ("metrics.csv" if number == len(parts) - 1 else f"metrics-{number + 1}.csv")
        path.write_text("epoch,loss,step,train/text_word,val/text_word\n" + "".join(rows))
        os.utime(path, (number, number))
    return folder


def test_parts_of_a_resumed_run_are_one_curve_and_the_later_part_counts(tmp_path):
    run = _run(tmp_path / "run", [["0,9,10,2.0,\n", "0,9,20,1.0,\n", "0,,20,,1.5\n"], ["0,9,20,0.5,\n", "0,9,30,0.25,\n"]])
    found = curves.read_run(run)
    assert found["train/text_word"] == [(10, 2.0), (20, 0.5), (30, 0.25)] and found["val/text_word"] == [(20, 1.5)]


def test_a_moving_mean_keeps_its_scale_at_the_ends():
    steps, values = curves.smoothed([(n, 3.0) for n in range(40)])
    assert list(values) == [3.0] * 40 and steps[-1] == 39


def test_both_kinds_of_run_are_drawn_and_a_folder_without_curves_is_named(tmp_path, capsys):
    run = _run(tmp_path / "run", [["0,9,10,2.0,\n", "0,,10,,1.5\n"]])
    codec = tmp_path / "codec"
    codec.mkdir()
    (codec / "log.jsonl").write_text("".join(json.dumps({"step": n, "mel": 1 / n, "phones": 2.0}) + "\n" for n in (1, 2, 3)))
    assert curves.main([str(run), str(codec), "--out", str(tmp_path / "c.png")]) == 0
    assert (tmp_path / "c.png").read_bytes()[:4] == b"\x89PNG"
    (tmp_path / "none").mkdir()
    assert curves.main([str(tmp_path / "none"), "--out", str(tmp_path / "d.png")]) == 2
    assert "no curves here" in capsys.readouterr().err and not (tmp_path / "d.png").exists()
    (codec / "log.jsonl").write_text("{")
    assert curves.main([str(codec), "--out", str(tmp_path / "d.png")]) == 2
    assert "cannot be read" in capsys.readouterr().err
