"""The loop body: against a loop written by hand, replayed, cloned, stored, prompted and fed rubbish."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from duplex.codec import MimiCodec, MimiConfig, build_mimi
from duplex.config import SamplingConfig
from duplex.engine import Engine
from duplex.errors import CheckpointError, ConfigError, InputError
from duplex.session import PROMPT_GAP_FRAMES, Prompt, Session
from duplex.streams import UNGENERATED
from duplex.testing import FakeCodec, fake_loaded_model, scripted_speech, silence, tiny_lm_config, tone
from duplex.text import row_to_words
from duplex.turns import TurnTracker
from duplex.units import FRAME_SAMPLES, FRAME_SECONDS
from duplex.vad import activity

MODEL = fake_loaded_model()
USER = scripted_speech([(0.4, 1.2), (2.0, 2.3)], 3.2).reshape(-1, FRAME_SAMPLES)


SHORT = USER[:14]


def play(session, frames=SHORT):
    return [session.step(frame) for frame in frames]


def same(first, second):
    """Are two lists of SessionFrames equal bit for bit?"""
    return len(first) == len(second) and all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for a, b in zip(first, second, strict=True) for name in vars(a))


def by_hand(frames, model, sampling, seed):
    """What a session is: codec, model and codec again, with nothing around them. Gives sound [S] and text tokens."""
    codec, engine = model.codec.stream(1), Engine(model.lm, sampling)
    state, pcm, text = engine.init_state(1, seed), [], []
    for frame in frames:
        state, out = engine.step(state, codec.encode_frame(torch.from_numpy(frame)[None, None]))
        if out.ready[0]:
            text.append(int(out.tokens[0, 0]))
            pcm.append(codec.decode_frame(out.tokens[:, 1:])[0, 0].numpy())
        else:
            text.append(UNGENERATED)
            pcm.append(np.zeros(FRAME_SAMPLES, np.float32))
    return np.concatenate(pcm), text


@pytest.mark.parametrize("sampling", [SamplingConfig(), SamplingConfig(greedy=True)])
def test_a_session_is_codec_model_codec(sampling):
    pcm, text = by_hand(USER, MODEL, sampling, seed=7)
    frames = play(Session(MODEL, sampling, seed=7), USER)
    assert np.array_equal(np.concatenate([frame.pcm for frame in frames]), pcm)
    assert [frame.text_token for frame in frames] == text
    assert [frame.index for frame in frames] == list(range(len(USER)))
    assert frames[5].time == pytest.approx(0.4)


def test_types_and_shapes():
    for frame in play(Session(MODEL), USER[:4]):
        assert frame.pcm.dtype == np.float32 and frame.pcm.shape == (FRAME_SAMPLES,)
        assert frame.system_codes.dtype == frame.user_codes.dtype == np.int64
        assert frame.system_codes.shape == frame.user_codes.shape == (4,)
        assert np.isfinite(frame.pcm).all()


@pytest.mark.parametrize("delay", [1, 3])
def test_silence_until_the_first_frame_is_ready_and_text_in_time_with_the_sound(delay):
    rows = (0, delay, delay, 1)
    session = Session(fake_loaded_model(config=tiny_lm_config(delays=(0, *rows, *rows))))
    assert session.delay == delay
    frames = play(session)
    for frame in frames[:delay]:
        assert not frame.pcm.any() and frame.text == "" and frame.text_token == UNGENERATED
        assert (frame.system_codes == UNGENERATED).all()
    assert frames[delay].pcm.any()
    # The text that the model chooses at a step comes out with its sound, `delay` frames later.
    assert [frame.text_ahead for frame in frames[:-delay]] == [frame.text_token for frame in frames[delay:]]


def test_what_the_model_hears_and_says_are_the_codes_of_the_sound():
    frames = play(Session(MODEL))
    heard = MODEL.codec.encode(torch.from_numpy(SHORT.reshape(1, 1, -1)))
    assert np.array_equal(np.stack([frame.user_codes for frame in frames], 1), heard[0].numpy())
    said = torch.from_numpy(np.stack([frame.system_codes for frame in frames[1:]], 1))
    # Not bit for bit: how a processor rounds a sine may depend on how many are taken at once.
    np.testing.assert_allclose(np.concatenate([frame.pcm for frame in frames[1:]]), MODEL.codec.decode(said[None])[0, 0], 0, 1e-6)


def test_words_are_those_of_the_text_row_timed_by_the_sound():
    session = Session(MODEL, seed=3)
    frames = play(session, USER)
    words = [word for frame in frames for word in frame.words] + list(session.finish()[0])
    row = [frame.text_token for frame in frames[session.delay :]]
    shift = session.delay * FRAME_SECONDS
    expected = row_to_words(row, MODEL.tokenizer)
    assert [word.text for word in words] == [word.text for word in expected] != []
    assert [word.start for word in words] == pytest.approx([word.start + shift for word in expected])
    shown = "".join(frame.text for frame in frames)
    assert "".join(shown.split()).startswith("".join("".join(word.text.split()) for word in words[:-1]))


def test_events_are_those_of_the_two_sounds():
    session = Session(MODEL, SamplingConfig(greedy=True))
    frames = play(session, USER)
    told = [event for frame in frames for event in frame.events] + list(session.finish()[1])
    tracker, expected = TurnTracker(), []
    system = np.concatenate([frame.pcm for frame in frames])
    for pair in zip(activity(system), activity(USER.reshape(-1)), strict=True):
        expected += tracker.push(*map(bool, pair))
    assert told == expected + list(tracker.flush()) != []
    assert [frame.user_active for frame in frames] == activity(USER.reshape(-1)).tolist()


def test_the_same_seed_and_input_give_the_same_conversation():
    assert same(play(Session(MODEL, seed=1), USER), play(Session(MODEL, seed=1), USER))
    assert not same(play(Session(MODEL, seed=1)), play(Session(MODEL, seed=2)))


def test_the_system_hears_the_user():
    assert not same(play(Session(MODEL, seed=1))[8:], play(Session(MODEL, seed=1), silence(14).reshape(14, -1))[8:])


@pytest.mark.parametrize("cut", [0, 1, 9])
def test_a_clone_goes_on_as_the_original_and_neither_disturbs_the_other(cut):
    session = Session(MODEL, seed=5)
    play(session, USER[:cut])
    twin = session.clone()
    play(session.clone(), silence(5).reshape(5, -1))
    assert same(play(twin, SHORT[cut:]), play(session, SHORT[cut:]))
    assert twin.finish() == session.finish()


@pytest.mark.parametrize("cut", [0, 9])
def test_a_stored_session_goes_on_as_if_nothing_had_happened(tmp_path, cut):
    sampling = SamplingConfig(text_temperature=0.9, repetition_window=8, repetition_penalty=2.0)
    session = Session(MODEL, sampling, seed=5, prompt=Prompt("be kind"))
    play(session, USER[:cut])
    session.save(tmp_path / "session.safetensors")
    rest, ends = play(session, SHORT[cut:]), session.finish()
    restored = Session.load(MODEL, tmp_path / "session.safetensors")
    assert restored.index == cut
    assert same(play(restored, SHORT[cut:]), rest)
    assert restored.finish() == ends
    assert [path.name for path in tmp_path.iterdir()] == ["session.safetensors"]


def test_a_stored_session_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "session.safetensors"
    Session(MODEL).save(path)
    other = fake_loaded_model(config=tiny_lm_config(num_layers=3))
    with pytest.raises(CheckpointError, match="session.safetensors.*another model"):
        Session.load(other, path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="session.safetensors.*truncated"):
        Session.load(MODEL, path)
    from safetensors.torch import save_file
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="session.safetensors.*not a stored session"):
        Session.load(MODEL, path)


def test_over_mimi_a_session_is_replayed_cloned_and_stored(tmp_path):
    torch.manual_seed(0)
    size = MimiConfig(dimension=32, n_filters=4, codebook_dim=16, n_codebooks=4, cardinality=64, num_heads=2, num_layers=2,
                      dim_feedforward=64, context=10)
    model = replace(MODEL, codec=MimiCodec(build_mimi(size), size))
    session = Session(model, seed=6, prompt=Prompt(audio=tone(0.2)))
    first = play(session)
    session.save(tmp_path / "session.safetensors")
    continued = play(session.clone())
    assert same(first + continued, play(Session(model, seed=6, prompt=Prompt(audio=tone(0.2))), [*SHORT, *SHORT]))
    assert same(play(Session.load(model, tmp_path / "session.safetensors")), continued)
    assert same(play(session), continued)  # neither the clone nor the file was tied to it


BAD_FRAMES = [
    (np.zeros(FRAME_SAMPLES, np.float64), "float64"),
    (np.zeros(FRAME_SAMPLES, np.int16), "int16"),
    (np.zeros(FRAME_SAMPLES - 1, np.float32), "1919"),
    (np.zeros((1, FRAME_SAMPLES), np.float32), r"\[1, 1920\]"),
    (np.zeros(0, np.float32), r"\[0\]"),
    (torch.zeros(FRAME_SAMPLES), "Tensor"),
    ([0.0] * FRAME_SAMPLES, "list"),
    (None, "NoneType"),
    (np.full(FRAME_SAMPLES, np.nan, np.float32), "NaN"),
    (np.array([np.inf] + [0] * (FRAME_SAMPLES - 1), np.float32), "infinite"),
]


def test_unusable_frames_are_refused_and_leave_the_session_as_it_was():
    session, untouched = Session(MODEL, seed=2), Session(MODEL, seed=2)
    play(session, USER[:3]), play(untouched, USER[:3])
    for frame, says in BAD_FRAMES:
        with pytest.raises(InputError, match=says) as caught:
            session.step(frame)
        assert "\n" not in str(caught.value) and ";" in str(caught.value)
    assert same(play(session, USER[3:8]), play(untouched, USER[3:8]))


def forced_steps(monkeypatch, prompt):
    """(text token, system codes) that a prompt forces, one per frame."""
    seen, step = [], Engine.step

    def watched(self, state, user_codes, **options):
        seen.append((int(options["forced_text"]), options["forced_system"][0].tolist(), user_codes[0].tolist()))
        return step(self, state, user_codes, **options)

    monkeypatch.setattr(Engine, "step", watched)
    session = Session(MODEL, prompt=prompt)
    monkeypatch.setattr(Engine, "step", step)
    return session, seen


def test_a_prompt_is_lived_through_frame_by_frame_before_time_zero(monkeypatch):
    voice, pad = tone(0.3, 200.0), MODEL.tokenizer.pad_id
    session, seen = forced_steps(monkeypatch, Prompt(text="be kind", audio=voice))
    ids = MODEL.tokenizer.encode("be kind")
    assert [text for text, _, _ in seen] == [pad] * (4 + PROMPT_GAP_FRAMES) + ids + [pad] * PROMPT_GAP_FRAMES
    codes = np.array([codes for _, codes, _ in seen])
    assert (codes[:3, 1] > 0).all()  # 200 Hz is heard by the second codebook
    assert not codes[4:].any()
    assert not any(any(user) for _, _, user in seen)
    assert session.index == 0
    frame = session.step(USER[0])
    assert frame.index == 0 and not frame.pcm.any() and frame.text == ""


def test_a_prompt_changes_what_is_said_and_none_of_it_is_heard():
    greedy = SamplingConfig(greedy=True)
    plain = play(Session(MODEL, greedy))
    for prompt in (Prompt(text="be bold"), Prompt(audio=tone(0.5, 300.0))):
        prompted = play(Session(MODEL, greedy, prompt=prompt))
        assert not same(plain, prompted)
        assert not prompted[0].pcm.any()
        assert same(prompted, play(Session(MODEL, greedy, prompt=prompt)))
    assert same(plain, play(Session(MODEL, greedy, prompt=Prompt())))


def test_the_codec_goes_through_the_prompt_as_well(monkeypatch):
    # One frame of the prompt less is decoded than lived through; the fake codec turns the sign of every other one.
    session, seen = forced_steps(monkeypatch, Prompt(text="hi"))
    frames = play(session)
    codes = torch.from_numpy(np.stack([frame.system_codes for frame in frames[1:]], 1))[None]
    expected = MODEL.codec.decode(codes)[0, 0].numpy() * (-1) ** len(seen)
    assert np.array_equal(np.concatenate([frame.pcm for frame in frames[1:]]), expected)


@pytest.mark.parametrize(("audio", "says"), [
    (np.zeros((1, 4_000), np.float32), r"\[1, 4000\]"), (np.zeros(4_000, np.int16), "int16"),
    (np.full(4_000, np.nan, np.float32), "NaN"), ([0.0] * 4_000, "list"),
])
def test_an_unusable_prompt_is_refused(audio, says):
    with pytest.raises(InputError, match=says):
        Session(MODEL, prompt=Prompt(audio=audio))


@pytest.mark.parametrize(("change", "says"), [
    ({"codec": FakeCodec(3, 64)}, "3 codebooks"), ({"codec": FakeCodec(4, 32)}, "32 codes"),
    ({"config": tiny_lm_config(text_card=100)}, "260 pieces"),
    ({"config": tiny_lm_config(n_user=0, dep_q=8)}, "0 user codebooks"),
])
def test_parts_that_do_not_belong_together_are_refused(change, says):
    with pytest.raises(ConfigError, match=says):
        Session(replace(MODEL, **change))
