"""A plan as sound: clips mixed onto two tracks, then what a room and a microphone do to the user's.

Gain, noise, echo and reverberation follow the user-stream augmentation of Moshi (Defossez et al. 2024, section 4.4).
"""

from __future__ import annotations

import numpy as np

from duplex.units import SAMPLE_RATE, seconds_to_samples
from train.corpus.bank import Bank
from train.corpus.plan import Dialogue, Plan

FADE = 960  # samples: 40 ms
EDGE = 240  # samples: 10 ms
ECHO_TAIL = 0.06  # seconds of reverberation on an echo: a loudspeaker in a small room


def render(bank: Bank, plan: Plan, seconds: float) -> Dialogue:
    """Mix a plan into two channels of ``seconds``."""
    tracks = {name: np.zeros(seconds_to_samples(seconds), np.float32) for name in ("system", "user")}
    for placement in plan.placements:
        samples = bank.speech(placement.clip).samples * np.float32(placement.gain)
        if placement.stop is not None:
            samples = faded(samples, placement.stop)
        if placement.hole is not None:
            samples = with_silence(samples, *placement.hole)
        track, at = tracks[placement.speaker], seconds_to_samples(placement.start)
        if at < len(track):
            part = samples[: len(track) - at]
            track[at : at + len(part)] += part
    user = channel(plan, tracks["user"], tracks["system"])
    return Dialogue(tracks["system"], user, plan.system_words, plan.user_words, plan.events, plan.texts)


def channel(plan: Plan, user: np.ndarray, system: np.ndarray) -> np.ndarray:
    """What the user's microphone hears, float32 [S] within ±1. All randomness comes from the plan's noise seed."""
    rng = np.random.default_rng(plan.noise_seed)
    if plan.reverb:
        user = reverberated(user, plan.reverb, rng)
    user = user * np.float32(plan.gain)
    if plan.snr_noise is not None:
        loud = user[np.abs(user) > 1e-3]
        level = float(np.sqrt(np.mean(loud**2))) if len(loud) else 0.02
        user = user + pink(rng, len(user)) * np.float32(level * 10 ** (plan.snr_noise / 20))
    if plan.echo is not None:
        scale, delay = plan.echo
        late = np.zeros_like(system)
        shift = seconds_to_samples(delay)
        late[shift:] = system[: len(system) - shift]
        user = user + np.float32(scale) * reverberated(late, ECHO_TAIL, rng)
    if plan.noise:
        user = user + rng.standard_normal(len(user), np.float32) * np.float32(plan.noise)
    return np.clip(user, -1, 1)


def reverberated(samples: np.ndarray, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Convolved with noise that falls by 60 dB in ``seconds`` behind a direct path at sample 0; nothing is moved in time."""
    length = seconds_to_samples(seconds)
    tail = rng.standard_normal(length, np.float32) * np.exp(-6.908 * np.arange(length, dtype=np.float32) / length)
    tail *= np.float32(0.4) / np.sqrt(np.sum(tail**2))
    tail[0] = 1.0
    return convolved(samples, tail)


def convolved(samples: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """The first S samples of a convolution, block by block (overlap-add): one transform of a whole dialogue is slower."""
    size = 1 << (4 * len(kernel)).bit_length()
    step = size - len(kernel) + 1
    spectrum = np.fft.rfft(kernel, size)
    out = np.zeros(len(samples) + size, np.float32)
    for at in range(0, len(samples), step):
        block = samples[at : at + step]
        if block.any():
            out[at : at + size] += np.fft.irfft(np.fft.rfft(block, size) * spectrum, size).astype(np.float32)
    return out[: len(samples)]


def pink(rng: np.random.Generator, length: int) -> np.ndarray:
    """Noise of unit power whose spectrum falls by 3 dB an octave, like most rooms (a loop of some ten seconds)."""
    period = 1 << 18
    spectrum = rng.standard_normal((2, period // 2 + 1), np.float32)
    spectrum /= np.sqrt(np.maximum(np.arange(period // 2 + 1), 50 * period // SAMPLE_RATE)).astype(np.float32)
    loop = np.fft.irfft(spectrum[0] + 1j * spectrum[1], period).astype(np.float32)
    loop /= np.sqrt(np.mean(loop**2))
    return np.resize(loop, length)


def faded(samples: np.ndarray, stop: float) -> np.ndarray:
    """The first ``stop`` seconds, with a fade of 40 ms at the end."""
    samples = samples[: seconds_to_samples(stop)].copy()
    fade = min(len(samples), FADE)
    samples[len(samples) - fade :] *= np.linspace(1, 0, fade, dtype=np.float32)
    return samples


def with_silence(samples: np.ndarray, at: float, length: float) -> np.ndarray:
    """A silence of ``length`` seconds opened at ``at`` seconds, with edges of 10 ms."""
    cut = seconds_to_samples(at)
    left, right = samples[:cut].copy(), samples[cut:].copy()
    edge = min(EDGE, len(left), len(right))
    left[len(left) - edge :] *= np.linspace(1, 0, edge, dtype=np.float32)
    right[:edge] *= np.linspace(0, 1, edge, dtype=np.float32)
    return np.concatenate([left, np.zeros(seconds_to_samples(length), np.float32), right])
