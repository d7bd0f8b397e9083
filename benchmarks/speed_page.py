"""Puts the measurements in docs/results into the tables and plots of docs/speed.md; nothing in them is written by hand.

    python -m benchmarks.speed_page

Each table stands between `<!-- speed:NAME -->` and `<!-- /speed -->`. A test writes the page anew and fails where it differs.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.cost import filled_share, least_codec_ms, least_ms, middle_context
from benchmarks.record import ROOT
from duplex.errors import InputError
from duplex.units import seconds_to_frame
from infer import cli

PAGE, RESULTS, PLOT = ROOT / "docs" / "speed.md", ROOT / "docs" / "results", "speed-growth.png"
SIZES = ("random-4m", "random-25m", "random-90m")
RATIO_TARGETS = {("random-4m", "native"): 12, ("random-25m", "native"): 7, ("random-90m", "native"): 4,
                 ("random-25m", "native-int8"): 15, ("random-90m", "native-int8"): 8}
"""Least times that `LMGen.step` should take of a lane's step, by model and lane."""
LANES = ("naive", "native-int8", "native-int4", "compiled")
"""Lanes that are shown beside the native one where a result has them."""
_BLOCK = re.compile(r"(<!-- speed:([\w-]+) -->\n).*?(<!-- /speed -->)", re.DOTALL)


def result(name: str, folder: Path = RESULTS) -> dict[str, Any]:
    """The measurement called `name`; InputError when it is not there."""
    path = folder / f"{name}.json"
    if not path.is_file():
        raise InputError(f"there is no {path.name} in docs/results yet")
    return record.read(path)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown; numbers stand to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join("| " + " | ".join(map(str, row)) + " |\n" for row in lines)


def _source(*names: str) -> str:
    """Where the numbers above come from."""
    found = [result(name) for name in names]
    return "\n" + "".join(
        f"<sub>`{r['command']}`: {r['date']}, commit {r['commit']}, seed {r['seed']}, {r['machine']}</sub>  \n" for r in found)


def _ms(value: float) -> str:
    return f"{value:.2f}"


def _tail(frames: int) -> str:
    """What the nearest rank of p99 is among so many frames."""
    return "p99" if frames >= 100 else f"max of {frames}"


def _rounds(r: dict[str, Any], row: dict[str, Any]) -> int:
    """Frames that a row of `by_rows` is the statistics of; older results tell it by their command alone."""
    given = re.search(r"--rounds (\d+)", r["command"])
    return row.get("n") or int(given[1] if given else 8)


def _context(r: dict[str, Any]) -> str:
    return f"{middle_context(r)} of {r['context_frames']}"


def _codec_context(r: dict[str, Any]) -> str:
    """The same for the codec's attention, whose window older results do not name."""
    behind, whole = r["warmup_frames"] + r["frames"] // 2, r.get("codec_context_frames")
    return f"{min(behind, whole)} of {whole}" if whole else f"{behind}"


def _lane(r: dict[str, Any], name: str) -> dict[str, Any]:
    """A lane's stages; InputError where it was not run."""
    key = "stages" if name == r["backend"] else name
    if key not in r:
        raise InputError(f"the result of {r['model']} has no lane {name}")
    return r[key]


def at_full_context(r: dict[str, Any], lane: str = "native") -> float | None:
    """Processor ms of a lane's step at a full context, an estimate: its median, and of the exact step's growth from an empty to a
    full context the part that was missing. The median alone where nothing was missing; None where the growth was not measured."""
    steps = {row["frames"]: row["cpu_p50_ms"] for row in r.get("by_context", ())}
    measured, missing, full = _lane(r, lane)["model"]["cpu_p50_ms"], 1 - filled_share(r), r["context_frames"]
    if not missing:
        return measured
    return measured + missing * (steps[full] - steps[0]) if {0, full} <= steps.keys() else None


