"""Talk to a server in Moshi's protocol: this repository's, or an unmodified Moshi server.

    python -m infer.client ws://localhost:8998                              # microphone and speaker
    python -m infer.client ws://localhost:8998 --wav question.wav --out answer.wav

The words of the system are printed as they come. At the end stands one line of JSON with what was measured.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlencode, urlsplit, urlunsplit

import numpy as np

from duplex.audio import read_audio, to_mono, write_wav
from duplex.errors import ConfigError, InputError
from duplex.turns import EventKind, TurnTracker
from duplex.units import FRAME_SAMPLES, FRAME_SECONDS, samples_to_frames, seconds_to_samples
from duplex.vad import activity
from infer import cli
from infer.client_ends import DeviceEnds, Ends, FileEnds

HANDSHAKE, SOUND, TEXT, _, METADATA, ERROR = range(6)
TOKEN_VARIABLE = "DUPLEX_TOKEN"
_LAST_SECONDS = 2.0
"""How long the client waits for frames on their way after it has sent its last."""


def parser() -> cli.Parser:
    parser = cli.Parser("infer.client", "Talk to a server in Moshi's protocol.")
    parser.add_argument("url", help="ws://host:port, wss://host:port or the same with http; /api/chat is added")
    parser.add_argument("--wav", metavar="FILE", help="what the user says, in place of the microphone; sent in real time")
    parser.add_argument("--tail", type=cli.number(0, 3600), default=4.0, metavar="S", help="silence after it, for the answer")
    parser.add_argument("--out", metavar="FILE", help="write the conversation: stereo wav, left the system, right the user")
    parser.add_argument("--seconds", type=cli.number(0.1, 86_400), metavar="S", help="stop after so long")
    parser.add_argument("--persona", metavar="TEXT", help="persona or situation (this repository's server only)")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE",
                        help="an option for the server's query string, such as text_temperature=0.7")
    parser.add_argument("--input", metavar="NAME", help="microphone (name or number), else the default one")
    parser.add_argument("--output", metavar="NAME", help="speaker (name or number), else the default one")
    parser.add_argument("--echo-cancel", choices=("auto", "on", "off"), default="auto", help="auto: unless it is headphones")
    parser.add_argument("--insecure", action="store_true", help="accept any certificate (wss)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    """Checks the options, talks, reports."""
    url = chat_url(args.url, args.persona, args.option)
    if args.wav is not None:
        pcm = np.pad(to_mono(read_audio(args.wav)), (0, seconds_to_samples(args.tail)))
        if args.seconds is not None:
            pcm = pcm[: seconds_to_samples(args.seconds)]
        ends = FileEnds(pcm)
    else:
        ends = DeviceEnds(args.input, args.output, args.seconds, args.echo_cancel)
    report = asyncio.run(talk(url, ends, os.environ.get(TOKEN_VARIABLE), args.insecure,
                              on_text=lambda text: print(text, end="", flush=True)))
    print(flush=True)
    if args.out:
        write_wav(args.out, report.conversation())
        print(f"wrote {args.out}")
    if report.error:
        raise InputError(f"{args.url}: the server ended the conversation: {report.error}")
    print(json.dumps(report.summary()))


def chat_url(url: str, persona: str | None = None, options: Sequence[str] = ()) -> str:
    """The WebSocket address for what the user gave. Raises InputError for what is no address or option."""
    parts = urlsplit(url if "://" in url else f"ws://{url}")
    scheme = {"ws": "ws", "http": "ws", "wss": "wss", "https": "wss"}.get(parts.scheme)
    if scheme is None or not parts.hostname:
        raise InputError(f"{url}: not an address; give ws://host:port or wss://host:port")
    query = []
    for option in options:
        name, equals, value = option.partition("=")
        if not equals or not name:
            raise InputError(f"--option {option}: write NAME=VALUE")
        query.append((name, value))
    if persona:
        query.append(("persona", persona))
    path = parts.path if parts.path.rstrip("/").endswith("/api/chat") else f"{parts.path.rstrip('/')}/api/chat"
    asked = "&".join(filter(None, (parts.query, urlencode(query))))
    return urlunsplit((scheme, parts.netloc, path, asked, ""))


@dataclass
class Report:
    """What a conversation was, and when its parts came (seconds of the monotonic clock)."""

    user: list[np.ndarray] = field(default_factory=list)
    system: list[np.ndarray] = field(default_factory=list)
    text: str = ""
    error: str = ""
    connected_at: float = 0.0
    greeted_at: float | None = None
    sent_at: list[float] = field(default_factory=list)
    came_at: list[tuple[int, float]] = field(default_factory=list)
    """(samples of the system until then, time) for each piece of sound."""

    def conversation(self) -> np.ndarray:
        """float32 [2, S]: the system left, the user right, beside each other as they were sent and received."""
        sides = [np.concatenate([*side, np.zeros(0, np.float32)]) for side in (self.system, self.user)]
        length = max(map(len, sides))
        return np.stack([np.pad(side, (0, length - len(side))) for side in sides])

    def summary(self) -> dict[str, object]:
        """The measures; times in milliseconds, those that were not had None."""
        samples = sum(map(len, self.system))
        trips = sorted(1000 * (at - self.sent_at[frame]) for total, at in self.came_at
                       if 0 <= (frame := total // FRAME_SAMPLES - 1) < len(self.sent_at))
        first = 1000 * (self.came_at[0][1] - self.sent_at[0]) if self.came_at and self.sent_at else None
        return {"frames_sent": len(self.user), "frames_received": round(samples / FRAME_SAMPLES, 2),
                "first_audio_ms": _rounded(first), "round_trip_p50_ms": _rounded(_at(trips, 0.5)),
                "round_trip_p99_ms": _rounded(_at(trips, 0.99)), "response_ms": _rounded(self.response_ms()),
                "text": self.text.strip()}

    def response_ms(self) -> float | None:
        """Median time from the user's falling silent, as sent, to the system's first sound, as received."""
        sides = [np.concatenate([*side, np.zeros(0, np.float32)]) for side in (self.system, self.user)]
        frames = min(len(side) for side in sides) // FRAME_SAMPLES
        if not frames:
            return None
        system, user = (activity(side[: frames * FRAME_SAMPLES]) for side in sides)
        tracker, gaps = TurnTracker(), []
        for pair in zip(system, user, strict=True):
            gaps += [event for event in tracker.push(*map(bool, pair)) if event.kind is EventKind.SYSTEM_START]
        times = []
        for event in gaps:
            if event.seconds is not None:
                stop = round((event.time - event.seconds) / FRAME_SECONDS) - 1
                times.append(self._came(round(event.time / FRAME_SECONDS)) - self.sent_at[stop])
        return 1000 * float(np.median(times)) if times else None

    def _came(self, frame: int) -> float:
        """When the sound of the system's frame had come in full."""
        return next((at for total, at in self.came_at if total >= (frame + 1) * FRAME_SAMPLES), self.came_at[-1][1])


