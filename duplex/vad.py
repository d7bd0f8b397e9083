"""Is there speech in this frame? Level with hysteresis above a tracked noise floor; causal, frame by frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from duplex.units import FRAME_SAMPLES


@dataclass(frozen=True)
class VadConfig:
    """Levels of the energy detector, in dB relative to full scale (RMS over one frame)."""

    on_db: float = -42.0
    """A silent side becomes active at this level ..."""
    off_db: float = -50.0
    """... and an active one silent below this: between the two it stays what it was."""
    noise_margin_db: float = 9.0
    """Both levels are raised where needed to stay this far (and half as far) above the noise floor."""
    floor_rise_db: float = 0.2
    """The noise floor follows any dip at once and otherwise rises by this per frame, 2.5 dB a second."""
    start_floor_db: float = -60.0


DEFAULT_VAD = VadConfig()


class EnergyVad:
    """Tells per frame whether a side is making sound: level with hysteresis above a tracked noise floor."""

    def __init__(self, config: VadConfig = DEFAULT_VAD):
        self.config = config
        self.active = False
        self.floor_db = config.start_floor_db

    def push(self, pcm: np.ndarray) -> bool:
        """Takes one frame of samples [S]; returns whether the side is active in it."""
        return self.push_level(level_db(pcm))

    def to_dict(self) -> dict[str, bool | float]:
        """Everything but the configuration, as plain values."""
        return {"active": self.active, "floor_db": self.floor_db}

    @classmethod
    def from_dict(cls, values: dict[str, bool | float], config: VadConfig = DEFAULT_VAD) -> EnergyVad:
        vad = cls(config)
        vad.active, vad.floor_db = bool(values["active"]), float(values["floor_db"])
        return vad

    def push_level(self, db: float) -> bool:
        """The same for a frame of which only the level is known."""
        db, config = float(db), self.config
        margin = config.noise_margin_db
        if self.active:
            self.active = db >= max(config.off_db, self.floor_db + margin / 2)
        else:
            self.active = db >= max(config.on_db, self.floor_db + margin)
        self.floor_db = min(db, self.floor_db + config.floor_rise_db)
        # Digital silence must not count as the noise of the room, or the next breath would be speech.
        self.floor_db = max(self.floor_db, config.start_floor_db)
        return self.active


def level_db(pcm: np.ndarray) -> float:
    """RMS level of samples [S] in dB relative to full scale, at least -120."""
    power = float(np.mean(np.square(pcm, dtype=np.float64)))
    return 10.0 * float(np.log10(max(power, 1e-12)))


def activity(pcm: np.ndarray, config: VadConfig = DEFAULT_VAD) -> np.ndarray:
    """Activity bool [T] of a whole waveform [T * 1920], frame by frame as in the live loop."""
    vad = EnergyVad(config)
    return np.array([vad.push(frame) for frame in pcm.reshape(-1, FRAME_SAMPLES)], dtype=bool)
