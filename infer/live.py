"""Talk to a model with a microphone; interrupt it when you like. Ctrl-C ends the conversation.

    python -m infer.live
    python -m infer.live --record out/live --policy guarded
    python -m infer.live --list-devices
"""

from __future__ import annotations

import argparse
import io
import re
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from duplex.checkpoint import load_model
from duplex.errors import InputError
from duplex.fast.backends import BACKENDS
from duplex.playout import PlayoutConfig
from duplex.policy import POLICIES, PolicyConfig
from duplex.session import Session
from duplex.units import FRAME_SECONDS
from infer import cli
from infer.device.echo import EchoCanceller, speakers_are_open
from infer.device.loop import LiveLoop
from infer.device.ports import SoundPorts, device_table
from infer.device.record import Recorder
from infer.report import About, compute_line

PERMISSION_SECONDS = 5.0
"""A microphone that gives nothing but zeros for this long is probably not allowed to be heard."""


def parser() -> cli.Parser:
    parser = cli.Parser("infer.live", "Converse with a model by microphone and loudspeaker.")
    parser.add_argument("--list-devices", action="store_true", help="show the sound devices and leave")
    parser.add_argument("--input", metavar="DEVICE", help="microphone, by number or part of the name")
    parser.add_argument("--output", metavar="DEVICE", help="speaker, likewise")
    parser.add_argument("--echo-cancel", choices=("auto", "on", "off"), default="auto",
                        help="auto: on, unless the speaker's name says that it is a headphone")
    parser.add_argument("--playout-ms", type=cli.number(40, 230), default=100.0, metavar="MS",
                        help="sound kept ready for the speaker on average; it grows where the machine is irregular")
    parser.add_argument("--policy", choices=POLICIES, default="learned", help="what happens when you speak over the system")
    parser.add_argument("--barge-in-after", type=cli.number(0.71, 10), default=0.8, metavar="S",
                        help="speech over the system that makes a barge-in for guarded and forced")
    parser.add_argument("--seconds", type=cli.number(FRAME_SECONDS), metavar="S", help="end after this time")
    parser.add_argument("--record", metavar="DIR", help="write conversation.wav, transcript, events and timeline there")
    parser.add_argument("--screenshot", metavar="FILE", help="save the view as it is at the end, an svg file")
    parser.add_argument("--plain", action="store_true", help="no view: only the words, line by line")
    parser.add_argument("--backend", choices=("auto", *BACKENDS), default="auto", help="how the model's steps are computed")
    cli.add_model_options(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    """Opens the devices before the model is loaded, converses until it is told to end, and writes the recording."""
    if args.list_devices:
        print(device_table())
        return
    device, prompt = cli.device_of(args), cli.prompt_of(args)
    probe = SoundPorts(args.input, args.output, lambda pcm: None, lambda n: _silence(n), time.perf_counter)
    probe.open()  # so that a missing device is said at once
    probe.close()
    cancel = args.echo_cancel == "on" or args.echo_cancel == "auto" and speakers_are_open(probe.names[1])
    canceller = EchoCanceller() if cancel else None
    recorder = Recorder(args.record) if args.record else None
    model = load_model(args.model, device, backend=args.backend)
    sampling = cli.sampling_of(args, model.sampling)
    session = Session(model, sampling, args.seed, prompt,
                      policy=PolicyConfig(kind=args.policy, after_seconds=args.barge_in_after))
    for _ in range(5):  # the first steps of a process are slow: they shall not be those of the conversation
        session.clone().step(_silence(1_920))
    view = _View(args, model.folder.name, cancel)
    loop = LiveLoop(session, time.perf_counter, PlayoutConfig(wait_ms=args.playout_ms - 40), canceller, view.on_frame(recorder))
    ports = SoundPorts(args.input, args.output, loop.capture, loop.playout, time.perf_counter)
    conversation = _Conversation(loop, ports, view, args.seconds)
    try:
        conversation.run()
    except KeyboardInterrupt:
        pass
    finally:
        conversation.stop()
    print(f"\n{_summary(loop)}", flush=True)
    if args.screenshot:
        view.save(args.screenshot, loop, ports)
    if recorder is not None:
        words, events = session.finish()
        settings = {"seed": args.seed, "sampling": vars(sampling), "policy": args.policy, "echo_cancellation": cancel,
                    "input": ports.names[0], "output": ports.names[1]}
        steps = tuple(ms / 1000 for ms in loop.state.step_ms)
        paths = recorder.close(About(str(args.model), "microphone", settings), words, events, session.heard, steps)
        print(f"wrote {', '.join(path.name for path in paths)} in {recorder.folder}/", flush=True)


def _silence(samples: int) -> np.ndarray:
    return np.zeros(samples, np.float32)


def _summary(loop: LiveLoop) -> str:
    played, counters = loop.playout_buffer.counters, loop.counters
    lines = [f"{loop.state.seconds:.1f} s"]
    if loop.state.step_ms:
        lines.append(compute_line([ms / 1000 for ms in loop.state.step_ms]))
    share = 100 * played.underrun / max(played.played, 1)
    lines.append(f"dropped {counters.dropped_frames} frames and {counters.dropped_silent} silent ones; underrun {share:.2f} % of "
                 f"the time; playout dropped {played.dropped / 24:.0f} ms; without microphone "
                 f"{counters.absent_frames * FRAME_SECONDS:.1f} s")
    return "\n".join(lines)


class _View:
    """The rich view, or plain lines where there is no terminal or no wish for one."""

    def __init__(self, args: argparse.Namespace, model: str, cancel: bool) -> None:
        self._rich = not args.plain and sys.stdout.isatty()
        self.notice = ""
        self._cancel = "echo cancellation on" if cancel else "echo cancellation off"
        self._state = self._live = None
        if self._rich or args.screenshot:
            try:
                from rich.live import Live

                from infer.device.view import ViewState
            except ImportError:
                raise InputError("the terminal view needs the package rich; pip install -e '.[live]', or use --plain") from None
            self._state = ViewState(f"duplex live · {model} · policy {args.policy}")
            self._live = Live(auto_refresh=False, screen=False) if self._rich else None

    def start(self) -> None:
        if self._live:
            self._live.start()

    def stop(self) -> None:
        if self._live:
            self._live.stop()

    def say(self, text: str) -> None:
        """Something about the devices."""
        if text == self.notice:
            return
        self.notice = text
        if not self._rich and text:
            print(f"\n[{text}]", flush=True)

    def on_frame(self, recorder: Recorder | None):
        def on_frame(user, frame, lost) -> None:
            if recorder is not None:
                recorder.add(user, frame, lost)
            if self._state is not None:
                self._state.add(frame)
            if self._live is None and frame.text and not frame.muted:
                print(frame.text, end="", flush=True)

        return on_frame

    def show(self, loop: LiveLoop, ports: SoundPorts) -> None:
        if self._live:
            self._live.update(self._rendered(loop, ports), refresh=True)

    def save(self, path: str, loop: LiveLoop, ports: SoundPorts) -> None:
        """Writes the view as a picture."""
        from rich.console import Console

        console = Console(record=True, width=112, file=io.StringIO())
        console.print(self._rendered(loop, ports))
        try:
            picture = console.export_svg(title="python -m infer.live")
            # Any fixed-width font will do: a picture should not fetch one from somewhere.
            Path(path).write_text(re.sub(r"@font-face\s*{[^}]*}|<!--.*?-->", "", picture), encoding="utf-8")
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror}); name another file") from None

    def _rendered(self, loop: LiveLoop, ports: SoundPorts):
        from infer.device.view import render

        self._state.notice = self.notice
        self._state.devices = f"{ports.names[0]} → {ports.names[1]} · {self._cancel} · Ctrl-C ends"
        return render(self._state, loop)


