"""Results of the latency suite as Markdown tables: what a frame costs on paper, what it took, and how that grows."""

from __future__ import annotations

_TIMES = ("p50_ms", "p95_ms", "p99_ms", "max_ms", "real_time_factor", "deadline_misses")
_HEAD = "p50 ms | p95 ms | p99 ms | max ms | real-time factor | over 80 ms |"
_OWN = ("latency_kinds", "by_rows", "by_context", "call")  # results with tables of their own


def tables(result: dict) -> list[tuple[str, str]]:
    """(title, Markdown) of each table; a result that lacks a part has no table of it."""
    made = (("Cost of a frame on paper", cost), ("Latency of one frame", stages), ("The five kinds of latency", kinds),
            ("Sessions side by side", rows), ("Growth with the context", contexts), ("A long call", call), ("Memory", memory))
    found = [(title, make(result)) for title, make in made]
    return [(title, text) for title, text in found if text]


def stages(result: dict) -> str:
    """Times by lane and stage, of any result that holds {stage: {p50_ms, …}} somewhere."""
    lines = [f"| what | {_HEAD}", "|---|" + "---:|" * 6]

    def walk(node: object, path: tuple[str, ...]) -> None:
        if not isinstance(node, dict):
            return
        if "p50_ms" in node and "p99_ms" in node:
            names = path[1:] if len(path) == 2 and path[0] == path[1] else path
            lines.append(f"| {' '.join(names)} | " + " | ".join(plain(node.get(column)) for column in _TIMES) + " |")
            return
        for key, value in node.items():
            if path or key not in _OWN:
                walk(value, (*path, str(key)))

    walk(result, ())
    return "\n".join(lines)


def cost(result: dict) -> str:
    """What a frame must cost: parameters, bytes, operations; what the machine can do; and the measured time as a multiple."""
    paper, bound = result.get("cost"), (result.get("cost") or {}).get("roofline")
    if not paper or not bound:
        return ""
    times, flops = result.get("multiple_of_roofline", {}), paper["temporal_flops"] + paper["depth_flops"]
    both = ("model", "codec")
    lines = ["| | language model | codec |", "|---|---:|---:|",
             line("parameters", f"{paper['lm_parameters'] / 1e6:.2f} M", f"{paper['codec_parameters'] / 1e6:.2f} M"),
             line("read for a frame", *(f"{paper[f'{name}_bytes_per_frame'] / 1e6:.2f} MB" for name in ("lm", "codec"))),
             line("operations", f"{flops / 1e6:.1f} MFLOP", f"{paper['codec_flops'] / 1e6:.1f} MFLOP"),
             line("the machine reads", *(f"{plain(bound.get(f'{name}_bandwidth_gb_s'))} GB/s" for name in both)),
             line("so at least", *(f"{plain(bound.get(f'{name}_ms'))} ms" for name in both)),
             line("measured, as a multiple of that", *(plain(times.get(name)) for name in both))]
    return "\n".join(lines)


def kinds(result: dict) -> str:
    """The five things that are called latency, each under its name."""
    lines = ["| latency | ms | what it is |", "|---|---:|---|"]
    for name, kind in result.get("latency_kinds", {}).items():
        values = [f"{plain(kind[key])}{label}" for key, label in (("ms", ""), ("median_ms", ""), ("p50_ms", " (p50)"),
                                                                   ("p99_ms", " (p99)")) if kind.get(key) is not None]
        count = f" (n = {kind['n']})" if "n" in kind else ""
        lines.append(f"| {name} | {', '.join(values) or '—'} | {kind['what']}{count} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def rows(result: dict) -> str:
    """A batch of so many conversations: its frame, and what that is for each of them."""
    lines = [line("sessions", "frame p50 ms", "frame p99 ms", "over 80 ms", "a session ms", "throughput"), "|" + "---:|" * 6]
    for row in result.get("by_rows", ()):
        lines.append(line(row["rows"], plain(row["p50_ms"]), plain(row["p99_ms"]), row["deadline_misses"],
                          plain(row["ms_per_session"]), f"{plain(row['throughput_gain'])}×"))
    return "\n".join(lines) if len(lines) > 2 else ""


def contexts(result: dict) -> str:
    """The model's step after so many frames."""
    limit = result.get("context_frames")
    lines = [line(f"frames before (the model attends to the last {limit})", "step p50 ms", "step p99 ms"), "|---:|---:|---:|"]
    lines += [line(round(row["frames"]), plain(row["p50_ms"]), plain(row["p99_ms"])) for row in result.get("by_context", ())]
    return "\n".join(lines) if len(lines) > 2 else ""


def call(result: dict) -> str:
    """Parts of a call: time of a frame, memory of the process, size of the session. Of a long one each fifth part."""
    found = result.get("call") or []
    lines = [line("until minute", "p50 ms", "p99 ms", "max ms", "over 80 ms", "memory of the process MB", "session MB"),
             "|" + "---:|" * 7]
    for number, row in enumerate(found):
        if len(found) <= 10 or number % 5 == 4 or number == 0:
            lines.append(line(f"{row['until_minute']:g}", plain(row["p50_ms"]), plain(row["p99_ms"]), plain(row["max_ms"]),
                              row["deadline_misses"], f"{row['memory_mb']:.0f}", _megabytes(row.get("session_bytes"))))
    return "\n".join(lines) if found else ""


def memory(result: dict) -> str:
    """What a process and a conversation hold."""
    found = result.get("memory")
    if not found:
        return ""
    return ("| memory | |\n|---|---:|\n"
            f"| of the process, at the end | {found['resident_mb']:.0f} MB |\n| at its greatest | {found['peak_mb']:.0f} MB |\n"
            f"| of one more conversation | {_megabytes(found['bytes_per_session'])} MB |")


def line(*cells: object) -> str:
    """One line of a table."""
    return f"| {' | '.join(map(str, cells))} |"


def _megabytes(count: float | None) -> str:
    return "—" if count is None else f"{count / 1e6:.3f}"


def plain(value: float | None) -> str:
    """A number with as many digits as mean something."""
    if value is None:
        return "—"
    return str(value) if isinstance(value, int) else f"{value:.3g}" if abs(value) < 1 else f"{value:.2f}"
