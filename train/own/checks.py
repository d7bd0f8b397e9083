"""What is wrong with a recording, told from its two tracks and its word times.

`measure` takes the figures, `faults` judges them by `Limits`. Both are pure. A fault spoils training and is counted;
a note is worth knowing and is not.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from duplex.units import SAMPLE_RATE
from train.own.crosstalk import crosstalk_db
from train.own.recording import Recording
from train.own.speech import levels, noise_level, speech_level, speech_mask, word_mask
from train.own.timing import Timing, timing

SIDES = ("system", "user")


@dataclass(frozen=True)
class Limits:
    """From where a figure is a fault."""

    silent_db: float = -55.0
    """A channel whose speech level lies below this holds no speech."""
    quiet_db: float = -48.0
    """Speech below this is too quiet."""
    nothing_db: float = -65.0
    """Words without any sound as loud as this belong to something else."""
    clipped_share: float = 1e-4
    """Share of samples in flat peaks."""
    dc: float = 0.01
    """Mean of the samples."""
    crosstalk_db: float = -36.0
    """Level of one speaker in the other's channel, relative to their own."""
    same: float = 0.98
    """Correlation of the channels at which they are one recording."""
    system_snr_db: float = 15.0
    """Speech level above noise of the system's channel: the model will sound like it. The user's may be as noisy as life."""
    overlap_share: float = 0.30
    """Time in which both speak, of the time in which anybody does; Fisher has 0.07."""
    own_share: float = 0.5
    """Words whose time lies less than this in their own channel's speech, and ..."""
    swap_gain: float = 0.3
    """... this much more in the other's, mean that the channels are swapped."""
    beyond_chance: float = 0.35
    """Words that meet speech this little better than words laid anywhere (0) to perfectly (1) belong to something else."""
    shift_seconds: float = 0.15
    drift_seconds: float = 0.2
    """Change of the words' shift over the recording."""
    outside_share: float = 0.05
    """Share of the words (and two at least) that lie outside speech once shift and drift are mended."""
    unlabelled_share: float = 0.4
    """Share of the system's speech that has no words."""
    bandwidth_hz: float = 5_000.0
    """A note says when the system's channel holds nothing above this."""


@dataclass(frozen=True)
class Measures:
    """Figures of one recording. Pairs are (system, user); None where words are missing to tell."""

    seconds: float
    speech_db: tuple[float, float]
    noise_db: tuple[float, float]
    speech_share: tuple[float, float]
    clipped_share: tuple[float, float]
    dc: tuple[float, float]
    correlation: float
    crosstalk_db: tuple[float, float]
    """Level of the system in the user's channel, of the user in the system's; -inf where none is found."""
    overlap_share: float
    words: tuple[int, int]
    own_speech: tuple[float | None, float | None]
    """Share of the words' time in which their own channel has speech."""
    other_speech: tuple[float | None, float | None]
    timing: Timing
    outside: tuple[tuple[str, float], ...]
    """Words outside speech (text, start)."""
    unlabelled_share: float | None
    """Share of the system's speech without words."""
    bandwidth_hz: float
    """Frequency of the system's channel below which 99.9 % of its power lies."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, numbers rounded."""
        return _plain(asdict(self))


@dataclass(frozen=True)
class Fault:
    """One finding: its kind, and what was measured."""

    kind: str
    detail: str
    note: bool = False


def measure(recording: Recording) -> Measures:
    """All figures of a recording. Swapped words are compared with the channels that they fit."""
    pcm = recording.pcm
    centred = pcm - pcm.mean(1, keepdims=True, dtype=np.float64).astype(np.float32)
    level = [levels(track) for track in centred]
    masks = [speech_mask(track) for track in centred]
    sides = (recording.system_words, recording.user_words)
    length = len(masks[0])
    own, other = _inside(sides, masks)
    fitting, loudness = (masks[::-1], level[::-1]) if swapped(own, other) else (masks, level)
    heard = tuple(words if clear(x) else () for words, x in zip(sides, loudness, strict=True))
    fit = timing(heard, fitting)
    outside = [(w.text, w.start) for words, mask in zip(heard, fitting, strict=True)
               for w, share in zip(words, fit.coverage(words, mask), strict=True) if share < 0.3]
    near = word_mask(fit.corrected(sides[0]), length, 0.3)
    system_speech = int(fitting[0].sum())
    both, any_ = int((masks[0] & masks[1]).sum()), int((masks[0] | masks[1]).sum())
    return Measures(
        seconds=recording.seconds,
        speech_db=_pair(speech_level(x) for x in level), noise_db=_pair(noise_level(x) for x in level),
        speech_share=_pair(mask.mean() for mask in masks), clipped_share=_pair(clipped_share(track) for track in pcm),
        dc=_pair(track.mean(dtype=np.float64) for track in pcm), correlation=_correlation(centred),
        crosstalk_db=crosstalk_db(centred, masks, level), overlap_share=both / any_ if any_ else 0.0,
        words=(len(sides[0]), len(sides[1])), own_speech=own, other_speech=other, timing=fit, outside=tuple(outside),
        unlabelled_share=float((fitting[0] & ~near).sum() / system_speech) if sides[0] and system_speech else None,
        bandwidth_hz=bandwidth(centred[0]))