def frame() -> str:
    r = result("latency-tiny")
    rows = [(name, *(_ms(s[key]) for key in ("p50_ms", "p95_ms", "p99_ms", "max_ms")), f"{s['real_time_factor']:.3f}",
             f"{s['deadline_misses']} of {r['frames']}", *(_ms(s[key]) for key in ("cpu_p50_ms", "cpu_p99_ms")))
            for name, s in {**r["stages"], "**session**": r["session"]["session"]}.items()]
    tail = _tail(r["frames"])
    head = ("stage", "p50 ms", "p95", tail, "max", "RTF", "over 80 ms", "processor p50", tail)
    return table(head, rows) + _source("latency-tiny")


def _models() -> list[tuple[str, dict[str, Any]]]:
    """The models that were run beside the reference, those that are there."""
    names = ("tiny-moshi", *SIZES, "random-mimi")
    return [(name, result(f"latency-{name}")) for name in names if (RESULTS / f"latency-{name}.json").is_file()]


def ratios() -> str:
    found, rows = _models(), []
    lanes = [lane for lane in LANES if any(lane in r.get("moshi_over", ()) for _, r in found)]
    for name, r in found:
        other, theirs, full = r.get("moshi_over", {}), r["moshi"]["model"]["cpu_p50_ms"], at_full_context(r)
        cells = [f"{other[key]['model']:.1f}×" if key in other else "—" for key in lanes]
        same = [", ".join(f"{lane} {x[f'equal_{what}']} of {x[what]}" for lane, x in r.get("agreement", {}).items()) or "—"
                for what in ("tokens", "codes")]
        rows.append((name, f"{r['cost']['lm_parameters'] / 1e6:.1f} M", r["frames"], _context(r), _ms(theirs),
                     _ms(r["stages"]["model"]["cpu_p50_ms"]), f"**{r['moshi_over_ours_cpu']['model']:.1f}×**",
                     "—" if full is None else f"{theirs / full:.1f}×", *cells, *same))
    head = ("model", "parameters", "n", "context", "`LMGen.step` ms", "native ms", "native", "native, full context (estimate)",
            *lanes, "same tokens", "same codes")
    return table(head, rows) + _source(*(f"latency-{name}" for name, _ in found))


def full_context() -> str:
    """What the ratios are when the whole context is filled, in sentences."""
    lines = []
    for (name, lane), limit in RATIO_TARGETS.items():
        r = result(f"latency-{name}")
        theirs, ours, full = r["moshi"]["model"]["cpu_p50_ms"], _lane(r, lane)["model"]["cpu_p50_ms"], at_full_context(r, lane)
        if full is None:
            lines.append(f"- {name}, {lane}: the growth with the context was not measured.\n")
            continue
        verdict = f"{'which reaches' if theirs / full >= limit else '**below**'} the target of {limit}×"
        if full == ours:
            lines.append(f"- {name}, {lane}: measured at a full context, {theirs / full:.1f}×, {verdict}.\n")
        else:
            lines.append(f"- {name}, {lane}: measured at {_context(r)} frames {theirs / ours:.1f}×; at a full context, estimated,"
                         f" {full:.2f} ms, {theirs / full:.1f}×, {verdict}.\n")
    return "".join(lines)


def codec() -> str:
    rows = []
    for name, r in _models():
        if name in ("tiny-moshi", "random-mimi"):
            theirs, ours = r["moshi"], r["stages"]
            both = [sum(lane[stage]["cpu_p50_ms"] for stage in ("encode", "decode")) for lane in (theirs, ours)]
            stages = [f"{_ms(theirs[s]['cpu_p50_ms'])} / {_ms(ours[s]['cpu_p50_ms'])}" for s in ("encode", "decode")]
            rows.append((f"{r['cost']['codec_parameters'] / 1e6:.1f} M", r["frames"], _codec_context(r), *stages,
                         f"**{both[0] / both[1]:.1f}×**", f"{r['cost']['codec_flops'] / 1e6:.0f} MFLOP",
                         f"{r['multiple_of_roofline']['codec']:.2f}"))
    head = ("codec", "n", "context", "encode ms, upstream / native", "decode ms", "both", "work", "native over roofline")
    return table(head, rows) + _source("latency-tiny-moshi", "latency-random-mimi")


