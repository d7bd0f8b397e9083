"""The terminal view of a live conversation: meters, floor, what is being said, interruptions, latency, counters."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from duplex.session import SessionFrame
from duplex.turns import EventKind
from infer.device.loop import LiveLoop
from infer.timeline import printable

_METER = 30
_LINE_SECONDS = 1.2  # without a word: what follows is a new line
_SHOWN = {
    EventKind.BARGE_IN: "the user barges in", EventKind.YIELDED: "the system yields", EventKind.TRUNCATED: "playback is cut",
    EventKind.FALSE_YIELD: "... to a backchannel", EventKind.BACKCHANNEL: "the user acknowledges",
    EventKind.RESUMED: "it speaks again"}
_COLOURS = {"user": "dark_orange", "system": "dodger_blue1", "both": "yellow", "nobody": "grey58"}


@dataclass
class ViewState:
    """What is shown beside the loop's own state. Fed by `add`, from the worker."""

    title: str
    devices: str = ""
    notice: str = ""
    """What is wrong, if something is."""
    lines: deque[Text] = field(default_factory=lambda: deque(maxlen=8))
    events: deque[str] = field(default_factory=lambda: deque(maxlen=6))

    def __post_init__(self) -> None:
        self._last = 0.0  # time of the last text
        self._line: Text | None = None

    def add(self, frame: SessionFrame) -> None:
        """Takes what the system says in a frame, as it is spoken; what the policy has silenced is struck out."""
        if frame.text:
            if self._line is None or frame.time - self._last > _LINE_SECONDS:
                self._line = Text(f"{frame.time:7.1f}  ", style="grey58")
                self.lines.append(self._line)
            self._last = frame.time
            self._line.append(printable(frame.text), style="strike grey50" if frame.muted else "bold white")
        for event in frame.events:
            if event.kind in _SHOWN:
                seconds = "" if event.seconds is None else f" ({event.seconds:.2f} s)"
                self.events.append(f"{event.time:7.1f}  {_SHOWN[event.kind]}{seconds}")


def meter(db: float, active: bool, colour: str) -> Text:
    """A level from -60 to 0 dB as a bar; dim where it is not taken for speech."""
    filled = round(_METER * min(max((db + 60) / 60, 0.0), 1.0))
    return Text("█" * filled + "·" * (_METER - filled), style=colour if active else "grey42").append(f" {max(db, -99):4.0f} dB",
                                                                                                style="grey58")


def render(view: ViewState, loop: LiveLoop) -> RenderableType:
    """The whole view as it is now."""
    state, counters, playout = loop.state, loop.counters, loop.playout_buffer
    p50, p95, p99 = state.percentiles()
    floor = state.floor
    meters = Table.grid(padding=(0, 2))
    meters.add_row(Text("user", style=_COLOURS["user"]), meter(state.user_db, state.user_active, _COLOURS["user"]),
                   Text.assemble("floor: ", (floor, f"bold {_COLOURS[floor]}")))
    meters.add_row(Text("system", style=_COLOURS["system"]), meter(state.system_db, state.system_active, _COLOURS["system"]),
                   Text(f"{int(state.seconds // 60)}:{state.seconds % 60:04.1f}"))
    said = Group(*(view.lines or [Text("(nothing yet: say hello)", style="grey42")]))
    happened = Group(*(Text(line) for line in view.events)) if view.events else Text("none", style="grey42")
    middle = Table.grid(expand=True, padding=(0, 1))
    middle.add_column(ratio=4)
    middle.add_column(ratio=3)
    middle.add_row(Panel(said, title="inner monologue, as it is spoken", height=10, box=box.ROUNDED),
                   Panel(happened, title="interruptions", height=10, box=box.ROUNDED))
    played = playout.counters
    numbers = Table.grid(padding=(0, 2))
    numbers.add_row("frame", Text(f"p50 {p50:.0f}  p95 {p95:.0f}  p99 {p99:.0f} ms of 80", style="red" if p99 > 80 else "green"),
                    f"playout {playout.delay_ms:.0f} ms (fill {playout.fill_ms:.0f}), clock {playout.correction_ppm:+.0f} ppm")
    numbers.add_row("dropped", f"{counters.dropped_frames} frames, {counters.dropped_silent} silent, {counters.late_frames} late",
                    f"underrun {played.underrun / 24:.0f} ms in {played.underruns}, cut {played.cut / 24:.0f} ms, dropped "
                    f"{played.dropped / 24:.0f} ms, absent {counters.absent_frames * 0.08:.1f} s")
    parts: list[RenderableType] = [meters, middle, numbers]
    if view.notice:
        parts.insert(0, Text(view.notice, style="bold red"))
    return Panel(Group(*parts), title=view.title, subtitle=view.devices, box=box.HEAVY, width=110)
