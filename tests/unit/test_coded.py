"""Dialogues composed in token space."""

import json
import random

import numpy as np
import pytest
from tones import ToneEngine

from train import synthesize
from train.corpus import scripts
from train.corpus.bank import Bank, Request, fill

TALK = ("greeting", "thanks", "who", "next_day", "colours")


@pytest.fixture(scope="module")
def small_bank(tmp_path_factory):
    """A few scenarios: encoding costs more than all else here."""
    rng, users, systems = random.Random(0), {}, {}
    pick = scripts.Picker(rng, "train")
    for name in TALK:
        for _ in range(40):
            for exchange in scripts.instance(rng, pick, name):
                users[exchange.user_key] = systems[exchange.system_key] = True
    folder = tmp_path_factory.mktemp("small")
    list(fill(folder, ToneEngine(), [Request(t, "heart", r) for r, ts in (("user", users), ("system", systems)) for t in ts]))
    return folder


class Loudness:
    """A codec whose code is whether a frame is loud."""

    def encode(self, pcm):
        return (pcm.reshape(1, 1, -1, 1920).abs().amax(-1) > 0.02).long()


def loudness_of(bank, jobs, folder):
    """The jobs of a bank, encoded so."""
    from train.coded import CodedBank, write_stream

    (folder / "meta.json").write_text("{}")
    for level in range(3):
        np.savez(folder / f"background-{level}.npz", codes=np.zeros((1, 40), np.int16))
    for number, job in enumerate(jobs):
        write_stream(folder / f"stream-{number:05d}.npz", bank, Loudness(), job, (0, 1, number))
    return CodedBank(folder)


def test_composed_codes_carry_the_clips_and_the_words(tmp_path, small_bank):
    import torch

    from duplex.codec import MimiCodec, MimiConfig, build_mimi
    from duplex.testing import ByteTokenizer
    from duplex.text import row_to_words
    from duplex.units import seconds_to_frame, seconds_to_frames
    from train.coded import LEVELS_DB, TRAIL, CodedBank, ComposedSource, _save, noise, streams, write_stream

    torch.manual_seed(0)
    config = MimiConfig(dimension=16, n_filters=2, codebook_dim=8, n_codebooks=2, cardinality=16, num_heads=2, num_layers=1,
                        dim_feedforward=32, context=16, layer_scale=0.1)
    mimi = build_mimi(config)
    for module in mimi.modules():
        if hasattr(module, "embedding_sum"):
            torch.nn.init.normal_(module.embedding_sum)
    codec, bank = MimiCodec(mimi, config), Bank(small_bank)
    jobs = streams(bank, 0, passes=3, system_passes=2)
    aligned = [job.aligned for job in jobs if job.role == "system"]
    assert aligned.count(True) == aligned.count(False) > 0
    assert jobs[0].role == "system" and {job.level for job in jobs if job.role == "user"} == set(range(len(LEVELS_DB)))
    (tmp_path / "meta.json").write_text(json.dumps({"codec": "x", "codebooks": "2", "cardinality": "16"}))
    for level in range(len(LEVELS_DB)):
        sound = torch.from_numpy(noise(np.random.default_rng(level), level, 20 * 1920))[None, None]
        _save(tmp_path / f"background-{level}.npz", codes=codec.encode(sound)[0].numpy().astype(np.int16))
    for number, job in enumerate(jobs):
        write_stream(tmp_path / f"stream-{number:05d}.npz", bank, codec, job, (0, 1, number))
    coded, tokenizer = CodedBank(tmp_path), ByteTokenizer()
    source = ComposedSource(coded, tokenizer, synthesize.DialogueRecipe(seconds=30.0), frames=375, seed=1)
    first_said = coded.at_level(0).clips
    assert len({(c.offset, c.stream) for c in first_said if c.role == "system"}) == 2 * len(
        {c.offset for c in first_said if c.role == "system"})
    sample = source.sample(4)
    assert sample.shape == (5, 375) and torch.equal(sample, source.sample(4)) and not torch.equal(sample, source.sample(5))
    # The plan that was rendered says which clip starts where: its codes must be there, and its words in the text row.
    plan = source.composers[0].plan("1:composed:0", 30.0)
    codes = coded.render(plan, 0, 375, tokenizer, np.random.default_rng(0))
    first = next(p for p in plan.placements if p.speaker == "system")
    at = round(first.start * 12.5)
    assert np.array_equal(codes[1:3, at : at + 4], coded.codes(first.clip)[:, :4])
    spoken = [w.text for w in plan.system_words][:3]
    assert [w.text for w in row_to_words(codes[0], tokenizer)][:3] == spoken
    # A pause begins as the end of the clip does, so that its edge tells nothing.
    plan, paused = next((plan, p) for plan in (source.composers[0].plan(f"1:composed:{n}", 30.0) for n in range(200))
                        for p in plan.placements if p.hole and p.start + p.hole[0] + p.hole[1] < 28)
    codes = coded.render(plan, 0, 375, tokenizer, np.random.default_rng(0))[3:5]
    at, trail = seconds_to_frame(paused.start) + seconds_to_frame(paused.hole[0]), min(TRAIL, seconds_to_frames(paused.hole[1]))
    assert np.array_equal(codes[:, at : at + trail], coded.codes(paused.clip)[:, -TRAIL:][:, :trail])


def test_perturbed_speakers_are_further_speakers_with_scaled_times(tmp_path, small_bank):
    from train.coded import SPEEDS, streams

    bank = Bank(small_bank)
    plain, jobs = streams(bank, 0), streams(bank, 0, perturb=1.0)
    extra = [job for job in jobs if job.speed != 1]
    assert extra and len(jobs) == len(plain) + len(extra) and all(job.role == "user" and job.speed in SPEEDS for job in extra)
    assert len({job.speed for job in extra}) == 1  # a bank of one speaker: one person has one speed

    coded = loudness_of(bank, jobs, tmp_path)
    clips = {(c.text, c.speaker): c for n in range(3) for c in coded.at_level(n).clips if c.role == "user"}
    checked = 0
    for (text, speaker), clip in clips.items():
        name, mark, speed = speaker.partition("~")
        if mark:
            length, words = coded.timing(clip)
            whole, spoken = coded.timing(clips[text, name])
            assert length == pytest.approx(whole / float(speed)) and len(words) == len(spoken)
            loud = np.flatnonzero(coded.codes(clip)[0])
            assert abs((loud[-1] + 1 - loud[0]) * 0.08 - length) < 0.3  # the sound lasts as long as its times say
            checked += 1
    assert checked > 3