def codec_calls() -> str:
    r, sizes = result("codec-calls"), {other["model"]: other["cost"]["codec_parameters"] for _, other in _models()}
    rows = [(f"{(found.get('codec_parameters') or sizes[name]) / 1e6:.1f} M",
             *(f"{_ms(found['ms'][way]['encode'])} + {_ms(found['ms'][way]['decode'])}" for way in found["ms"]),
             f"**{found['over_fused']['native stream']:.2f}×**", f"{found['over_fused']['upstream stream']:.2f}×")
            for name, found in r["codecs"].items()]
    ways = next(iter(r["codecs"].values()))["ms"]
    head = ("codec", *(f"{way}, ms" for way in ways), "native over fused", "upstream over fused")
    return table(head, rows) + _source("codec-calls")


def _multiple(r: dict[str, Any]) -> float:
    """A native step over the least time for the context that it had."""
    return r["stages"]["model"]["cpu_p50_ms"] / least_ms(r["cost"], filled_share(r))


def cost() -> str:
    rows = []
    for name, r in _models():
        c, bound, share = r["cost"], r["cost"]["roofline"], filled_share(r)
        rows.append((name, _context(r), f"{bound['lm_weight_bytes'] / 1e6:.1f} MB + {share * bound['kv_bytes'] / 1e6:.1f} MB",
                     f"{(c['temporal_flops'] + c['depth_flops']) / 1e6:.0f}", f"{bound['model_bandwidth_gb_s']:.1f}",
                     _ms(least_ms(c, share)), _ms(r["stages"]["model"]["cpu_p50_ms"]), f"{_multiple(r):.2f}"))
    head = ("model", "context", "weights + keys and values", "MFLOP", "GB/s", "roofline ms", "native ms", "multiple")
    return table(head, rows) + _source(*(f"latency-{name}" for name, _ in _models()))


def rows_of(name: str) -> str:
    r = result(name)
    tail = _tail(min(_rounds(r, x) for x in r["by_rows"]))
    lines = [(int(x["rows"]), _rounds(r, x), _ms(x["p50_ms"]), _ms(x["p99_ms"]), _ms(x["ms_per_session"]),
              f"{x['throughput_gain']:.1f}×", _ms(x["model_ms"]), f"{x['model_throughput_gain']:.1f}×") for x in r["by_rows"]]
    head = ("rows", "n", "frame p50 ms", tail, "processor ms per session", "gain", "model alone", "gain")
    return table(head, lines) + _source(name)


def context() -> str:
    names = [f"latency-{name}" for name, r in _models() if "by_context" in r]
    found = [result(name) for name in names]
    frames = [row["frames"] for row in found[0]["by_context"]]
    lines = [(int(t), *(_ms(r["by_context"][i]["cpu_p50_ms"]) for r in found)) for i, t in enumerate(frames)]
    counts = [f", n = {r['by_context'][0]['n']}" if "n" in r["by_context"][0] else "" for r in found]
    head = ("frames of context", *(f"{r['model']} ms{count}" for r, count in zip(found, counts, strict=True)))
    return table(head, lines) + _source(*names)


def quantised() -> str:
    r = result("quantised")
    lines = [(name, f"{x['text_nats']:.4f}", f"{x['text_excess']:+.4f}", f"{x['audio_nats']:.4f}", f"{x['audio_excess']:+.4f}",
              f"{x['text_agreement']:.2%}", f"{x['audio_agreement']:.2%}") for name, x in r["schemes"].items()]
    head = ("weights", "text nats", "excess", "audio nats", "excess", "same text token", "same code")
    return table(head, lines) + _source("quantised")


def library() -> str:
    times = result("quantised").get("frame_ms")
    if not times:
        raise InputError("the result has no times; add --speed tiny random-25m")
    names = list(dict.fromkeys(name for row in times.values() for name in row))
    lines = [(model, *(_ms(row[name]) if name in row else "—" for name in names)) for model, row in times.items()]
    return table(("model, processor ms", *names), lines) + _source("quantised")


def kinds() -> str:
    found = result("latency-tiny-moshi")["latency_kinds"]
    lines = [(name, ", ".join(f"{key.removesuffix('_ms')} {value} ms" if key.endswith("ms") else f"{key} = {value}"
                              for key, value in kind.items() if key != "what"), kind["what"]) for name, kind in found.items()]
    return table(("latency", "measured", "what"), lines) + _source("latency-tiny-moshi")


