"""Echo: the system's own voice through an open loudspeaker and a room, while nobody else speaks."""

from __future__ import annotations

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
_OPEN = Conditions(drift_ppm=100.0, echo_db=-10.0, echo_delay_ms=120.0)


def run(options: Options) -> Iterator[Promise]:
    """Recorded turns through playout, loudspeaker, room, canceller, detector and the policy that is quickest to yield."""
    try:
        import livekit  # noqa: F401
    except ImportError:
        yield Promise(AREA, "the system does not interrupt itself", "≤ 2 % of its turns", "", None, "pip install -e '.[live]'")
        return
    speech = voice().astype(np.float32) / 32768
    rooms = 2 if options.short else 8
    found = np.array([heard(speech, options.seed + room, cancel=True) for room in range(1, rooms + 1)]).sum(0)
    yields, barge_ins, turns = map(int, found)
    how = f"{turns} turns of {rooms} rooms (reverberation 0.18 to 0.35 s by frequency), echo at {_OPEN.echo_db:g} dB after " \
          f"{_OPEN.echo_delay_ms:g} ms, clocks {_OPEN.drift_ppm:g} ppm apart, noise at -65 dB, policy `{FORCED}`"
    yield Promise(AREA, "the system does not interrupt itself: false yields", "≤ 2 % of its turns",
                  f"{100 * yields / turns:.1f} % ({yields} of {turns})", yields <= 0.02 * turns, how)
    yield Promise(AREA, "its own echo is taken for a user's barge-in", "≤ 2 % of its turns",
                  f"{100 * barge_ins / turns:.1f} % ({barge_ins} of {turns})", barge_ins <= 0.02 * turns, how)
    frames = speech[120:220]
    without, _, few = heard(frames, options.seed + 1, cancel=False)
    yield Promise(AREA, "the measurement can fail: without the canceller it does interrupt itself", "> 2 %",
                  f"{without} times in {few} turns", without > 0.02 * few, "the same without echo cancellation, 8 s")


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
