"""The jitter buffer under good and bad networks and clocks, all on a simulated clock."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duplex.backlog import BacklogConfig, FrameBacklog
from duplex.errors import ConfigError
from duplex.lateness import Lateness
from duplex.playout import NETWORK, PlayoutBuffer, PlayoutConfig
from duplex.stretch import CUT_SAMPLES, MAX_LAG, MIN_LAG, TAPS, Resampler, cut
from duplex.testing import scripted_speech, tone
from duplex.units import FRAME_SAMPLES, SAMPLE_RATE

MS = SAMPLE_RATE // 1000


def drive(config, arrivals_ms, seconds, chunk_ms=80, ppm=0.0, pull_ms=20, source=None):
    """Plays chunks that arrive at given times to a device whose clock is off by `ppm`; gives the buffer and a log.

    Rows of the log: time in ms, delay, target, underrun samples so far.
    """
    buffer, log, sound, k = PlayoutBuffer(config), [], [], 0
    chunk = chunk_ms * MS
    source = tone(60.0, 150.0) if source is None else source
    period = pull_ms / (1 + ppm * 1e-6)
    for step in range(int(seconds * 1000 / period)):
        now = step * period
        while k < len(arrivals_ms) and arrivals_ms[k] <= now:
            start = k * chunk % (len(source) - chunk)
            buffer.push(source[start : start + chunk], k)
            k += 1
        sound.append(buffer.pull(pull_ms * MS).pcm)
        log.append((now, buffer.delay_ms, buffer.target_ms, buffer.counters.underrun))
    return buffer, np.array(log), np.concatenate(sound)


def network(seconds, seed, stall_share=0.02, chunk_ms=80):
    """Arrival times of a connection with 50 ± 30 ms of delay and stalls of 200 ms that hold up what follows; and the stalls."""
    rng = np.random.default_rng(seed)
    sent = np.arange(0, seconds * 1000, chunk_ms, dtype=float)
    stalled = rng.random(len(sent)) < stall_share
    stalled[: 2000 // chunk_ms] = False
    arrivals = np.maximum.accumulate(sent + rng.uniform(20, 80, len(sent)) + 200 * stalled)
    return arrivals, sent[stalled]


def test_equal_clocks_pass_the_sound_bit_for_bit_after_the_wait():
    voice = scripted_speech([(0.0, 3.0)], 3.0)
    buffer, log, sound = drive(PlayoutConfig(), np.arange(0, 2900, 80), 2.9, source=np.concatenate([voice, voice]))
    start = 60 * MS
    assert not sound[:start].any() and np.array_equal(sound[start : 2 * SAMPLE_RATE], voice[: 2 * SAMPLE_RATE - start])
    assert buffer.counters.underrun == buffer.counters.dropped == buffer.counters.cut == 0
    assert log[-1, 1] == pytest.approx(60, abs=0.5)


def test_frames_of_80_ms_keep_80_to_120_ms_in_the_buffer_on_average():
    buffer, fills = PlayoutBuffer(), []
    for step in range(400):
        if step % 8 == 0:
            buffer.push(tone(0.08))
        fills.append(buffer.fill_ms)
        buffer.pull(10 * MS)
    assert 80 <= np.mean(fills[80:]) <= 120


@pytest.mark.parametrize(("share", "chunk_ms", "seed"), [(0.02, 80, 0), (0.005, 80, 1), (0.005, 20, 2)])
def test_jitter_and_stalls_leave_few_gaps_and_no_delay_behind(share, chunk_ms, seed, monkeypatch):
    monkeypatch.setattr("duplex.playout.Resampler", Counting)
    seconds = 300
    arrivals, stalls = network(seconds, seed, share, chunk_ms)
    buffer, log, _ = drive(PlayoutConfig(), arrivals, seconds - 1, chunk_ms, pull_ms=20)
    assert buffer.counters.underrun / buffer.counters.played <= 0.005
    assert log[:, 1].max() <= 251  # the cap
    settled = log[log[:, 0] > 5_000]
    for stall in stalls:  # 5 s after each stall the delay is what is wanted
        later = settled[settled[:, 0] >= stall + 5_000]
        if len(later):
            assert abs(later[0, 1] - later[0, 2]) <= 20


@pytest.mark.parametrize("seed", [0, 1])
def test_a_network_that_is_bad_in_both_directions_leaves_few_gaps(seed, monkeypatch):
    monkeypatch.setattr("duplex.playout.Resampler", Counting)
    up, _ = network(300, seed)
    rng = np.random.default_rng(seed + 10)  # each answer goes out when its question has come
    arrivals = np.maximum.accumulate(up + rng.uniform(20, 80, len(up)) + 200 * (rng.random(len(up)) < 0.02))
    buffer, log, _ = drive(NETWORK, arrivals, 299)
    assert buffer.counters.underrun / buffer.counters.played <= 0.005
    assert buffer.counters.dropped / buffer.counters.played <= 0.001
    assert log[:, 1].max() <= 501 and log[log[:, 0] > 60_000, 1].mean() < 380  # not the 520 ms of two stalls at once


def test_the_delay_goes_back_after_a_stall_when_memory_is_short():
    arrivals = np.arange(0, 20_000, 80.0)
    arrivals[60:63] = arrivals[62]  # nothing for 160 ms, then all at once: less than the cap, so it is lateness
    arrivals[60:63] += 10
    _, log, _ = drive(PlayoutConfig(memory_seconds=0), arrivals, 19)
    at = {second: log[log[:, 0] >= second * 1000][0, 1] for second in (4, 10.1)}
    after = log[(log[:, 0] >= 5_000) & (log[:, 0] < 6_000), 1].max()
    assert at[4] == pytest.approx(60, abs=1) and after > 120 and abs(at[10.1] - at[4]) <= 20


class Counting:
    """A resampler that takes as many samples as the real one and makes none: an hour of control in seconds."""

    delay_samples = place = 0.0

    def pull(self, take, n, step):
        before, self.place = int(self.place), self.place + n * step
        take(int(self.place) - before)
        return np.zeros(0, np.float32)


@pytest.mark.parametrize("ppm", [200, -200])
def test_clocks_that_differ_for_an_hour_neither_drain_nor_fill_the_buffer(ppm, monkeypatch):
    monkeypatch.setattr("duplex.playout.Resampler", Counting)
    buffer, log, _ = drive(PlayoutConfig(), np.arange(0, 3_600_000, 80.0), 3_599, ppm=ppm, pull_ms=40)
    delay = log[100:, 1]
    assert np.abs(delay - 60).max() <= 40
    assert buffer.counters.dropped == buffer.counters.underrun == 0
    assert buffer.counters.played / (3_599 * SAMPLE_RATE) == pytest.approx(1 + ppm * 1e-6, abs=1e-4)


@pytest.mark.parametrize("ppm", [200, -200])
def test_the_real_resampler_takes_what_the_clocks_differ_by(ppm):
    buffer, log, _ = drive(PlayoutConfig(), np.arange(0, 60_000, 80.0), 59, ppm=ppm, pull_ms=10)
    assert np.abs(log[100:, 1] - 60).max() <= 21 and buffer.counters.underrun == buffer.counters.dropped == 0
    assert buffer.counters.cut < 0.05 * SAMPLE_RATE


@given(st.lists(st.integers(0, 20_000), min_size=1, max_size=40), st.sampled_from([0.0, 0.002, 0.1]))
def test_the_delay_that_would_have_been_enough_is_the_least_one(peaks, share):
    seen, second = Lateness(60 * SAMPLE_RATE), SAMPLE_RATE
    for number, peak in enumerate(peaks):
        seen.remember(number * second, peak)
    allowed = share * (len(peaks) - 1) * second

    def silence(delay):  # the plain sum
        return sum(max(peak - delay, 0) for peak in peaks)

    enough = seen.enough(share)
    assert silence(enough) <= allowed + 1e-3
    assert enough == 0 or silence(enough - 1) > allowed


def test_lateness_is_that_against_the_most_punctual_chunk_and_is_forgotten():
    seen = Lateness(2 * SAMPLE_RATE)
    assert [seen.seen(now, offset) for now, offset in ((0, 100), (10, 50), (20, 90))] == [0, 0, 40]
    assert seen.seen(20 + 11 * SAMPLE_RATE, 90) == 0  # nothing has been as punctual for so long
    seen.remember(0, 500)
    assert seen.enough(0) == 500
    seen.remember(3 * SAMPLE_RATE, 20)
    assert seen.enough(0) == 20


def test_what_exceeds_the_cap_is_dropped_and_reported():
    buffer = PlayoutBuffer()
    lost = [piece for n in range(10) for piece in buffer.push(tone(0.08), n)]
    assert lost and lost[0].tag == 0 and not any(piece.heard for piece in lost)
    assert sum(piece.samples for piece in lost) <= buffer.counters.dropped
    assert buffer.delay_ms <= 250 and buffer.counters.dropped > 0


@pytest.mark.parametrize("skipped", [False, True])
def test_a_source_that_paused_is_heard_again_at_once(skipped):
    arrivals = np.arange(0, 9_000, 80.0)
    if skipped:  # two seconds are never sent
        arrivals = arrivals[(arrivals < 4_000) | (arrivals >= 6_000)]
    else:  # they come all together
        arrivals[(arrivals >= 4_000) & (arrivals < 6_000)] = 6_000
    buffer, log, _ = drive(PlayoutConfig(), arrivals, 8.9)
    gap = buffer.counters.underrun / MS
    assert 1_800 <= gap <= 2_200 and log[-1, 3] / MS == gap
    assert buffer.counters.dropped / MS == pytest.approx(0 if skipped else 1_900, abs=150)
    assert log[-1, 1] < 130


def test_sound_that_is_announced_as_left_out_makes_nothing_late():
    def after(announced):
        buffer = PlayoutBuffer()
        for n in range(200):
            if n == 100 and announced:
                buffer.skip(FRAME_SAMPLES)
            if n != 100:
                buffer.push(tone(0.08), n)
            for _ in range(4):
                buffer.pull(20 * MS)
        return buffer.target_ms

    assert after(True) == pytest.approx(60) and after(False) == pytest.approx(96, abs=1)  # 80 - 4 + margin


def test_a_flush_silences_at_once_reports_what_was_not_heard_and_keeps_the_delay():
    voice, buffer = tone(4.0, 200.0, 0.3), PlayoutBuffer()
    heard = {}
    for n in range(10):
        buffer.push(voice[n * FRAME_SAMPLES : (n + 1) * FRAME_SAMPLES], n)
        for piece in buffer.pull(FRAME_SAMPLES).pieces:
            heard[piece.tag] = heard.get(piece.tag, 0) + piece.samples
    fill = buffer.fill_ms
    lost = buffer.flush()
    assert {piece.tag for piece in lost} == {9} and sum(heard.values()) + sum(p.samples for p in lost) == 10 * FRAME_SAMPLES
    assert buffer.fill_ms == fill and buffer.counters.flushed == lost[0].samples
    rest = buffer.pull(FRAME_SAMPLES).pcm
    assert np.abs(rest[6 * MS :]).max() < 1e-6  # 5 ms of fading
    assert buffer.counters.underruns == 1  # nothing was pushed any more
    buffer.push(voice[:FRAME_SAMPLES], 10)
    assert [piece.tag for piece in buffer.pull(FRAME_SAMPLES).pieces] == [10]


def test_no_click_where_sound_ends_or_begins():
    buffer, pcm = PlayoutBuffer(), tone(0.4, 200.0, 0.5)
    buffer.push(pcm)
    sound = np.concatenate([buffer.pull(480).pcm for _ in range(40)] + [(buffer.push(pcm), buffer.pull(2400).pcm)[1]])
    assert np.abs(np.diff(sound)).max() < 1.3 * np.abs(np.diff(pcm)).max()


steps = st.lists(st.one_of(st.tuples(st.just("push"), st.integers(0, 4000)), st.tuples(st.just("pull"), st.integers(0, 3000)),
                           st.just(("flush", 0)), st.just(("restart", 0))), max_size=60)


@settings(max_examples=60, deadline=None)
@given(steps, st.sampled_from([0.0, 60.0]), st.floats(0, 200))
def test_whatever_happens_every_sample_is_heard_or_lost_once_and_the_buffer_is_bounded(steps, memory, wait):
    buffer = PlayoutBuffer(PlayoutConfig(memory_seconds=memory, wait_ms=wait))
    pushed, out, tag = 0, {}, 0
    for what, size in steps:
        if what == "push":
            pieces = buffer.push(np.full(size, 0.1, np.float32), tag)
            out[tag] = size
            pushed, tag = pushed + size, tag + 1
        elif what == "pull":
            pulled = buffer.pull(size)
            assert pulled.pcm.shape == (size,) and pulled.pcm.dtype == np.float32 and np.isfinite(pulled.pcm).all()
            assert abs(len(pulled.source) - size) <= 0.006 * size + TAPS
            pieces = pulled.pieces
        elif what == "flush":
            pieces = buffer.flush()
        else:
            buffer.restart()
            pieces, out = (), {}
        for piece in pieces:
            assert 0 < piece.samples
            if piece.tag in out:
                out[piece.tag] -= piece.samples
        assert all(left >= 0 for left in out.values())
        assert buffer.fill_ms <= 250 + 4000 / MS
    counters = buffer.counters
    assert counters.played == sum(size for what, size in steps if what == "pull")


@pytest.mark.parametrize("step", [1.0, 0.995, 1.005, 1.0002])
def test_resampling_gives_the_tone_at_its_new_pitch(step):
    pcm, resampler = tone(2.0, 1_000.0, 0.5), Resampler()
    queue = [pcm]

    def take(n):
        taken, queue[0] = queue[0][:n], queue[0][n:]
        return taken

    out = np.concatenate([resampler.pull(take, n, step) for n in (1, 7, 480, 1920, 0, 30_000)])
    expected = 0.5 * np.sin(2 * np.pi * 1_000 * step * np.arange(len(out)) / SAMPLE_RATE)
    assert np.abs(out - expected)[:-1].max() < 2e-3
    if step == 1.0:
        assert np.array_equal(out, pcm[: len(out)])


def test_a_cut_removes_whole_periods_and_leaves_noise_alone():
    voiced = tone(CUT_SAMPLES / SAMPLE_RATE, 200.0, 0.3)
    shorter = cut(voiced)
    removed = CUT_SAMPLES - len(shorter)
    assert removed % (SAMPLE_RATE // 200) in (0, 1, SAMPLE_RATE // 200 - 1) and MIN_LAG <= removed <= MAX_LAG
    assert np.abs(np.diff(shorter)).max() < 1.1 * np.abs(np.diff(voiced)).max()
    assert shorter[0] == voiced[0] and np.array_equal(shorter[-100:], voiced[-100:])
    assert len(cut(np.zeros(CUT_SAMPLES, np.float32))) == CUT_SAMPLES - MAX_LAG
    noise = np.random.default_rng(0).normal(0, 0.1, CUT_SAMPLES).astype(np.float32)
    assert cut(noise) is None


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match="cap_ms"):
        PlayoutConfig(wait_ms=240)
    with pytest.raises(ConfigError, match="max_correction"):
        PlayoutConfig(max_correction=0.2)


def frame(value):
    return np.full(1, value, np.float32)


def test_a_backlog_gives_up_silence_first_then_the_oldest():
    backlog = FrameBacklog()
    assert [backlog.push(frame(n)) for n in range(5)] == [0] * 5 and len(backlog) == 5
    assert backlog.push(frame(5)) == 1 and backlog.dropped_oldest == 1
    assert backlog.push(frame(6), silent=True) == 1 and backlog.dropped_silent == 1
    assert [float(backlog.pop()[0]) for _ in range(5)] == [1, 2, 3, 4, 5] and backlog.pop() is None


def test_what_a_network_held_up_is_kept_up_to_five_frames():
    backlog = FrameBacklog()
    assert backlog.first is None
    assert [backlog.push(frame(n), silent=True, burst=True) for n in range(7)] == [0] * 5 + [1, 1]
    assert backlog.dropped_silent == 2 and float(backlog.first[0]) == 2
    assert backlog.push(frame(7), silent=True) == 1 and len(backlog) == 5  # it has lasted: silence goes


def test_two_frames_wait_whatever_they_hold_and_a_lasting_backlog_is_overdue():
    backlog = FrameBacklog(BacklogConfig(give_up_seconds=0.4))
    assert backlog.push(frame(0), True) == backlog.push(frame(1), True) == 0 and not backlog.overdue
    for n in range(6):
        assert not backlog.overdue
        backlog.push(frame(n))
    assert backlog.overdue
    while backlog.pop() is not None:
        pass
    backlog.push(frame(0))
    assert not backlog.overdue


@given(st.lists(st.sampled_from(["sound", "silence", "burst", "pop"]), max_size=100))
def test_a_backlog_is_bounded_and_keeps_its_order(steps):
    backlog, pushed, got = FrameBacklog(), 0, []
    for step in steps:
        if step == "pop":
            value = backlog.pop()
            got += [] if value is None else [float(value[0])]
        else:
            backlog.push(frame(pushed), step != "sound", step == "burst")
            pushed += 1
        assert len(backlog) <= 5
    assert got == sorted(got)
    assert pushed == len(got) + len(backlog) + backlog.dropped_silent + backlog.dropped_oldest