def faults(m: Measures, limits: Limits = Limits()) -> list[Fault]:  # noqa: B008 - frozen
    """What is wrong, worst first. Figures that another fault has spoilt are not judged."""
    found = []
    silent = [level < limits.silent_db for level in m.speech_db]
    same = abs(m.correlation) > limits.same
    swap = swapped(m.own_speech, m.other_speech, limits)
    if same:
        found.append(Fault("identical channels", f"correlation {m.correlation:.3f}: one recording in both channels"))
    if swap:
        found.append(Fault("swapped channels", f"{_percent(m.other_speech[swap - 1])} of the {SIDES[swap - 1]}'s words lie in "
                           f"speech of the other channel, {_percent(m.own_speech[swap - 1])} in its own"))
    for side, name in enumerate(SIDES):
        if silent[side]:
            found.append(Fault("silent channel", f"{name}: speech level {m.speech_db[side]:.0f} dB"))
        elif m.speech_db[side] < limits.quiet_db:
            found.append(Fault("low level", f"{name}: speech level {m.speech_db[side]:.0f} dB"))
        if m.clipped_share[side] > limits.clipped_share:
            found.append(Fault("clipping", f"{name}: {_percent(m.clipped_share[side], 2)} of the samples in flat peaks"))
        if abs(m.dc[side]) > limits.dc:
            found.append(Fault("offset from zero", f"{name}: mean sample {m.dc[side]:+.3f}"))
        leak = m.crosstalk_db[side]
        if leak > limits.crosstalk_db and not same and not any(silent):
            found.append(Fault("leaking channels", f"the {name} is heard in the other channel at {leak:.0f} dB"))
    snr = m.speech_db[0] - m.noise_db[0]
    if snr < limits.system_snr_db and not silent[0] and m.speech_share[0] < 0.85:
        found.append(Fault("noisy system", f"its speech is {snr:.0f} dB above its noise"))
    if m.overlap_share > limits.overlap_share and not same and not any(f.kind == "leaking channels" for f in found):
        found.append(Fault("overlap", f"both speak in {_percent(m.overlap_share)} of the speech"))
    found += _word_faults(m, limits, silent)
    if m.bandwidth_hz < limits.bandwidth_hz and not silent[0]:
        found.append(Fault("narrow band", f"the system's channel ends at {m.bandwidth_hz:.0f} Hz", note=True))
    return found


def _word_faults(m: Measures, limits: Limits, silent: list[bool]) -> list[Fault]:
    found = []
    total = sum(m.words)
    if not total:
        return found
    if m.timing.reliable and abs(m.timing.drift) > limits.drift_seconds:
        found.append(Fault("drifted timings", f"the words' shift changes by {m.timing.drift:+.2f} s over {m.seconds:.0f} s"))
    elif m.timing.reliable and abs(m.timing.shift) > limits.shift_seconds:
        found.append(Fault("shifted timings", f"the words are {abs(m.timing.shift):.2f} s "
                           f"{'early' if m.timing.shift < 0 else 'late'}"))
    if not any(silent) and len(m.outside) >= 2 and len(m.outside) > limits.outside_share * total:
        text, start = m.outside[0]
        found.append(Fault("words outside speech", f"{len(m.outside)} of {total}, the first is {text!r} at {start:.2f} s"))
    if m.unlabelled_share is not None and m.unlabelled_share > limits.unlabelled_share and not silent[0]:
        found.append(Fault("speech without words", f"{_percent(m.unlabelled_share)} of the system's speech"))
    if not m.words[0] and m.speech_share[0] > 0.02 and not silent[0]:
        found.append(Fault("speech without words", "the system speaks and has no words"))
    return found


