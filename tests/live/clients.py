"""Unmodified clients of others against the server: each talks for a while and says what it got and when.

Every driver runs in real time and gives a `Heard`; the tests demand its frames, and `python tests/live/clients.py` prints
the table of docs/server.md from them.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from duplex.audio import read_audio, to_mono, write_wav  # noqa: E402
from duplex.units import FRAME_SAMPLES, FRAME_SECONDS, SAMPLE_RATE  # noqa: E402
from infer.client import Report  # noqa: E402

FAKE_MODEL = ("import sys; sys.path.insert(0, {root!r}); import infer.serve, duplex.testing as t; "
              "infer.serve.load_model = lambda *_, **__: t.fake_loaded_model(); sys.exit(infer.serve.main({arguments!r}))")


@dataclass
class Heard:
    """What a client got. Frames are of 80 ms."""

    client: str
    sent: float = 0.0
    received: float = 0.0
    silent: float = 0.0
    """Silent frames that the server let go: where frames come in bursts it catches up with the clock by them."""
    first_audio_ms: float | None = None
    response_ms: float | None = None
    text: str = ""
    notes: str = ""
    report: Report = field(default_factory=Report)

    def finish(self) -> Heard:
        values = self.report.summary()
        self.sent, self.received = float(values["frames_sent"]), float(values["frames_received"])
        self.first_audio_ms, self.response_ms = values["first_audio_ms"], values["response_ms"]
        self.text = self.text or str(values["text"])
        return self


@contextlib.contextmanager
def server(*arguments: str, fake: bool = False, env: dict | None = None) -> Iterator[int]:
    """`python -m infer.serve` in a process of its own; gives its port. `fake`: with a tiny random model, which steps quickly."""
    options = ["--port", "0", *arguments]
    command = ([sys.executable, "-c", FAKE_MODEL.format(root=str(ROOT), arguments=options)] if fake
               else [sys.executable, "-m", "infer.serve", *options])
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if found := re.search(r"://[^:]+:(\d+)/", line):
                break
        else:
            raise AssertionError("the server did not start: " + "".join(lines))
        yield int(found.group(1))
        process.terminate()
        rest, _ = process.communicate(timeout=60)
        assert process.returncode == 0 and "Traceback" not in rest, rest
    finally:
        process.kill()
        process.wait()


def user(seconds: float) -> np.ndarray:
    """The demo's recorded user, and silence after it."""
    pcm = to_mono(read_audio(ROOT / "duplex" / "assets" / "demo" / "user.wav"))
    length = round(seconds * SAMPLE_RATE)
    return np.pad(pcm, (0, max(0, length - len(pcm))))[:length]


async def paced(pcm: np.ndarray):
    """Frames of 80 ms in real time."""
    begun = time.monotonic()
    for number, frame in enumerate(pcm[: len(pcm) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES), start=1):
        await asyncio.sleep(max(0.0, begun + number * FRAME_SECONDS - time.monotonic()))
        yield frame


def to_bytes(pcm: np.ndarray) -> bytes:
    return (np.clip(pcm, -1, 1) * 32767).astype("<i2").tobytes()


def to_pcm(data: bytes) -> np.ndarray:
    return np.frombuffer(data, "<i2").astype(np.float32) / 32768


def came(report: Report, pcm: np.ndarray) -> None:
    report.system.append(pcm)
    report.came_at.append((sum(map(len, report.system)), time.monotonic()))


async def openai_live(port: int, seconds: float) -> Heard:
    """The `openai` package's client of the Live API."""
    import openai

    heard = Heard(f"openai {openai.__version__}")
    report = heard.report
    client = openai.AsyncOpenAI(api_key="none", base_url=f"http://127.0.0.1:{port}/v1")
    async with client.live.connect() as connection:
        await connection.send({"type": "session.start", "session": {"model": "duplex"}})
        assert (await connection.recv()).type == "session.started"

        async def hear() -> None:
            async for event in connection:
                if event.type == "session.output_audio.delta":
                    came(report, to_pcm(base64.b64decode(event.delta)))
                elif event.type == "session.output_transcript.delta":
                    heard.text += event.delta
                elif event.type == "error":
                    heard.notes += event.error.message
                elif event.type == "session.closed":
                    heard.notes += event.reason
                    return

        listening = asyncio.create_task(hear())
        async for frame in paced(user(seconds)):
            audio = base64.b64encode(to_bytes(frame)).decode()
            await connection.send({"type": "session.input_audio.append", "audio": audio})
            report.sent_at.append(time.monotonic())
            report.user.append(frame)
        await asyncio.sleep(0.5)
        await connection.send({"type": "session.close"})
        await asyncio.wait_for(listening, 20)
    return heard.finish()


