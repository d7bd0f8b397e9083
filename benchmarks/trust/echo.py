"""Echo: the system's own voice through an open loudspeaker and a room, while nobody else speaks."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from benchmarks.trust import Options, Promise
from benchmarks.trust.load import voice
from duplex.playout import PlayoutBuffer
from duplex.policy import FORCED, InterruptionPolicy, PolicyConfig, Steering
from duplex.turns import EventKind, TurnTracker
from duplex.units import FRAME_SAMPLES
from duplex.vad import EnergyVad
from infer.conditions import TICK, Conditions, EchoPath, Loudspeaker

AREA = "echo"
SHARE = 0.02
"""Of its turns, at most so many may be disturbed."""
ROOMS, FEW_ROOMS = 22, 2
"""A room hears seven turns. 0 of 154 bounds the share by 1.9 %; with 0 of 56, of eight rooms, it could be 5.2 %."""
_LIMIT = f"≤ {100 * SHARE:g} % of its turns"
_OPEN = Conditions(drift_ppm=100.0, echo_db=-10.0, echo_delay_ms=120.0)


def run(options: Options) -> Iterator[Promise]:
    """Recorded turns through playout, loudspeaker, room, canceller, detector and the policy that is quickest to yield."""
    try:
        import livekit  # noqa: F401
    except ImportError:
        yield Promise(AREA, "the system does not interrupt itself", _LIMIT, "", None, "pip install -e '.[live]'")
        return
    speech = voice().astype(np.float32) / 32768
    rooms = FEW_ROOMS if options.short else ROOMS
    found = np.array([heard(speech, options.seed + room, cancel=True) for room in range(1, rooms + 1)]).sum(0)
    yields, barge_ins, turns = map(int, found)
    how = f"{turns} turns of {rooms} rooms (reverberation 0.18 to 0.35 s by frequency), echo at {_OPEN.echo_db:g} dB after " \
          f"{_OPEN.echo_delay_ms:g} ms, clocks {_OPEN.drift_ppm:g} ppm apart, noise at -65 dB, policy `{FORCED}`"
    yield judged("the system does not interrupt itself: false yields", yields, turns, how, options.short)
    yield judged("its own echo is taken for a user's barge-in", barge_ins, turns, how, options.short)
    frames = speech[120:220]
    without, _, few = heard(frames, options.seed + 1, cancel=False)
    yield Promise(AREA, "the measurement can fail: without the canceller it does interrupt itself", "> 2 %",
                  f"{without} times in {few} turns", without > SHARE * few, "the same without echo cancellation, 8 s")


def judged(promise: str, times: int, turns: int, how: str, short: bool) -> Promise:
    """A promise about the share of the turns in which something happened.

    It is broken where the share is above the limit, and kept where even the share's upper bound is not. Between the two, so few
    turns cannot tell; the short form, which never has enough of them, goes by the share alone and says so.
    """
    share, bound = times / turns, upper_bound(times, turns)
    met = False if share > SHARE else True if short or bound <= SHARE else None
    measured = f"{100 * share:.1f} % ({times} of {turns}), at most {100 * bound:.1f} %"
    how += "; at most: upper bound of 95 % (exact binomial), as if turns were independent, though all rooms hear one recording"
    if short:
        how += "; judged by the share alone"
    if met is None:
        return Promise(AREA, promise, _LIMIT, "", None, f"too few turns to tell: {measured}; {how}")
    return Promise(AREA, promise, _LIMIT, measured, met, how)


def upper_bound(times: int, trials: int, doubt: float = 0.05) -> float:
    """The greatest chance at which something happens at most so often in independent trials with a probability of `doubt`.

    One side of Clopper and Pearson's interval (1934); near 3 / `trials` when it never happened.
    """
    if times >= trials:
        return 1.0
    low, high = times / trials, 1.0
    for _ in range(60):
        chance = (low + high) / 2
        seen = sum(math.comb(trials, n) * chance**n * (1 - chance) ** (trials - n) for n in range(times + 1))
        low, high = (chance, high) if seen > doubt else (low, chance)
    return high


def heard(speech: np.ndarray, seed: int, cancel: bool) -> tuple[int, int, int]:
    """(times that the policy began to act, barge-ins seen, turns) when this speech, float32 [T, 1920], is the system's."""
    from infer.device.echo import EchoCanceller

    playout, speaker, path, canceller = PlayoutBuffer(), Loudspeaker(_OPEN.drift_ppm), EchoPath(_OPEN, seed), EchoCanceller()
    policy, tracker, ears, mouth = InterruptionPolicy(PolicyConfig(kind=FORCED)), TurnTracker(), EnergyVad(), EnergyVad()
    noise, acts, acting, kinds = np.random.default_rng(seed), 0, False, []

    def pull(samples: int) -> np.ndarray:
        pulled = playout.pull(samples)
        canceller.far(pulled.source)
        return pulled.pcm

    for said in speech:
        playout.push(said)
        microphone = np.concatenate([path.push(speaker.tick(pull)) for _ in range(FRAME_SAMPLES // TICK)])
        microphone += noise.normal(0, 10 ** (-65 / 20), FRAME_SAMPLES).astype(np.float32)
        sound = canceller.near(microphone) if cancel else microphone
        level = int(10 * np.log10(np.mean(sound**2) + 1e-12))
        acted = policy.hear(sound, (level, level // 2, level // 3)) != Steering()
        acts, acting = acts + (acted and not acting), acted
        speaks = mouth.push(said)
        policy.say(speaks)
        kinds += [event.kind for event in tracker.push(speaks, ears.push(sound))]
    kinds += [event.kind for event in tracker.flush()]
    return acts, kinds.count(EventKind.BARGE_IN), kinds.count(EventKind.SYSTEM_START)
