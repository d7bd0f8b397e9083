"""What cannot be scored is named, counts nowhere, and stops a bench where it is more than one item in twenty."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.torch import save_file

from benchmarks import ablation, codec, kept, patience
from duplex.codec import MimiConfig, build_mimi
from duplex.errors import InputError
from duplex.testing import FakeCodec, FakeCodecStream


def test_a_clip_of_which_the_codec_makes_no_sound_is_named_and_counts_nowhere(monkeypatch):
    rng = np.random.default_rng(0)
    spoken = [(f"clip {n}", 0.1 * rng.standard_normal(24_000).astype(np.float32)) for n in range(3)]
    whole = FakeCodecStream.decode_frame

    def broken(self, codes, active=None):
        pcm = whole(self, codes, active)
        pcm[1] = float("nan")
        return pcm

    plain = codec.scores(FakeCodec(), [spoken[0], spoken[2]], None)
    monkeypatch.setattr(FakeCodecStream, "decode_frame", broken)
    found = codec.scores(FakeCodec(), spoken, None)
    assert (found["items"], found["clips"], len(found["excluded"])) == (3, 2, 1)
    assert found["excluded"][0].startswith("'clip 1'") and found["stoi"] == plain["stoi"] and plain["excluded"] == []


def test_a_mimi_file_alone_is_a_codec_and_what_is_not_there_is_named(tmp_path, monkeypatch, capsys):
    small = MimiConfig(dimension=16, n_filters=2, codebook_dim=8, n_codebooks=3, cardinality=16, num_heads=2, num_layers=1,
                       dim_feedforward=32, context=16, layer_scale=0.1)
    save_file({k: v.contiguous() for k, v in build_mimi(small).state_dict().items()}, tmp_path / "mimi.safetensors")
    asked = SimpleNamespace(codec=str(tmp_path / "mimi.safetensors"), codebooks=2)
    opened = []
    monkeypatch.setattr(codec, "open_any", lambda source, codebooks: opened.append((source.name, codebooks)) or FakeCodec(2))
    assert codec.open_codec(asked)[1] == tmp_path and opened == [("mimi.safetensors", 2)]
    assert "released size" in capsys.readouterr().err
    with pytest.raises(InputError, match="nothing.safetensors: is not there"):
        codec.open_codec(SimpleNamespace(codec=str(tmp_path / "nothing.safetensors"), codebooks=2))


def test_patience_fails_where_items_could_not_be_scored(monkeypatch, tmp_path, capsys):
    estimate = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9}
    row = {key: estimate for key, _, _ in patience.MEASURES}
    row["tasks"] = {"turn": {"items": 10, "excluded": ["item 3: no sound"]}}
    monkeypatch.setattr(patience, "measure", lambda *_: row)
    monkeypatch.setattr(patience.record, "stamp", lambda *_, **values: values)
    assert patience.main(["--values", "1", "--items", "10", "--json", str(tmp_path / "p.json")]) == 2
    assert "1 of 10 items could not be scored" in capsys.readouterr().err
    assert json.loads((tmp_path / "p.json").read_text())["rows"]  # what was measured is kept all the same


def test_a_model_without_a_user_is_not_asked(monkeypatch, capsys):
    deaf = SimpleNamespace(lm=SimpleNamespace(layout=SimpleNamespace(n_user=0)))
    monkeypatch.setattr(ablation, "load_model", lambda *_, **__: deaf)
    assert ablation.main(["--model", "deaf", "--items", "1"]) == 2
    assert "hears no user" in capsys.readouterr().err


def test_kept_parts_depend_on_all_that_makes_and_scores_items(monkeypatch, tmp_path):
    for name in ("benchmarks/errors.py", "benchmarks/report.py", "duplex/engine.py", "duplex/fast/native/lm.cpp",
                 "train/corpus/casting.py", "train/corpus/scenarios/more.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("a")
    monkeypatch.setattr(kept.record, "ROOT", tmp_path)

    def after(name):
        (tmp_path / name).write_text((tmp_path / name).read_text() + "b")
        kept.sources.cache_clear()
        return kept.sources()

    kept.sources.cache_clear()
    seen = [kept.sources()]
    for name in ("benchmarks/errors.py", "duplex/engine.py", "duplex/fast/native/lm.cpp", "train/corpus/casting.py",
                 "train/corpus/scenarios/more.py"):
        seen.append(after(name))
    assert len(set(seen)) == len(seen) and after("benchmarks/report.py") == seen[-1]
    kept.sources.cache_clear()