def start() -> str:
    lines = [(name, *(f"{x[key]:.2f}" for key in ("total_s", "cpu_s", "imports_s", "model_s", "first_frames_s")))
             for name, x in zip(("first", "again"), result("latency-tiny-moshi")["start"], strict=True)]
    head = ("start", "first frame s", "of the processor", "imports", "model", "session and frames")
    return table(head, lines) + _source("latency-tiny-moshi")


def call() -> str:
    r = result("latency-tiny")
    frames = seconds_to_frame(60 * r["call"][-1]["until_minute"]) // len(r["call"])
    tail = _tail(frames)
    lines = [(f"{x['until_minute']:g}", frames, _ms(x["p50_ms"]), _ms(x["p99_ms"]), _ms(x["cpu_p50_ms"]), _ms(x["cpu_p99_ms"]),
              int(x["deadline_misses"]), f"{x['memory_mb']:.0f}") for x in r["call"]]
    head = ("until minute", "n", "p50 ms", tail, "processor p50", tail, "over 80 ms", "memory MB")
    return table(head, lines) + _source("latency-tiny")


def training(name: str = "training") -> str:
    lines = []
    for shape, ways in result(name)["shapes"].items():
        for way, x in ((way, x) for way, x in ways.items() if way != "parameters"):
            lines.append((f"{shape}, {way}", f"{x['frames_per_s']:.0f}", f"{x['tokens_per_s']:.0f}", f"{x['kept_mb']:.0f}",
                          f"{x['over_reference']:.2f}×"))
    return table(("pass", "frames/s", "tokens/s", "MB kept", "over reference"), lines) + _source(name)


def dialogue() -> str:
    """The behaviour of exact and of rounded weights in the same conversations; what is missing says so."""
    names = {scheme: f"dialogue-{scheme}" for scheme in ("exact", "int8", "int4")}
    there = {scheme: result(name) for scheme, name in names.items() if (RESULTS / f"{name}.json").is_file()}
    if not there:
        raise InputError(f"there is no {names['int8']}.json in docs/results yet")
    from benchmarks.dialogue import BEHAVIOUR

    scores = {scheme: r["systems"][next(iter(r["backends"]))]["behaviour"] for scheme, r in there.items()}
    lines = [(f"{what} {better}", *(record.cell(scores[s].get(key), unit) if s in scores else "not measured" for s in names))
             for key, what, unit, better in BEHAVIOUR if any(key in found for found in scores.values())]
    return table(("measure", *names), lines) + _source(*(names[scheme] for scheme in there))


def profiled(name: str) -> str:
    """Where the time of frames or passes goes."""
    groups, lines = ("products", "attention", "elementwise", "memory", "overhead"), []
    for x in result(name)["lines"]:
        rows = f", {x['rows']} row{'s' * (x['rows'] > 1)}" if "rows" in x else ""
        rates = f"{x['weights_gb_s']:.1f} / {x['kv_gb_s']:.1f} / {x['loop_gb_s']:.1f}" if "loop_gb_s" in x else "—"
        lines.append((f"{x['model']}, {x['way']}{rows}", _ms(x["total_ms"]), *(_ms(x[f"{group}_ms"]) for group in groups),
                      x.get("operators", "—"), rates))
    return table(("processor ms", "all", *groups, "operators", "GB/s: weights / keys and values / loop"), lines) + _source(name)


def imported() -> str:
    """Where the time of a start goes, by package."""
    x = result("profile-start")["start"]
    lines = [(p["package"], p["modules"], f"{p['import_s']:.2f}", f"{p['loading_s']:.2f}") for p in x["packages"][:8]]
    rest = x["packages"][8:]
    lines.append((f"{len(rest)} others", *(f"{sum(p[key] for p in rest):{form}}" for key, form in (
        ("modules", "d"), ("import_s", ".2f"), ("loading_s", ".2f")))))
    lines += [("all imports", "", f"{sum(p['import_s'] for p in x['packages']):.2f}", f"{x['imports_while_loading_s']:.2f}"),
              ("stage, with all else in it", "", f"{x['imports_s']:.2f}", f"{x['model_s']:.2f}")]
    head = ("package", "modules", "seconds before the model", "while it is loaded")
    return table(head, lines) + _source("profile-start")


