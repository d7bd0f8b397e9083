"""Simulated networks, clocks and rooms, and conversations through them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from duplex.policy import FORCED, LEARNED, POLICIES, PolicyConfig
from duplex.session import Session
from duplex.simulate import self_dialogue, simulate
from duplex.testing import fake_loaded_model, scripted_speech
from duplex.turns import EventKind
from duplex.units import FRAME_SAMPLES, SAMPLE_RATE
from infer.conditions import TICK, Conditions, EchoPath, Link, Loudspeaker, room
from infer.dialogues import Plan, converse, converse_together
from infer.user import Line, RecordedUser, ScriptedUser

MODEL = fake_loaded_model()
CLIP = scripted_speech([(0.0, 1.4)], 1.4, 300.0)
BAD = Conditions(delay_ms=50, jitter_ms=30, stall_share=0.02, stall_ms=200, drift_ppm=150)


def scripted():
    return ScriptedUser((Line(CLIP, "hello", "at", 0.4), Line(CLIP, "wait stop", "into_answer", 1.0)), tail=1.0)


def test_a_perfect_world_is_the_plain_simulation():
    pcm = scripted_speech([(0.4, 1.0)], 2.0)
    (outcome,) = converse(MODEL, [Plan("a", lambda: RecordedUser(pcm), "user.wav", seed=3)])
    plain = simulate(Session(MODEL, seed=3), pcm)
    for name in ("system_pcm", "user_pcm"):
        assert np.array_equal(getattr(outcome.dialogue, name), getattr(plain, name))
    assert outcome.dialogue.words == plain.words and outcome.dialogue.events == plain.events
    assert outcome.delivery is None


def test_conversations_of_a_batch_are_those_held_one_by_one():
    plans = [Plan(kind, scripted, "s", seed, PolicyConfig(kind=kind)) for seed, kind in enumerate(POLICIES)]
    together = list(converse(MODEL, plans))
    alone = list(converse(MODEL, plans, batch=1))
    for a, b in zip(together, alone, strict=True):
        assert a.plan == b.plan and a.said == b.said and a.dialogue.events == b.dialogue.events
        assert np.allclose(a.dialogue.system_pcm, b.dialogue.system_pcm, atol=1e-6)
        assert [said.text for said in a.said] == ["hello", "wait stop"]


def test_the_events_of_a_script_are_at_its_times_under_every_policy():
    """The second line barges in; the model of this test never stops by itself."""
    plans = [Plan(kind, scripted, "s", 4, PolicyConfig(kind=kind)) for kind in POLICIES]
    for outcome in converse(MODEL, plans):
        starts = [event.time for event in outcome.dialogue.events if event.kind is EventKind.USER_START]
        for said in outcome.said:
            assert any(abs(start - said.start) <= 0.08 for start in starts)
        barge = [event.time for event in outcome.dialogue.events if event.kind is EventKind.BARGE_IN]
        assert any(abs(time - outcome.said[1].start) <= 0.08 for time in barge)
        yielded = [event.seconds for event in outcome.dialogue.events if event.kind is EventKind.YIELDED]
        cut = [event for event in outcome.dialogue.events if event.kind is EventKind.TRUNCATED]
        if outcome.plan.policy.kind == LEARNED:
            assert not yielded and not cut
        elif outcome.plan.policy.kind == FORCED:
            assert yielded[-1] == pytest.approx(0.72, abs=0.09) and cut and outcome.dialogue.heard.seconds > 0.5
        else:
            assert yielded[-1] == pytest.approx(1.2, abs=0.09) and not cut


def test_the_same_seed_gives_the_same_bad_world_bit_for_bit_and_another_does_not():
    plans = [Plan("a", scripted, "s", seed, PolicyConfig(kind=FORCED), BAD) for seed in (7, 7, 8)]
    a, again, other = (next(converse(MODEL, [plan])) for plan in plans)
    for name in ("system_pcm", "user_pcm"):
        assert np.array_equal(getattr(a.dialogue, name), getattr(again.dialogue, name))
    assert a.dialogue.events == again.dialogue.events and a.delivery == again.delivery and a.said == again.said
    assert not np.array_equal(a.dialogue.system_pcm[: 20_000], other.dialogue.system_pcm[: 20_000])


def test_a_bad_network_delays_and_loses_nothing_much():
    (outcome,) = converse(MODEL, [Plan("a", scripted, "s", 1, conditions=BAD)])
    assert outcome.delivery.dropped_ms == 0 and outcome.delivery.underrun_share < 0.1
    assert 50 < outcome.delivery.playout_delay_ms <= 250
    assert len(outcome.dialogue.system_pcm) == len(outcome.dialogue.user_pcm)


def test_two_models_talk_as_two_sessions_do():
    other = fake_loaded_model(seed=5)
    plans = [Plan("a", lambda: RecordedUser(CLIP), "partner", seed) for seed in (1, 9)]
    found = converse_together(MODEL, other, plans, 20)
    for outcome, seed in zip(found, (1, 9), strict=True):
        plain = self_dialogue(Session(MODEL, seed=seed), Session(other, seed=seed + 1), 20)
        assert np.allclose(outcome.dialogue.system_pcm, plain.system_pcm, atol=1e-6)
        assert np.allclose(outcome.dialogue.user_pcm, plain.user_pcm, atol=1e-6)
        assert [w.text for w in outcome.dialogue.user_words] == [w.text for w in plain.user_words]


def test_a_link_delivers_everything_in_order_and_in_time():
    link, sent, got = Link(BAD, seed=1), list(range(2_000)), []
    for now in range(2_000 * 20 + 500):
        if now % 20 == 0 and now // 20 < 2_000:
            link.send((now // 20, now), now)
        got += [(item, now) for item in link.arrived(now)]
    assert [item for (item, _), _ in got] == sent
    delays = np.array([now - at for (_, at), now in got])
    assert delays.min() >= 20 and delays.max() <= 281 and (delays > 150).mean() > 0.02


def test_a_room_is_loud_first_and_dies_away():
    response = room(3)
    power = np.square(response)
    assert np.sum(power) == pytest.approx(1, rel=1e-3) and np.array_equal(response, room(3))
    assert power[:2_400].sum() > 0.8 and power[-1_200:].sum() < 1e-3
    assert 0.25 < room(4).size / SAMPLE_RATE + 1e-6 < 0.26


def test_an_echo_is_the_sound_through_the_room_after_its_delay():
    path = EchoPath(Conditions(echo_db=-6.0, echo_delay_ms=120), seed=3)
    air = np.random.default_rng(0).normal(0, 0.1, 40 * TICK)
    echo = np.concatenate([path.push(air[n * TICK : (n + 1) * TICK]) for n in range(40)])
    expected = np.convolve(np.concatenate([np.zeros(2_880), air]), room(3) * 10 ** (-0.3))[: len(air)]
    assert np.allclose(echo, expected, atol=1e-5) and np.abs(echo[:2_800]).max() < 1e-6 < np.abs(echo[2_900:]).max()


def test_a_loudspeaker_takes_what_its_clock_says():
    speaker, taken = Loudspeaker(200.0), itertools.count()
    total = [0]

    def pull(n):
        total[0] += n
        return np.zeros(n, np.float32)

    for _ in range(5_000):
        assert len(speaker.tick(pull)) == TICK
    assert total[0] / (5_000 * TICK) == pytest.approx(1.0002, abs=2e-5) and next(taken) == 0


def test_echo_cancellation_keeps_the_system_from_hearing_itself():
    pytest.importorskip("livekit", reason="pip install -e '.[live]'")
    silent = lambda: RecordedUser(np.zeros(30 * FRAME_SAMPLES, np.float32))  # noqa: E731
    echo = dict(echo_db=-12.0, echo_delay_ms=120.0, drift_ppm=100.0)
    found = [next(converse(MODEL, [Plan("a", silent, "nobody", 2, conditions=Conditions(**echo, cancel=cancel))])).delivery
             for cancel in (True, False)]
    assert found[1].echo_heard > 0  # without it the model takes its own voice for the user's
    assert found[0].echo_heard <= found[1].echo_heard
