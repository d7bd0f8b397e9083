"""The preparation on a local Ray cluster of two workers writes what one process writes."""

import importlib.util

import pytest
from own_recordings import converse
from tiny_codec import write_codec

from train import on_ray, prepare
from train.encode import Settings

pytestmark = [pytest.mark.slow, pytest.mark.skipif(importlib.util.find_spec("ray") is None,
                                                   reason="needs the extra cluster: pip install 'duplex-speech[cluster]'")]


def content(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_two_ray_workers_write_the_same_bytes(tmp_path, monkeypatch, capsys):
    codec, tokenizer = write_codec(tmp_path / "codec")
    for number in range(4):
        converse(number, 12.0).write(tmp_path / "set", f"r{number}")
    (tmp_path / "set" / "bad.wav").write_bytes(b"")
    arguments = [str(tmp_path / "set"), "--codec", str(codec), "--tokenizer", str(tokenizer), "--codebooks", "2",
                 "--per-shard", "1"]
    assert prepare.main([*arguments, "--out", str(tmp_path / "one")]) == 1  # one of five is unusable
    seen = set()
    original = on_ray.reports_on_ray
    monkeypatch.setattr(on_ray, "reports_on_ray", lambda *a: original(*a, workers_seen=seen))
    assert prepare.main([*arguments, "--out", str(tmp_path / "ray"), "--ray", "local", "--workers", "2"]) == 1
    assert content(tmp_path / "ray") == content(tmp_path / "one")
    assert len(seen) == 2, "both workers had a part in it"
    assert len((tmp_path / "ray" / "rejected.jsonl").read_text().splitlines()) == 1


def test_no_groups_need_no_cluster(tmp_path):
    assert list(on_ray.reports_on_ray([], Settings(tmp_path, tmp_path), tmp_path, "local", 2)) == []
