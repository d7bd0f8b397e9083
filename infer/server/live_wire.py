"""The OpenAI Live API's events, for a model that is full-duplex by itself: JSON in, sound out and back. No sockets.

The API has no turns: sound goes up as `session.input_audio.append`, sound and transcript come down as
`session.output_audio.delta` and `session.output_transcript.delta` all the time, and the model decides when it speaks.
What a delegating service would do beyond that (tools, backend models, appended context) this model cannot: such
commands are answered by an error that names them, and the session goes on.
"""

from __future__ import annotations

import base64
import binascii
import json
import secrets
from dataclasses import dataclass
from typing import Any

import numpy as np
import soxr

from duplex.conversation import SessionFrame
from duplex.units import FRAME_SECONDS, SAMPLE_RATE
from infer.server import g711
from infer.server.limits import BAD_PAYLOAD, UNSUPPORTED, ClientError
from infer.server.loop import Wish
from infer.server.moshi_wire import PcmReader, PcmWriter

_RATES = {"audio/pcm": (16_000, 24_000), "audio/pcmu": (8_000,), "audio/pcma": (8_000,)}
_START_KEYS = frozenset({"model", "audio", "client", "delegation", "input", "instructions", "safety_identifier", "store",
                         "triggers"})
MAX_APPEND_SECONDS = 6.0
"""Sound in one event: about what the largest message holds at 24 kHz; at 8 kHz it would be 24 s to resample."""
MUTE, UNMUTE = "session.input_audio.mute", "session.input_audio.unmute"
APPEND, START, UPDATE, CLOSE = "session.input_audio.append", "session.start", "session.update", "session.close"
_NOT_HERE = ("session.instructions.append", "session.thinking.append", "session.commentary.append", "decision.",
             "response.", "session.output_audio_fixture.", "transport.")


class Complaint(Exception):
    """A command that cannot be carried out; the session goes on."""

    def __init__(self, code: str, message: str, param: str | None = None):
        super().__init__(message)
        self.code, self.message, self.param = code, message, param


@dataclass(frozen=True)
class Start:
    """What `session.start` asks for."""

    wish: Wish
    kind: str
    """audio/pcm, audio/pcmu or audio/pcma; the same both ways."""
    rate: int
    session: dict[str, Any]
    """The client's configuration, echoed in the session resource."""


