"""Systems behind a wire: a Moshi-protocol server or one that speaks the OpenAI Live API. Items are played in real time.

A server that hangs, ends early or sends too little is an error of that item, not of the run. Sound is placed by its position in
the stream, so the numbers are the system's; what the network adds is measured by `infer.client`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import Sequence

import numpy as np

from benchmarks.folders import fitted
from benchmarks.items import Item
from benchmarks.systems import Response
from duplex.errors import InputError
from duplex.text import Word
from duplex.units import FRAME_SAMPLES, FRAME_SECONDS, SAMPLE_RATE
from infer.client import TOKEN_VARIABLE, chat_url, talk
from infer.client_ends import FileEnds

GRACE = 15.0
"""Seconds that a server may take beyond an item's length before it counts as hanging."""
LAST = 2.0
"""Seconds without any message, after the last frame was sent, that end a conversation over the Live API."""
LEAST = 0.9
"""Share of an item's sound that must come back; the last two frames may be on their way."""


class ServerSystem:
    """A running server; ``url`` starts with ws:// (Moshi's protocol) or live:// (the Live API). ``sessions`` run side by side."""

    def __init__(self, url: str, sessions: int = 2, grace: float = GRACE, model: str = "duplex"):
        scheme, separator, rest = url.partition("://")
        if not separator or scheme not in ("ws", "wss", "live", "lives"):
            raise InputError(f"{url}: not a server; give ws://host:port (Moshi's protocol) or live://host:port (the Live API)")
        self.name, self.url, self.sessions, self.grace, self.model = url, url, sessions, grace, model
        self.live = scheme.startswith("live")
        self.has_text = self.live  # text on Moshi's wire carries no times
        self._address = f"ws{scheme[4:]}://{rest}".rstrip("/") if self.live else chat_url(url)

    def respond(self, items: Sequence[Item]) -> list[Response]:
        return asyncio.run(self._all(items))

    async def _all(self, items: Sequence[Item]) -> list[Response]:
        seats = asyncio.Semaphore(self.sessions)

        async def one(item: Item) -> Response:
            async with seats:
                try:
                    ask = self._over_live if self.live else self._over_moshi
                    pcm, words = await asyncio.wait_for(ask(item), item.seconds + self.grace)
                except asyncio.TimeoutError:
                    return _failed(item, f"{self.url}: no end of {item.name} within {item.seconds + self.grace:.0f} s; it hangs")
                except Exception as error:  # whatever a strange server does is the error of this item
                    return _failed(item, f"{item.name}: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
            if len(pcm) < min(LEAST * len(item.user), len(item.user) - 2 * FRAME_SAMPLES):
                return _failed(item, f"{item.name}: {len(pcm) / SAMPLE_RATE:.1f} s of sound came back for {item.seconds:.1f} s")
            return Response(fitted(pcm, len(item.user)), words)

        return list(await asyncio.gather(*map(one, items)))

    async def _over_moshi(self, item: Item) -> tuple[np.ndarray, tuple[Word, ...]]:
        report = await talk(self._address, FileEnds(item.user), os.environ.get(TOKEN_VARIABLE))
        if report.error:
            raise InputError(report.error)
        return np.concatenate([*report.system, np.zeros(0, np.float32)]), ()

    async def _over_live(self, item: Item) -> tuple[np.ndarray, tuple[Word, ...]]:
        from websockets.asyncio.client import connect

        token = os.environ.get(TOKEN_VARIABLE)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        sound: list[np.ndarray] = []
        words: list[Word] = []
        async with connect(f"{self._address}/v1/live/sessions", additional_headers=headers, max_size=2**22) as socket:
            await socket.send(json.dumps({"type": "session.start", "session": {
                "model": self.model, "audio": {"format": {"type": "audio/pcm", "rate": SAMPLE_RATE}}}}))

            async def speak() -> None:
                async for frame in FileEnds(item.user).heard():
                    data = np.round(np.clip(frame, -1, 1) * 32767).astype("<i2").tobytes()
                    await socket.send(json.dumps({"type": "session.input_audio.append",
                                                  "audio": base64.b64encode(data).decode()}))

            speaking = asyncio.create_task(speak())
            try:
                while sum(map(len, sound)) < len(item.user) - FRAME_SAMPLES:
                    try:
                        event = json.loads(await asyncio.wait_for(socket.recv(), LAST))
                    except asyncio.TimeoutError:
                        if speaking.done() and sound:
                            break  # it has lost frames, and no more will come; how many is judged later
                        continue
                    if event["type"] == "session.output_audio.delta":
                        sound.append(np.frombuffer(base64.b64decode(event["delta"]), "<i2").astype(np.float32) / 32768)
                    elif event["type"] == "session.output_transcript.delta":
                        _add(words, event["delta"], event.get("start_ms", 1000 * FRAME_SECONDS * len(sound)) / 1000)
                    elif event["type"] == "error":
                        raise InputError(str(event.get("error", {}).get("message", "the server reports an error")))
            finally:
                speaking.cancel()
        return np.concatenate([*sound, np.zeros(0, np.float32)]), tuple(words)


def _add(words: list[Word], text: str, start: float) -> None:
    """Adds a piece of a transcript: a space begins a word, anything else goes on with the last one."""
    for number, part in enumerate(text.split(" ")):
        if number == 0 and words and part and not text.startswith(" "):
            words[-1] = Word(words[-1].text + part, words[-1].start, start + FRAME_SECONDS)
        elif part:
            words.append(Word(part, start, start + FRAME_SECONDS))


def _failed(item: Item, why: str) -> Response:
    return Response(np.zeros(len(item.user), np.float32), error=why)