async def livekit_live(port: int, seconds: float) -> Heard:
    """`livekit-agents` with its OpenAI plug-in's duplex model."""
    import importlib.metadata

    import aiohttp
    from livekit import rtc
    from livekit.plugins.openai.realtime import GPTLiveModel

    heard = Heard(f"livekit-agents {importlib.metadata.version('livekit-agents')}")
    report = heard.report
    web = aiohttp.ClientSession()
    model = GPTLiveModel(api_key="none", base_url=f"http://127.0.0.1:{port}/v1", delegation="client", http_session=web)
    session = model.session()
    started = asyncio.Event()

    def event(message: dict) -> None:
        if message["type"] == "session.started":
            started.set()
        elif message["type"] == "session.output_transcript.delta":
            heard.text += message["delta"]
        elif message["type"] == "error":
            heard.notes += message["error"]["message"]

    session.on("openai_server_event_received", event)
    await session._update_session(instructions="", tools=[])  # as the framework does before it starts
    await asyncio.wait_for(started.wait(), 20)

    async def hear() -> None:
        async for item in session.audio_stream:
            came(report, to_pcm(bytes(item.frame.data)))

    listening = asyncio.create_task(hear())
    async for frame in paced(user(seconds)):
        session.push_audio(rtc.AudioFrame(to_bytes(frame), SAMPLE_RATE, 1, FRAME_SAMPLES))
        report.sent_at.append(time.monotonic())
        report.user.append(frame)
    await asyncio.sleep(0.5)
    await session.aclose()
    listening.cancel()
    await model.aclose()
    await web.close()
    return heard.finish()


async def our_client(port: int, seconds: float) -> Heard:
    """`infer.client` with a recording."""
    from infer.client import chat_url, talk
    from infer.client_ends import FileEnds

    report = await talk(chat_url(f"ws://127.0.0.1:{port}"), FileEnds(user(seconds)))
    return Heard("infer.client", report=report, notes=report.error).finish()


def moshi_client(port: int, seconds: float, pulse, folder: Path, opened: float = 6.0) -> Heard:
    """The unmodified `python -m moshi.client`, with PulseAudio's null sinks as its microphone and speaker.

    It plays what comes and leaves no count, so the frames are the server's: those that came, and those it answered.
    """
    import importlib.metadata
    import urllib.request

    def counters() -> dict[str, float]:
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20).read().decode()
        return {name: float(value) for name, value in re.findall(r"^(duplex_\w+(?:\{[^}]*\})?) (\S+)$", text, re.M)}

    heard = Heard(f"moshi {importlib.metadata.version('moshi')} (moshi.client)")
    wav = folder / "user.wav"
    write_wav(wav, user(seconds))
    process = subprocess.Popen([sys.executable, "-m", "moshi.client", "--host", "127.0.0.1", "--port", str(port)], cwd=folder,
                               env=pulse.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        deadline = time.monotonic() + 90
        while counters().get("duplex_frames_total", 0) < 3:
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.1)
        before = counters()
        player = pulse.play(wav)
        time.sleep(seconds)
        after = counters()
        player.wait(20)
    finally:
        process.terminate()
        out, _ = process.communicate(timeout=20)
    heard.received = after["duplex_frames_total"] - before["duplex_frames_total"]
    lost = {name: after[name] - before.get(name, 0) for name in after if name.startswith("duplex_dropped_frames_total")}
    heard.sent = heard.received + sum(lost.values())
    heard.silent = sum(count for name, count in lost.items() if "silent" in name)
    heard.text = "".join(line for line in out.splitlines() if "[" not in line)
    heard.notes = f"{lost} {out[-300:]}"
    return heard


def table(rows: list[Heard]) -> str:
    """The rows in Markdown."""
    lines = ["| client | frames expected | received | share | first audio | answer after | text |",
             "|---|---|---|---|---|---|---|"]
    for row in rows:
        times = [f"{value:.0f} ms" if value is not None else "–" for value in (row.first_audio_ms, row.response_ms)]
        share = 100 * row.received / row.sent
        lines.append(f"| {row.client} | {row.sent:.0f} | {row.received:.0f} | {share:.1f} % | {times[0]} | {times[1]} | "
                     f"{row.text.strip()[:60]} |")
    return "\n".join(lines)


def main() -> None:
    """Prints the table: the embedded model, each client for 30 s, one after another."""
    from pulse import Pulse

    seconds, rows = float(sys.argv[1]) if len(sys.argv) > 1 else 30.0, []
    with server("--slots", "1") as port, tempfile.TemporaryDirectory() as folder:
        for driver in (our_client, openai_live, livekit_live):
            rows.append(asyncio.run(driver(port, seconds)))
            print(f"{rows[-1].client}: {rows[-1].received:.0f} of {rows[-1].sent:.0f} frames", file=sys.stderr, flush=True)
            time.sleep(0.5)
        pulse = Pulse(Path(folder))
        pulse.start()
        try:
            rows.append(moshi_client(port, seconds, pulse, Path(folder)))
        finally:
            pulse.stop()
    print(table(rows))


if __name__ == "__main__":
    main()