def parse_event(message: bytes | str) -> dict[str, Any]:
    """The event in a message. Raises ClientError for what is none: that connection speaks another protocol."""
    if isinstance(message, bytes):
        raise ClientError(UNSUPPORTED, "a binary message came where JSON events belong; send text", "binary_message")
    try:
        event = json.loads(message, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise ClientError(BAD_PAYLOAD, "a message is not valid JSON; send one event object per message", "bad_json") from None
    if not isinstance(event, dict) or not isinstance(event.get("type"), str):
        raise ClientError(BAD_PAYLOAD, "a message is no event; send an object with a type", "bad_json")
    return event


def parse_start(event: dict[str, Any]) -> Start:
    """The start of a session. Raises Complaint naming the parameter that cannot be."""
    if event["type"] != START:
        raise Complaint("session_not_started", f"{_shown(event['type'])} came before session.start; send that first", "type")
    session = event.get("session")
    if not isinstance(session, dict):
        raise Complaint("invalid_value", "session must be an object", "session")
    for key in session:
        if key not in _START_KEYS:
            raise Complaint("unknown_parameter", f"unknown parameter session.{_shown(key)}", "session")
    if not isinstance(session.get("model"), str):
        raise Complaint("missing_required_parameter", "session.model must be a string", "session.model")
    instructions = session.get("instructions")
    if instructions is not None and not (isinstance(instructions, str) and _whole(instructions)):
        raise Complaint("invalid_value", "session.instructions must be text of whole characters", "session.instructions")
    audio = session.get("audio") or {}
    chosen = (audio.get("format") if isinstance(audio, dict) else 0) or {"type": "audio/pcm", "rate": SAMPLE_RATE}
    kind, rate = (chosen.get("type"), chosen.get("rate")) if isinstance(chosen, dict) else (None, None)
    if not isinstance(kind, str) or rate not in _RATES.get(kind, ()):
        raise Complaint("invalid_value", "session.audio.format must be audio/pcm at 16000 or 24000 Hz, or audio/pcmu or "
                        "audio/pcma at 8000 Hz", "session.audio.format")
    return Start(Wish(persona=(instructions or "").strip() or None), kind, rate, session)


class LiveWire:
    """One started session: events to sound, frames to events."""

    def __init__(self, start: Start, session_id: str, expires_at: int):
        self.start, self.muted, self.seconds = start, False, 0.0
        self._resource = {**{key: value for key, value in start.session.items() if key != "audio"},
                          "audio": {"format": {"type": start.kind, "rate": start.rate}}, "id": session_id,
                          "expires_at": expires_at, "status": "active"}
        self._pcm_in, self._pcm_out = PcmReader(), PcmWriter()
        other = start.rate != SAMPLE_RATE
        self._up = soxr.ResampleStream(start.rate, SAMPLE_RATE, 1, quality="HQ") if other else None
        self._down = soxr.ResampleStream(SAMPLE_RATE, start.rate, 1, quality="HQ") if other else None

    def hear(self, event: dict[str, Any]) -> np.ndarray:
        """Sound of an append event, float32 [S] at 24 kHz, silence while muted. Raises Complaint."""
        audio = event.get("audio")
        try:
            data = base64.b64decode(audio, validate=True)
        except (TypeError, ValueError, binascii.Error):
            raise Complaint("invalid_value", "audio must be base64", "audio") from None
        width = 2 if self.start.kind == "audio/pcm" else 1
        if len(data) > MAX_APPEND_SECONDS * self.start.rate * width:
            raise Complaint("invalid_value", f"an event holds more than {MAX_APPEND_SECONDS:g} s of sound; send it as it comes",
                            "audio")
        pcm = self._pcm_in.push(data) if width == 2 else g711.decode(self.start.kind, data)
        if self._up is not None:
            pcm = np.clip(self._up.resample_chunk(pcm), -1.0, 1.0)  # a filter rings above full scale
        return np.zeros_like(pcm) if self.muted else pcm

    def say(self, frame: SessionFrame) -> list[str]:
        """Events for one frame of the system."""
        self.seconds = (frame.index + 1) * FRAME_SECONDS
        pcm = frame.pcm if self._down is None else self._down.resample_chunk(frame.pcm)
        events = []
        if len(pcm):
            data = self._pcm_out.push(pcm) if self.start.kind == "audio/pcm" else g711.encode(self.start.kind, pcm)
            events.append({"type": "session.output_audio.delta", "delta": base64.b64encode(data).decode()})
        if frame.text:
            begun = round(1000 * frame.time)
            events.append({"type": "session.output_transcript.delta", "event_id": event_id(), "delta": frame.text,
                           "start_ms": begun, "end_ms": begun + round(1000 * FRAME_SECONDS)})
        if frame.index % 125 == 124:
            events.append({"type": "session.usage.updated", "event_id": event_id(), "usage": {"seconds": self.seconds}})
        return [json.dumps(event) for event in events]

    def answer(self, event: dict[str, Any]) -> str:
        """The answer to a command that is neither sound nor the close. Raises Complaint for what cannot be done here."""
        kind = event["type"]
        if kind in (MUTE, UNMUTE):
            self.muted = kind == MUTE
            return self._event(f"{kind}d", event)
        if kind == UPDATE:
            return self._event("session.updated", event, session=self._resource)
        if kind == START:
            raise Complaint("session_already_started", "the session has been started", "type")
        if kind.startswith(_NOT_HERE):
            raise Complaint("unsupported_command", f"{_shown(kind)} is not supported: this model has no backend and no context "
                            "to append to; put instructions into session.start", "type")
        raise Complaint("unknown_event", f"unknown event {_shown(kind)}", "type")

    def started(self, event: dict[str, Any]) -> str:
        """The answer to `session.start`."""
        return self._event("session.started", event, session=self._resource)

    def closed(self, reason: str, event: dict[str, Any] | None = None) -> str:
        """The last event of a session."""
        return self._event("session.closed", event, reason=reason, session=self._resource, usage={"seconds": self.seconds})

    @staticmethod
    def _event(kind: str, cause: dict[str, Any] | None, **values: Any) -> str:
        event = {"type": kind, "event_id": event_id(), **values}
        if cause is not None and isinstance(cause.get("event_id"), str):
            event["client_event_id"] = cause["event_id"]
        return json.dumps(event)


def complaint_event(complaint: Complaint, cause: dict[str, Any] | None = None) -> str:
    """The error event for a refused command."""
    return error_event(complaint.code, complaint.message, complaint.param, cause)


def error_event(code: str, message: str, param: str | None = None, cause: dict[str, Any] | None = None) -> str:
    """An error event."""
    error = {"type": "invalid_request_error", "code": code, "message": message, "param": param}
    if cause is not None and isinstance(cause.get("event_id"), str):
        error["client_event_id"] = cause["event_id"]
    return json.dumps({"type": "error", "event_id": event_id(), "error": error})


def event_id() -> str:
    """A fresh id of a server event."""
    return f"event_{secrets.token_hex(8)}"


def _whole(text: str) -> bool:
    """Has the text no half of a surrogate pair? JSON can say it, UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")  # Python would take it, and send it back


def _shown(text: str) -> str:
    """A client's word in a message: one line, and plain characters, since half a character cannot be sent."""
    return (text if len(text) <= 60 else f"{text[:60]}...").encode("unicode_escape").decode()