async def talk(url: str, ends: Ends, token: str | None = None, insecure: bool = False,
               on_text: Callable[[str], None] = lambda text: None) -> Report:
    """One conversation; ends with the recording, the server or the user. Raises InputError when it cannot begin."""
    try:
        from websockets.asyncio.client import connect
        from websockets.exceptions import ConnectionClosed, InvalidHandshake

        from infer.server.limits import ClientError
        from infer.server.ogg import OpusReader, OpusWriter
    except ImportError as error:
        raise ConfigError(f"{error.name} is missing; install the client's parts: pip install -e '.[serve]'") from None
    report = Report()
    writer, reader = OpusWriter(), OpusReader()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    greeted = asyncio.Event()
    try:
        socket = await connect(url, additional_headers=headers, ssl=_tls(url, insecure), max_size=2**20, compression=None)
    except (OSError, InvalidHandshake, asyncio.TimeoutError) as error:
        raise InputError(f"{url.split('?')[0]}: no conversation ({_why(error)}); is a server there, and does it want a token?"
                         ) from None
    report.connected_at = time.monotonic()

    async def hear() -> None:
        async for message in socket:
            if isinstance(message, str) or not message:
                continue
            now, kind, payload = time.monotonic(), message[0], message[1:]
            if kind == HANDSHAKE:
                report.greeted_at = report.greeted_at or now
                greeted.set()
            elif kind == SOUND:
                pcm = reader.push(payload)
                if len(pcm):
                    report.system.append(pcm)
                    report.came_at.append((sum(map(len, report.system)), now))
                    ends.play(pcm)
            elif kind == TEXT:
                text = payload.decode(errors="replace")
                report.text += text
                on_text(text)
            elif kind == ERROR:
                report.error = payload.decode(errors="replace")

    async def speak() -> None:
        await greeted.wait()
        async for frame in ends.heard():
            data = writer.push(frame)
            report.sent_at.append(time.monotonic())
            report.user.append(frame)
            if data:
                await socket.send(bytes([SOUND]) + data)
        wanted = samples_to_frames(sum(map(len, report.user)))
        ending = time.monotonic() + _LAST_SECONDS
        while time.monotonic() < ending and sum(map(len, report.system)) < (wanted - 1) * FRAME_SAMPLES:
            await asyncio.sleep(0.02)

    async with socket:
        tasks = [asyncio.create_task(hear()), asyncio.create_task(speak())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            lost = not tasks[1].done()  # the server ended it, not the user
        finally:
            ends.close()
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, ClientError):
                raise InputError(f"{url.split('?')[0]}: the server sent sound that cannot be decoded ({outcome})") from None
            if isinstance(outcome, Exception) and not isinstance(outcome, ConnectionClosed | asyncio.CancelledError):
                raise outcome
    if not report.error and (lost or not report.system):
        report.error = socket.close_reason or "the connection was lost"
    return report


def _tls(url: str, insecure: bool):
    if not url.startswith("wss:"):
        return None
    import ssl

    context = ssl.create_default_context()
    if insecure:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _why(error: BaseException) -> str:
    response = getattr(error, "response", None)
    if response is not None:
        with contextlib.suppress(Exception):
            return f"{response.status_code} {response.body.decode(errors='replace').strip()}".strip()
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


def _at(values: list[float], share: float) -> float | None:
    return values[min(len(values) - 1, int(share * len(values)))] if values else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


if __name__ == "__main__":
    sys.exit(main())
