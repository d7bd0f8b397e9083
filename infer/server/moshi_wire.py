"""Moshi's wire: binary messages `[kind u8][payload]`, and the query string in front of them. No sockets in here.

Kinds: 0 handshake, 1 sound, 2 text, 3 control, 4 metadata (JSON), 5 error (text), 6 ping; unknown kinds are ignored.
Sound is one Ogg/Opus stream per direction, or with `?audio=pcm` plain 16-bit little-endian samples, both 24 kHz mono.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from duplex.conversation import SessionFrame
from duplex.policy import POLICIES
from infer.server.limits import BAD_PAYLOAD, POLICY, ClientError
from infer.server.loop import Wish
from infer.server.ogg import OpusReader, OpusWriter

HANDSHAKE, SOUND, TEXT, CONTROL, METADATA, ERROR, PING = range(7)
GREETING = bytes([HANDSHAKE])
MAX_TEMPERATURE = 2.0
# Names that upstream's web client puts into its query and that mean nothing here.
_IGNORED = frozenset({"token", "text_topk", "audio_topk", "pad_mult", "repetition_penalty", "repetition_penalty_context",
                      "audio_seed", "email", "worker_addr", "imgpath", "auth_id"})
_KNOWN = ("audio", "events", "seed", "text_seed", "text_temperature", "audio_temperature", "persona", "policy")


@dataclass(frozen=True)
class Options:
    """What the query string asks for."""

    wish: Wish = Wish()
    pcm: bool = False
    """Plain samples in place of Ogg/Opus."""
    events: bool = False
    """Send turn events and latencies as metadata."""


def parse_query(query: Mapping[str, str]) -> Options:
    """The options of a query string. Raises ClientError naming the value that cannot be."""
    for name in query:
        if name not in _KNOWN and name not in _IGNORED:
            raise _refuse(f"unknown option {_shown(name)}; known are {', '.join(_KNOWN)}")
    audio, events = query.get("audio", "opus"), query.get("events", "0")
    if audio not in ("opus", "pcm"):
        raise _refuse(f"audio={_shown(audio)}; use opus or pcm")
    if events not in ("0", "1"):
        raise _refuse(f"events={_shown(events)}; use 0 or 1")
    seed = query.get("seed", query.get("text_seed"))
    if seed is not None and not (seed.isascii() and seed.isdigit() and int(seed[:20]) < 2**31):
        raise _refuse(f"seed={_shown(seed)}; use a whole number from 0 to {2**31 - 1}")
    persona, policy = query.get("persona") or None, query.get("policy")
    if policy is not None and policy not in POLICIES:
        raise _refuse(f"policy={_shown(policy)}; use {', '.join(POLICIES)}")
    wish = Wish(int(seed) if seed is not None else None, _temperature(query, "text_temperature"),
                _temperature(query, "audio_temperature"), persona, policy)
    return Options(wish, audio == "pcm", events == "1")


def _temperature(query: Mapping[str, str], name: str) -> float | None:
    text = query.get(name)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= MAX_TEMPERATURE:
        raise _refuse(f"{name}={_shown(text)}; use a number from 0 to {MAX_TEMPERATURE:g}")
    return value


class PcmReader:
    """16-bit little-endian samples, cut anywhere, to float32 [S]."""

    def __init__(self) -> None:
        self._half = b""

    def push(self, data: bytes) -> np.ndarray:
        data = self._half + data
        self._half = data[len(data) & ~1 :]
        return np.frombuffer(data[: len(data) & ~1], "<i2").astype(np.float32) / 32768.0


class PcmWriter:
    """float32 [S] to 16-bit little-endian samples."""

    def push(self, pcm: np.ndarray) -> bytes:
        return (np.clip(pcm, -1.0, 1.0) * 32767.0).astype("<i2").tobytes()


class MoshiWire:
    """One connection: messages of the client to sound, frames of the system to messages."""

    def __init__(self, options: Options):
        self.options = options
        self.codec_is_slow = not options.pcm
        """Is the sound worth a thread of its own?"""
        self._reader: OpusReader | PcmReader = PcmReader() if options.pcm else OpusReader()
        self._writer: OpusWriter | PcmWriter = PcmWriter() if options.pcm else OpusWriter()

    def hear(self, message: bytes | str) -> np.ndarray:
        """Sound of a message, float32 [S] at 24 kHz, empty for the other kinds. Raises ClientError."""
        if isinstance(message, str):
            raise ClientError(BAD_PAYLOAD, "a text message came where binary ones belong; send kind and payload as bytes",
                              "text_message")
        if not message:
            raise ClientError(BAD_PAYLOAD, "an empty message came; the first byte is its kind", "empty_message")
        return self._reader.push(message[1:]) if message[0] == SOUND else np.zeros(0, dtype=np.float32)

    def say(self, frame: SessionFrame, latency: float | None = None, dropped: int = 0) -> list[bytes]:
        """Messages for one frame of the system: sound, then its text, then what the page wants to know of it."""
        messages = []
        sound = self._writer.push(frame.pcm)
        if sound:
            messages.append(bytes([SOUND]) + sound)
        if frame.text:
            messages.append(bytes([TEXT]) + frame.text.encode())
        if self.options.events:
            messages.append(metadata({
                "type": "frame", "index": frame.index, "system": frame.system_active, "user": frame.user_active,
                "flush": frame.flush, "dropped": dropped, "latency_ms": None if latency is None else round(1000 * latency, 1),
                "events": [event.to_dict() for event in frame.events], "words": [word.to_dict() for word in frame.words]}))
        return messages


def metadata(values: Mapping[str, Any]) -> bytes:
    """A metadata message."""
    return bytes([METADATA]) + json.dumps(values, separators=(",", ":")).encode()


def error_message(reason: str) -> bytes:
    """An error message."""
    return bytes([ERROR]) + reason.encode()


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}...")


def _refuse(reason: str) -> ClientError:
    return ClientError(POLICY, reason, "bad_option")
