"""Echo cancellation by WebRTC's audio processing (extra `live`), fed in whatever pieces the devices give.

The far end is what was really played, in the clock of the microphone (`duplex.playout.Pulled.source`), so that a
loudspeaker whose clock drifts does not make the echo wander through the canceller's window.
"""

from __future__ import annotations

import numpy as np

from duplex.errors import InputError
from duplex.units import SAMPLE_RATE

BLOCK = SAMPLE_RATE // 100
"""The canceller works on 10 ms."""
_FAR_LIMIT = SAMPLE_RATE  # a second of far end that no microphone block has asked for is one too old to matter


class EchoCanceller:
    """Takes the far end by `far` and gives the microphone without it by `near`. InputError when the extra is missing."""

    def __init__(self, delay_ms: int = 0, noise_suppression: bool = False) -> None:
        try:
            from livekit import rtc
        except ImportError:
            raise InputError("echo cancellation needs the package livekit; pip install -e '.[live]', or use "
                             "--echo-cancel off with headphones") from None
        self._frame = rtc.AudioFrame
        self._apm = rtc.AudioProcessingModule(echo_cancellation=True, noise_suppression=noise_suppression,
                                              high_pass_filter=True)
        self._delay_ms = delay_ms
        self._far = np.zeros(0, np.float32)
        self.far_missing = 0
        """Samples of far end that had to be taken as silence."""

    def far(self, pcm: np.ndarray) -> None:
        """Takes what was played, float32 [S] at 24 kHz."""
        self._far = np.concatenate([self._far, pcm])[-_FAR_LIMIT:]

    def near(self, pcm: np.ndarray) -> np.ndarray:
        """The microphone, float32 [whole blocks of 240] at 24 kHz, without what came from the loudspeaker."""
        if len(pcm) % BLOCK:
            raise InputError(f"the canceller takes whole blocks of {BLOCK} samples, not {len(pcm)}")
        far, self._far = self._far[: len(pcm)], self._far[len(pcm) :]
        self.far_missing += len(pcm) - len(far)
        far = np.pad(far, (0, len(pcm) - len(far)))
        cleaned = []
        for start in range(0, len(pcm), BLOCK):
            self._apm.process_reverse_stream(self._block(far[start : start + BLOCK]))
            self._apm.set_stream_delay_ms(self._delay_ms)
            block = self._block(pcm[start : start + BLOCK])
            self._apm.process_stream(block)
            cleaned.append(np.frombuffer(block.data, np.int16).astype(np.float32) / 32_768)
        return np.concatenate(cleaned) if cleaned else pcm

    def _block(self, pcm: np.ndarray):
        samples = (np.clip(pcm, -1, 1) * 32_767).astype(np.int16)
        return self._frame(samples.tobytes(), SAMPLE_RATE, 1, BLOCK)


HEADPHONES = ("headphone", "headset", "airpod", "earphone", "earbud", "kopfh")


def speakers_are_open(output_name: str) -> bool:
    """Could the microphone hear this output? Unless its name says that it sits on ears, yes."""
    return not any(word in output_name.casefold() for word in HEADPHONES)
