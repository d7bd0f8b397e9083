"""The model that ships: it loads from its own folder, is small, and converses with the recorded user of the demo."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import duplex
from duplex.audio import read_audio, to_mono
from duplex.checkpoint import load_model
from duplex.session import Session
from duplex.units import FRAME_SAMPLES, FRAME_SECONDS

ASSETS = Path(duplex.__file__).parent / "assets"


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    return load_model("tiny")


@pytest.fixture(scope="module")
def opening(model):
    """Frames of the first exchange of the demo, the user's greeting and what comes of it: 5 s."""
    user = to_mono(read_audio(ASSETS / "demo" / "user.wav"))
    session = Session(model, seed=0)
    return [session.step(user[i * FRAME_SAMPLES : (i + 1) * FRAME_SAMPLES]) for i in range(62)]


def test_it_is_small_and_has_a_card(model):
    assert sum(p.stat().st_size for p in (ASSETS / "tiny").iterdir()) < 40e6
    card = (ASSETS / "tiny" / "MODEL_CARD.md").read_text(encoding="utf-8")
    result = json.loads((ASSETS.parents[1] / "docs" / "results" / "card.json").read_text(encoding="utf-8"))
    assert result["rows"] and "docs/results/card.json | Model card" in card  # tests/test_results.py compares table and result


def test_it_recommends_the_sampling_that_its_scores_were_taken_with(model):
    result = json.loads((ASSETS.parents[1] / "docs" / "results" / "card.json").read_text(encoding="utf-8"))
    assert (model.sampling.audio_temperature, model.sampling.text_temperature) == (0.0, 0.1)
    assert {key: result["sampling"][key] for key in ("audio_temperature", "text_temperature")} == {
        "audio_temperature": 0.0, "text_temperature": 0.1}


def test_codes_are_used_and_the_codec_keeps_the_level(model):
    user = to_mono(read_audio(ASSETS / "demo" / "user.wav"))[: 60 * FRAME_SAMPLES]
    codes = model.codec.encode(torch.from_numpy(user)[None, None])
    assert all(len(torch.unique(row)) > 8 for row in codes[0])
    back = model.codec.decode(codes)[0, 0].numpy()
    assert 0.3 < np.sqrt((back**2).mean()) / np.sqrt((user**2).mean()) < 3


def test_it_waits_for_its_turn_and_answers_in_words(opening):
    user_end = max(f.index for f in opening if f.user_active)
    first = next(f.index for f in opening if f.system_active and f.index > 10)
    assert user_end < first + 1 and (first - user_end) * FRAME_SECONDS < 2.0
    assert len([w for f in opening for w in f.words]) >= 2
    spoken = np.concatenate([f.pcm for f in opening if f.system_active])
    assert np.sqrt((spoken**2).mean()) > 0.01


def test_the_same_seed_gives_the_same_conversation(model, opening):
    user = to_mono(read_audio(ASSETS / "demo" / "user.wav"))
    session = Session(model, seed=0)
    for i in range(40):
        frame = session.step(user[i * FRAME_SAMPLES : (i + 1) * FRAME_SAMPLES])
        assert np.array_equal(frame.pcm, opening[i].pcm) and frame.text_token == opening[i].text_token


def test_it_loads_in_the_reference_package(model):
    from moshi.models.loaders import get_moshi_lm

    config = json.loads((ASSETS / "tiny" / "config.json").read_text(encoding="utf-8"))
    folder_keys = {"moshi_name", "mimi_name", "tokenizer_name", "model_type", "lm_gen_config", "mimi_config_name", "lora_name"}
    reference = get_moshi_lm(ASSETS / "tiny" / "model.safetensors", {k: v for k, v in config.items() if k not in folder_keys},
                             dtype=torch.float32)
    codes = torch.randint(0, 500, (1, model.config.num_rows, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, theirs = model.lm(codes), reference(codes)
    mask = ours.text_mask
    assert torch.allclose(ours.text_logits[mask], theirs.text_logits[mask], atol=1e-4)