def targets() -> str:
    """What was aimed at, what was measured, and whether that is enough; a measurement that is missing is named so."""
    def codec_over(name: str) -> float:
        lanes = result(f"latency-{name}")
        theirs, ours = (sum(lanes[lane][s]["cpu_p50_ms"] for s in ("encode", "decode")) for lane in ("moshi", "stages"))
        return theirs / ours

    def session(key: str) -> float:
        return result("latency-tiny")["session"]["session"][key]

    def started(key: str) -> float:
        return result("latency-tiny-moshi")["start"][1][key]

    def trained(shape: str, way: str) -> float:
        return result("training")["shapes"][shape][way]["over_reference"]

    def behind(name: str, of: Callable[[dict[str, Any]], str] = _context) -> Callable[[], str]:
        return lambda: of(result(f"latency-{name}"))

    lines: list[tuple] = [
        ("90M over the bandwidth roofline", lambda: _multiple(result("latency-random-90m")), 1.6, False, "×",
         behind("random-90m")),
        ("nats lost to int8, per audio token", lambda: result("quantised")["schemes"]["int8"]["audio_excess"], 0.01, False, ""),
        ("small codec over upstream", lambda: codec_over("tiny-moshi"), 3, True, "×", behind("tiny-moshi", _codec_context)),
        ("released codec over upstream", lambda: codec_over("random-mimi"), 2.5, True, "×",
         behind("random-mimi", _codec_context)),
        ("default model, whole frame, p99 by the clock", lambda: session("p99_ms"), 15, False, " ms", behind("tiny")),
        ("the same in processor time", lambda: session("cpu_p99_ms"), 15, False, " ms", behind("tiny")),
        ("8 rows over 1, 25M model", lambda: next(
            x for x in result("latency-random-25m")["by_rows"] if x["rows"] == 8)["model_throughput_gain"], 5, True, "×",
         lambda: "full"),
        ("second start to first frame, by the clock", lambda: started("total_s"), 3, False, " s"),
        ("the same in processor time", lambda: started("cpu_s"), 3, False, " s"),
        ("training 4M, same work", lambda: trained("random-4m", "ours"), 1.5, True, "×"),
        ("training 4M, depth on a quarter", lambda: trained("random-4m", "quarter"), 2, True, "×"),
        ("training 25M, same work", lambda: trained("random-25m", "ours"), 1.5, True, "×"),
        ("training 25M, depth on a quarter", lambda: trained("random-25m", "quarter"), 2, True, "×"),
    ]
    rows = [row for (name, lane), limit in RATIO_TARGETS.items() for row in _ratio_targets(name, lane, limit)]
    return table(("what", "context", "measured", "target", "met"), [*rows, *(_judged(*line) for line in lines)])


def _ratio_targets(name: str, lane: str, limit: float) -> list[tuple[str, ...]]:
    """The line of a ratio as it was measured, and where the context was not full one with the estimate for a full one."""
    source, what = f"latency-{name}", f"{name.removeprefix('random-').upper()}, {'exact' if lane == 'native' else lane[7:]}"

    def over(full: bool) -> float:
        r = result(source)
        ours = at_full_context(r, lane) if full else _lane(r, lane)["model"]["cpu_p50_ms"]
        if ours is None:
            raise InputError("the growth with the context was not measured")
        return r["moshi"]["model"]["cpu_p50_ms"] / ours

    rows = [_judged(f"{what}, over `LMGen.step`", lambda: over(False), limit, True, "×", lambda: _context(result(source)))]
    if rows[0][-1] != "—" and filled_share(result(source)) < 1:
        rows.append(_judged(f"{what}, estimated", lambda: over(True), limit, True, "×", lambda: "full"))
    return rows


