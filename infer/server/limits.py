"""What the server allows, and the two ways in which a client's wish ends: not admitted, or ended with a reason."""

from __future__ import annotations

from dataclasses import dataclass

# Close codes of RFC 6455, section 7.4.1, and its registry.
NORMAL, GOING_AWAY, UNSUPPORTED, BAD_PAYLOAD = 1000, 1001, 1003, 1007
POLICY, TOO_BIG, INTERNAL, TRY_LATER = 1008, 1009, 1011, 1013


@dataclass(frozen=True)
class Limits:
    """Bounds of one session. Nothing that a client does makes the server hold more than these."""

    slots: int = 2
    """Conversations at once; the rows of the batch."""
    give_up_seconds: float = 2.0
    """A backlog that stays over two frames for longer than this ends the session."""
    idle_seconds: float = 20.0
    """So long may a client stay without sending any sound."""
    outbox_frames: int = 50
    """Frames of 80 ms that wait for a client that reads slowly; one more ends the session."""
    message_bytes: int = 256 * 1024
    """Largest message from a client."""
    session_seconds: float = 3600.0
    """Longest conversation."""
    request_seconds: float = 10.0
    """So long may a connection take to ask for something; a peer that is silent in the middle of its request is cut off."""
    ping_seconds: float = 4.0
    """Time between WebSocket pings, and about the time that a peer has to answer one: a dead one is gone after twice this."""


class ClientError(Exception):
    """The session ends because of its client: close code and a reason in words."""

    def __init__(self, code: int, reason: str, label: str):
        super().__init__(reason)
        self.code, self.reason = code, reason
        self.label = label
        """Name of the cause in the metrics."""


class Refused(ClientError):
    """The client was not admitted."""
