"""Rates, times and levels of everything that happens between and around the turns.

Sources: [S] Stivers et al. 2009 (PNAS 106:10587): English answers come 0.24 s after the question on average, many before
its end; [H] Heldner & Edlund 2010 (J. Phonetics 38:555): gaps and overlaps form one bell-shaped distribution around a
fifth of a second, roughly two transfers in five or fewer overlap; [M] Defossez et al. 2024 (Moshi, section 4.4): what is
done to the user's channel in training.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Phenomena:
    """The [phenomena] table of a recipe. Shares are probabilities; times are seconds; (low, high) are uniform."""

    response_gap: float = 0.36
    """Mean time from the end of a user turn to the answer; sigma is `response_spread`; kept within 0.2 to 0.9 s.

    The answer then begins on the frame in which that time falls, which is 40 ms earlier on average."""
    response_spread: float = 0.10
    floor_offset: float = 0.24
    """Mean time from the end of the system's turn to a user turn that follows at once [S]; negative times overlap."""
    floor_spread: float = 0.40
    """Sigma of it: about a quarter of the transfers overlap [H]. Kept within -0.6 to 1.5 s."""
    at_once: float = 0.4
    """Share of new topics that follow at once; the others come after 0.5 to 2.2 s, or after a long silence."""
    barge_in: float = 0.40
    """Share of interruptible answers that the user breaks into."""
    stop_share: float = 0.4
    """Share of barge-ins that say stop, thanks or goodbye."""
    correction_share: float = 0.2
    """Share of barge-ins that correct the request, where its scenario has a correction; the others bring a new request."""
    yield_after: tuple[float, float] = (0.32, 0.56)
    """The system falls silent this long after a barge-in begins."""
    backchannel: float = 0.25
    """Share of interruptible answers with a backchannel, in which the system goes on."""
    system_backchannel: float = 0.6
    """Chance of a backchannel of the system at each clause of a long user turn."""
    pause: float = 0.12
    """Share of user turns of four words or more with a silence inside."""
    pause_seconds: tuple[float, float] = (0.5, 1.1)
    hesitation: float = 0.06
    """Share of such turns with a pause that has a filler in it."""
    long_silence: float = 0.12
    """Share of gaps between topics in which nobody speaks for long."""
    silence_seconds: tuple[float, float] = (3.0, 8.0)
    aside: float = 0.04
    """Share of gaps between topics in which the user says something to somebody else."""
    background_speech: float = 0.3
    """Utterances per minute of somebody far away."""
    quiet_noise: float = 0.5
    """Share of dialogues with a faint hiss (-75 to -42 dB) in the user's channel."""
    gain: float = 0.5
    """Share of dialogues whose user channel is turned up or down by `gain_db` [M]; the others vary within -14 to 4 dB."""
    gain_db: tuple[float, float] = (-24.0, 15.0)
    noise: float = 0.3
    """Share of dialogues with noise in the user's channel, `noise_db` relative to the user's speech [M]."""
    noise_db: tuple[float, float] = (-30.0, 6.0)
    echo: float = 0.3
    """Share of dialogues in which the user's microphone hears the system [M]."""
    echo_scale: tuple[float, float] = (0.0, 0.2)
    echo_delay: tuple[float, float] = (0.1, 0.5)
    reverb: float = 0.3
    """Share of dialogues with reverberation in the user's channel [M]."""
    reverb_seconds: tuple[float, float] = (0.15, 0.6)
    """Time in which the reverberation falls by 60 dB."""