def _judged(what: str, measure: Callable[[], float], limit: float, least: bool, unit: str,
            context: Callable[[], str] = lambda: "—") -> tuple[str, ...]:
    """A line of the targets."""
    wanted = f"{'≥' if least else '≤'} {limit:g}{unit}"
    try:
        value = measure()
    except InputError:
        return what, "—", "not measured", wanted, "—"
    met = value >= limit if least else value <= limit
    return what, context(), f"{value:.4f}" if limit < 1 else f"{value:.2f}{unit}", wanted, "yes" if met else "**no**"


TABLES: dict[str, Callable[[], str]] = {
    "frame": frame, "ratios": ratios, "full-context": full_context, "codec": codec, "codec-calls": codec_calls, "cost": cost,
    "rows-tiny": lambda: rows_of("latency-tiny"),
    "rows-25m": lambda: rows_of("latency-random-25m"), "context": context, "quantised": quantised, "library": library,
    "kinds": kinds, "start": start, "call": call, "training": training, "targets": targets, "dialogue": dialogue,
    "training-compiled": lambda: training("training-compiled"), "profile-rows": lambda: profiled("profile-rows"),
    "profile-training": lambda: profiled("profile-training"), "profile-start": imported}


def written(page: str) -> str:
    """The page with every table made anew; InputError for a table that nobody makes."""
    def fill(match: re.Match) -> str:
        if match[2] not in TABLES:
            raise InputError(f"{PAGE.name}: no table '{match[2]}'; known: {', '.join(TABLES)}")
        try:
            content = TABLES[match[2]]()
        except InputError as error:
            content = f"Not measured: {error}\n".replace(f"{RESULTS}/", "")
        return f"{match[1]}{content}{match[3]}"

    return _BLOCK.sub(fill, page)


def plot(path: Path) -> None:
    """Time per frame over context, model size and rows, each with the time that memory and arithmetic need at least."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(13, 4), layout="constrained")
    for name, r in ((name, r) for name, r in _models() if "by_context" in r):
        frames = [row["frames"] for row in r["by_context"]]
        line = left.plot(frames, [row["cpu_p50_ms"] for row in r["by_context"]], "o-", label=name)[0]
        left.plot(frames, [least_ms(r["cost"], t / r["context_frames"]) for t in frames], ":", color=line.get_color())
    left.set(xlabel="frames of context", ylabel="model step, processor ms (dotted: roofline)", yscale="log", title="context")
    sizes = [r for name, r in _models() if name in SIZES]
    parameters = [r["cost"]["lm_parameters"] / 1e6 for r in sizes]
    for label, lane in (("LMGen", "moshi"), ("native", "native"), ("native-int8", "native-int8")):
        middle.plot(parameters, [_lane(r, lane)["model"]["cpu_p50_ms"] for r in sizes], "o-", label=label)
    bounds = [least_ms(r["cost"], filled_share(r)) for r in sizes]
    middle.plot(parameters, bounds, ":", color="black", label="roofline, exact")
    middle.set(xlabel="million parameters", ylabel="model step, processor ms", xscale="log", yscale="log", title="model size")
    for name in ("latency-tiny", "latency-random-25m"):
        r = result(name)
        rows = [x["rows"] for x in r["by_rows"]]
        tail = _tail(min(_rounds(r, x) for x in r["by_rows"]))
        line = right.plot(rows, [x["p99_ms"] for x in r["by_rows"]], "o-", label=f"{r['model']}, whole frame, {tail}")[0]
        least = [least_ms(r["cost"], 1, int(b)) + least_codec_ms(r["cost"], int(b)) for b in rows]
        right.plot(rows, least, ":", color=line.get_color())
    right.axhline(80, color="grey", linewidth=0.8)
    right.set(xlabel="rows", ylabel="ms (grey: 80 ms; dotted: roofline)", xscale="log", yscale="log", title="rows of a batch")
    for axis in (left, middle, right):
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser("benchmarks.speed_page", "Puts the measurements into the tables and plots of docs/speed.md.")

    def run(_: object) -> None:
        page = written(PAGE.read_text(encoding="utf-8"))
        plot(RESULTS / PLOT)
        PAGE.write_text(page, encoding="utf-8")
        print(f"{PAGE.relative_to(ROOT)}: {len(_BLOCK.findall(page))} tables")

    return cli.run(parser, run, argv)


if __name__ == "__main__":
    sys.exit(main())