def refusal(recording: Recording, limits: Limits = Limits()) -> str | None:  # noqa: B008 - frozen
    """Why a recording must not be learnt from at all (swapped, silent or mislabelled), or None."""
    centred = [track - track.mean() for track in recording.pcm]
    masks, level = [speech_mask(track) for track in centred], [levels(track) for track in centred]
    sides = (recording.system_words, recording.user_words)
    own, other = _inside(sides, masks)
    if swapped(own, other, limits):
        return "the channels are swapped (the words lie in the other one's speech); swap them or give --system right"
    for side, name in enumerate(SIDES):
        if sides[side] and speech_level(level[side]) < limits.nothing_db:
            return f"the {name}'s channel is silent but has words; check which recording the words belong to"
        if not clear(level[side], limits):
            continue
        # Words laid anywhere meet speech as often as there is any.
        chance = float(masks[side].mean())
        if len(sides[side]) >= 3 and own[side] < max(limits.own_share, chance + limits.beyond_chance * (1 - chance)):
            share = _percent(1 - own[side])
            return f"mislabelled: {share} of the {name}'s words lies outside speech; check which recording they belong to"
    return None


def clear(level: np.ndarray, limits: Limits = Limits()) -> bool:  # noqa: B008 - frozen
    """Can it be told where there is speech? A user may be drowned in noise on purpose; words are no fault then."""
    loud = speech_level(level)
    return loud > limits.quiet_db and loud - noise_level(level) > limits.system_snr_db


def swapped(own: tuple, other: tuple, limits: Limits = Limits()) -> int:  # noqa: B008 - frozen
    """1 or 2, the side (plus one) whose words tell that the channels are swapped; 0 when none does."""
    hits = [o is not None and o < limits.own_share and x > o + limits.swap_gain for o, x in zip(own, other, strict=True)]
    known = [o is not None for o in own]
    return hits.index(True) + 1 if any(hits) and hits == known else 0


def clipped_share(track: np.ndarray) -> float:
    """Share of samples that lie in runs of four or more within a thousandth of the channel's peak."""
    peak = float(np.abs(track).max(initial=0))
    if peak < 0.05:
        return 0.0
    flat = np.abs(track) >= 0.999 * peak
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat.astype(np.int8), [0]])))
    lengths = edges[1::2] - edges[::2]
    return float(lengths[lengths >= 4].sum() / len(track))


def bandwidth(track: np.ndarray) -> float:
    """Frequency in Hz below which 99.9 % of the power lies, of the loudest 20 s at most."""
    track = track[: len(track) // 1024 * 1024].reshape(-1, 1024)
    if not len(track):
        return SAMPLE_RATE / 2
    loudest = np.argsort(-np.square(track).sum(1), kind="stable")[: 20 * SAMPLE_RATE // 1024]
    power = np.square(np.abs(np.fft.rfft(track[loudest] * np.hanning(1024), axis=1))).sum(0)
    share = np.cumsum(power) / max(power.sum(), 1e-20)
    return float(np.searchsorted(share, 0.999) * SAMPLE_RATE / 1024)


def _inside(sides: tuple, masks: list[np.ndarray]) -> tuple[tuple, tuple]:
    """Share of each speaker's word time in the speech of their own channel, and of the other's; None without words."""
    spoken = [word_mask(words, len(masks[0])) for words in sides]
    shares = [[float(masks[m][s].mean()) if s.any() else None for m in (side, 1 - side)] for side, s in enumerate(spoken)]
    return tuple(pair[0] for pair in shares), tuple(pair[1] for pair in shares)


def _correlation(pcm: np.ndarray) -> float:
    a, b = pcm.astype(np.float64)
    norm = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / norm) if norm > 1e-9 else 0.0


def _pair(values: Any) -> tuple[float, float]:
    first, second = values
    return float(first), float(second)


def _percent(share: float, digits: int = 0) -> str:
    return f"{100 * share:.{digits}f} %"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return round(value, 4) if np.isfinite(value) else None
    return value