class _Conversation:
    """The worker that steps the model, and the watch over devices and view, which is the main thread."""

    def __init__(self, loop: LiveLoop, ports: SoundPorts, view: _View, seconds: float | None) -> None:
        self.loop, self.ports, self.view, self.seconds = loop, ports, view, seconds
        self._over = threading.Event()
        self._failure: BaseException | None = None
        self._worker = threading.Thread(target=self._work, name="model", daemon=True)

    def run(self) -> None:
        self.ports.open()
        self.loop.device_returned()
        if self.ports.rates != (24_000, 24_000):
            self.view.say(f"the devices run at {self.ports.rates[0]} and {self.ports.rates[1]} Hz; sound is resampled")
        self._worker.start()
        self.view.start()
        lost_at, back_until = 0.0, 0.0
        while not self._over.wait(0.1):
            now, notice = time.perf_counter(), ""
            if not self.ports.alive:
                notice = "sound device lost; looking for it (the model goes on hearing silence)"
                if now - lost_at > 1.0:
                    self.view.say(notice)
                    lost_at = now
                    if self._reopened():
                        back_until = time.perf_counter() + 5
                        notice = "sound device is back"
            elif now < back_until:
                notice = "sound device is back"
            elif self.loop.state.zeros * FRAME_SECONDS > PERMISSION_SECONDS:
                notice = ("the microphone gives nothing but zeros: it is muted, or this program may not use it (allow it in the "
                          "system's privacy settings)")
            elif self.loop.backlog.overdue:
                notice = "this machine is too slow for the model; frames are dropped"
            self.view.say(notice)
            self.view.show(self.loop, self.ports)
        if self._failure is not None:
            raise self._failure

    def _reopened(self) -> bool:
        try:
            self.ports.rescan()
            self.ports.open()
        except InputError:
            return False
        self.loop.device_returned()
        return True

    def stop(self) -> None:
        self._over.set()
        if self._worker.is_alive():
            self._worker.join(timeout=5)
        self.ports.close()
        self.view.stop()

    def _work(self) -> None:
        try:
            while not self._over.is_set():
                if not self.loop.work():
                    time.sleep(0.004)
                if self.seconds is not None and self.loop.state.seconds >= self.seconds:
                    break
        except BaseException as error:  # noqa: BLE001 - it belongs to the main thread
            self._failure = error
        self._over.set()


if __name__ == "__main__":
    sys.exit(main())
