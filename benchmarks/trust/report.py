"""The report on promises: one JSON file that sections merge into, a page, and Markdown tables.

The JSON holds `areas`: {area: {date, commit, machine, seed, command, short, seconds, promises: [...]}}, so that a section that is
run by itself replaces its own lines and leaves those of the others with the date and the commit that they were measured at.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks import record
from benchmarks.trust import SECTIONS, Promise
from duplex.errors import InputError

FILE = "trust.json"
MAIN = {
    "sessions": ("rated for", "step, p99 on the wall", "frames missed", "frame deficit", "p99 step, processor time",
                 "memory without mapped files", "descriptors"),
    "isolation": ("same in every slot",),
    "faults": ("abrupt disconnects", "falls silent", "does not read", "memory that it costs", "real time: backlog", "answered",
               "costs a neighbour", "a failure in one"),
    "network and devices": ("over TCP", "off by +200 ppm"), "echo": ("false yields",),
    "parsers": ("wire: any bytes", "costliest"), "checkpoints": ("truncated", "archives"),
    "training": ("kill -9",), "supply chain": ("advisory",)}
"""Of each area, the lines that stand for it where not all have room, each by a part of what it promises."""


def merged(before: dict | None, area: str, promises: Sequence[Promise], *, command: str, seed: int, short: bool,
           seconds: float) -> dict:
    """The result with this area's lines in place of its former ones."""
    head = {key: value for key, value in record.stamp("trust", seed).items() if key not in ("notice", "command")}
    areas = dict((before or {}).get("areas", {}))
    areas[area] = {key: head[key] for key in ("date", "commit", "machine", "seed")} | {
        "command": command, "short": short, "seconds": round(seconds, 1), "promises": [asdict(line) for line in promises]}
    return _ordered(head | {"command": "python -m benchmarks.trust"}, areas)


def joined(results: Sequence[dict]) -> dict:
    """One result of several: of every area the one that was measured last. Raises InputError for what is no such result."""
    areas: dict[str, dict] = {}
    for result in results:
        if result.get("benchmark") != "trust":
            raise InputError(f"a result of '{result.get('benchmark')}' is no report on promises; give files called {FILE}")
        for area, one in result["areas"].items():
            if area not in areas or one["date"] >= areas[area]["date"]:
                areas[area] = one
    return _ordered(max(results, key=lambda result: result["date"]), areas)


def _ordered(head: dict, areas: dict[str, dict]) -> dict:
    """The result with these areas, in the order of the report."""
    order = list(SECTIONS.values())
    names = sorted(areas, key=lambda name: order.index(name) if name in order else len(order))
    return {**head, "areas": {name: areas[name] for name in names}}


def lines_of(result: dict) -> list[Promise]:
    """All promises of a result, in the order of the report."""
    return [Promise(**line) for area in result["areas"].values() for line in area["promises"]]


def broken(result: dict) -> list[Promise]:
    """The promises that were not kept."""
    return [line for line in lines_of(result) if line.met is False]


def verdict(met: bool | None) -> str:
    """Kept, broken or not measured, in a word."""
    return {True: "yes", False: "**no**", None: "not measured"}[met]


def table(lines: Sequence[Promise]) -> str:
    """Markdown: promise, limit, what was measured (or in short why nothing was), verdict."""
    rows = ["| area | promise | limit | measured | kept |", "|---|---|---|---|---|"]
    rows += [f"| {line.area} | {line.promise} | {line.limit} | {line.measured or line.how.partition(':')[0]} | "
             f"{verdict(line.met)} |" for line in map(_safe, lines)]
    return "\n".join(rows)


def main_lines(result: dict) -> list[Promise]:
    """The lines of `MAIN`, in the order of the report."""
    return [line for line in lines_of(result) if any(part in line.promise for part in MAIN.get(line.area, ()))]


def main_table(lines: Sequence[Promise]) -> str:
    """Markdown: promise, limit, what was measured, verdict, and how it was measured, or why it was not and what was seen."""
    return "\n".join(["| area | promise | limit | measured | kept | how |", "|---|---|---|---|---|---|",
                      *(f"| {line.area} | {line.promise} | {line.limit} | {line.measured} | {verdict(line.met)} | {line.how} |"
                        for line in map(_safe, lines))])


def how_table(lines: Sequence[Promise]) -> str:
    """Markdown: how each line was measured."""
    return "\n".join(["| area | promise | how |", "|---|---|---|",
                      *(f"| {line.area} | {line.promise} | {line.how} |" for line in map(_safe, lines))])


def origin_table(result: dict) -> str:
    """Markdown: when, where and by which command each area was measured."""
    rows = ["| area | date | commit | machine | seconds | command |", "|---|---|---|---|---:|---|"]
    rows += [f"| {area} | {one['date']} | {one['commit']} | {one['machine']} | {one['seconds']:g} | `{one['command']}`"
             f"{' (short form)' if one['short'] else ''} |" for area, one in result["areas"].items()]
    return "\n".join(rows)


def tables(result: dict) -> list[tuple[str, str]]:
    """(title, Markdown) of the tables: all promises, how they were measured, where they come from, the main ones, each area's."""
    lines = lines_of(result)
    return [("Promises", table(lines)), ("How they were measured", how_table(lines)),
            ("Where they come from", origin_table(result)), ("Main promises", main_table(main_lines(result))),
            *((area, table([line for line in lines if line.area == area])) for area in result["areas"])]


def page(result: dict) -> str:
    """The report as HTML."""
    from benchmarks.report import STYLE, table_html

    lines = lines_of(result)
    counts = [sum(line.met is met for line in lines) for met in (True, False, None)]
    style = STYLE + "td,th{white-space:normal;text-align:left;vertical-align:top}"
    parts = ["<!doctype html><html lang='en'><meta charset='utf-8'><title>duplex: promises</title>",
             f"<style>{style}</style><h1>duplex: promises</h1>",
             f"<p>{counts[0]} kept, {counts[1]} broken, {counts[2]} not measured.</p>"]
    parts += [f"<h2>{html.escape(title)}</h2>{table_html(text)}" for title, text in tables(result)[:3]]
    return "\n".join(parts) + "</html>\n"


def write(folder: Path, result: dict) -> None:
    """Writes trust.json, index.html and trust.md into the folder."""
    record.write(folder / FILE, result)
    record.replace_file(folder / "index.html", lambda part: part.write_text(page(result), encoding="utf-8"))
    text = "\n\n".join(f"## {title}\n\n{text}" for title, text in tables(result)[:3])
    record.replace_file(folder / "trust.md", lambda part: part.write_text(f"# Promises\n\n{text}\n", encoding="utf-8"))


def read(folder: Path) -> dict | None:
    """The result that is there; None when there is none. Raises InputError for a file that is no such result."""
    return record.read(folder / FILE) if (folder / FILE).exists() else None


def _safe(line: Promise) -> Promise:
    """The line without what would end a cell of a table."""
    return Promise(**{name: value.replace("|", "/").replace("\n", " ") if isinstance(value, str) else value
                      for name, value in asdict(line).items()})
