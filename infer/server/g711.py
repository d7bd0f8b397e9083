"""G.711 companding, the telephone's 8 bits (ITU-T G.711): tables made once from the definition."""

from __future__ import annotations

import numpy as np


def _ulaw_table() -> np.ndarray:
    code = ~np.arange(256, dtype=np.int32) & 0xFF
    magnitude = (((code & 0x0F) << 3) + 0x84 << ((code & 0x70) >> 4)) - 0x84
    return np.where(code & 0x80, -magnitude, magnitude).astype(np.float32) / 32768.0


def _alaw_table() -> np.ndarray:
    code = np.arange(256, dtype=np.int32) ^ 0x55
    exponent, mantissa = (code & 0x70) >> 4, (code & 0x0F) << 4
    magnitude = np.where(exponent == 0, mantissa + 8, mantissa + 0x108 << np.maximum(exponent - 1, 0))
    return np.where(code & 0x80, magnitude, -magnitude).astype(np.float32) / 32768.0


_TABLES = {"audio/pcmu": _ulaw_table(), "audio/pcma": _alaw_table()}
_SORTED = {kind: np.argsort(table, kind="stable") for kind, table in _TABLES.items()}


def decode(kind: str, data: bytes) -> np.ndarray:
    """Bytes of "audio/pcmu" or "audio/pcma" to float32 [S]."""
    return _TABLES[kind][np.frombuffer(data, np.uint8)]


def encode(kind: str, pcm: np.ndarray) -> bytes:
    """float32 [S] to the nearest codes."""
    order = _SORTED[kind]
    levels = _TABLES[kind][order]
    above = np.searchsorted(levels, pcm).clip(1, 255)
    nearest = np.where(pcm - levels[above - 1] <= levels[above] - pcm, above - 1, above)
    return order[nearest].astype(np.uint8).tobytes()
