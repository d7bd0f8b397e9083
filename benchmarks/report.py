"""A page of results: tables, plots and audio players; two runs side by side; and the tables in the docs.

    python -m benchmarks.report out/bench [--out out/bench/index.html] [--against EARLIER]
    python -m benchmarks.report --docs README.md docs/bench.md      make the marked tables of these files anew from their JSON

A run is a folder of results (``*.json``), or single files. `--against` shows for every number of both runs what became of it.
"""

from __future__ import annotations

import argparse
import base64
import html
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import plots, record, render
from duplex.audio import read_audio, to_mono, write_wav
from duplex.errors import InputError
from infer import cli
from train.files import replace_file

TITLES = {"card": "Model card", "dialogue": "Conversation", "capability": "Capabilities", "codec": "Codec",
          "ablation": "The same questions under other conditions", "patience": "Patience", "latency": "Latency",
          "bench": "How long it took"}
"""Benches in the order of the page, and what their sections are called."""
STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:1180px;margin:2rem auto;padding:0 1rem;color:#1a202c}
h1{margin-bottom:0}h2{border-top:2px solid #2b6cb0;padding-top:.6rem;margin-top:2.5rem}h3{margin:1.6rem 0 .2rem}
nav{position:sticky;top:0;background:#fff;padding:.5rem 0;border-bottom:1px solid #e2e8f0;z-index:1}
nav a{margin-right:1.2rem;color:#2b6cb0;text-decoration:none}section{scroll-margin-top:3rem}
table{border-collapse:collapse;margin:.6rem 0;display:block;overflow-x:auto}
td,th{border-bottom:1px solid #e2e8f0;padding:.25rem .6rem;text-align:right;font-size:13px;white-space:nowrap}
th{background:#f7fafc;vertical-align:bottom;white-space:normal}td:first-child,th:first-child,.text{text-align:left;white-space:normal}td:first-child{min-width:9rem}.text{min-width:14rem}
tr:hover td{background:#f7fafc}.yes{color:#276749;font-weight:600}.no{color:#c53030}
.notice{background:#fffbea;border-left:4px solid #ecc94b;padding:.4rem .8rem;font-size:13px}
.note,figcaption{color:#4a5568;font-size:13px}.figures{display:flex;flex-wrap:wrap;gap:1.5rem;align-items:end}
figure{margin:0;max-width:560px}img{max-width:100%}audio{width:200px;height:32px;vertical-align:middle}"""
CONTROLS = ("always-silent", "always-talking", "VAD-end-pointer", "oracle")
PLAYED = 2
"""Conversations of each task that a page lets one hear."""


@dataclass(frozen=True)
class Sound:
    """A conversation to listen to."""

    system: str
    task: str
    item: str
    address: str
    """Relative to the page."""


def load(paths: Sequence[Path]) -> dict[str, dict]:
    """{benchmark: result} of folders and files; the newest of each kind. InputError when there is none."""
    files = [file for path in paths for file in (sorted(path.glob("*.json")) if path.is_dir() else [path])]
    found: dict[str, dict] = {}
    for result in map(record.read, files):
        kind = result["benchmark"]
        if kind in render.RENDERERS and str(result.get("date", "")) >= str(found.get(kind, {}).get("date", "")):
            found[kind] = result
    if not found:
        raise InputError(f"{paths[0]}: no results; make some with python -m benchmarks.bench --out {paths[0].name}")
    return {kind: found[kind] for kind in TITLES if kind in found}


def page(results: dict[str, dict], audio: Sequence[Sound] = (), before: dict[str, dict] | None = None) -> str:
    """The page as HTML: ``audio`` holds what can be listened to, ``before`` the results of an earlier run."""
    newest = max(results.values(), key=lambda result: str(result.get("date", "")))
    origin = " · ".join(str(newest.get(what, "?")) for what in ("date", "commit", "machine"))
    model = next((str(r["model"]) for r in results.values() if r.get("model")), "")
    named = {kind: TITLES[kind] for kind in results} | ({"listen": "Listen"} if audio else {})
    parts = ["<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
             f"<title>duplex: benchmarks</title><style>{STYLE}</style><h1>Benchmarks of {html.escape(model or 'duplex')}</h1>"
             f"<p class='note'>{html.escape(origin)}</p><nav>"
             + "".join(f"<a href='#{kind}'>{html.escape(title)}</a>" for kind, title in named.items())
             + f"</nav><p class='notice'>{html.escape(record.NOTICE)} Brackets hold 95 % intervals (percentile bootstrap over "
             "items), n is the number of items.</p>"]
    if before:
        parts.append("<h2>Against the earlier run</h2>" + table_html(comparison(before, results)))
    for kind, result in results.items():
        parts.append(f"<section id='{kind}'><h2>{html.escape(TITLES[kind])}</h2>")
        made = render.tables(result)
        for title, text in made:
            parts.append(("" if title == TITLES[kind] else f"<h3>{html.escape(title)}</h3>") + table_html(text))
        figures = [f"<figure><img alt='{html.escape(caption)}' src='data:image/png;base64,{base64.b64encode(png).decode()}'>"
                   f"<figcaption>{html.escape(caption)}</figcaption></figure>" for caption, png in plots.of(result)]
        parts.append(f"<div class='figures'>{''.join(figures)}</div><p class='note'>{inline(render.provenance(result))}</p>"
                     "</section>")
    if audio:
        parts.append("<section id='listen'><h2>Listen</h2><p class='note'>Left the system, right the user.</p>" + players(audio)
                     + "</section>")
    return "\n".join(parts) + "</html>\n"


def players(audio: Sequence[Sound]) -> str:
    """A table of audio players: a row for each item, a column for each system."""
    systems = list(dict.fromkeys(sound.system for sound in audio))
    items = list(dict.fromkeys((sound.task, sound.item) for sound in audio))
    places = {(sound.system, sound.task, sound.item): sound.address for sound in audio}
    head = "".join(f"<th>{html.escape(system)}</th>" for system in systems)
    rows = ""
    for task, item in items:
        cells = ""
        for system in systems:
            source = places.get((system, task, item))
            cells += f"<td><audio controls preload='none' src='{html.escape(source)}'></audio></td>" if source else "<td>—</td>"
        rows += f"<tr><td>{html.escape(task.replace('_', ' '))}, item {html.escape(item)}</td>{cells}</tr>"
    return f"<table><tr><th>item</th>{head}</tr>{rows}</table>"


def numbers(node: object, path: tuple[str, ...] = ()) -> dict[str, tuple[float, float | None, float | None]]:
    """{name: (value, low, high)} of every estimate in a result, and of every time of a latency result."""
    found: dict[str, tuple[float, float | None, float | None]] = {}
    if isinstance(node, dict):
        if {"value", "low", "high", "n"} <= node.keys():
            return {" / ".join(path): (node["value"], node["low"], node["high"])} if node["value"] is not None else {}
        if "p50_ms" in node and "p99_ms" in node:
            return {f"{' / '.join(path)} / {key}": (node[key], None, None) for key in ("p50_ms", "p99_ms")}
        for key, value in node.items():
            if key not in ("details", "tasks", "seconds"):
                found |= numbers(value, (*path, str(key)))
    elif isinstance(node, list):
        for number, value in enumerate(node):
            name = value.get("name", value.get("temperature", number)) if isinstance(value, dict) else number
            found |= numbers(value, (*path, str(name)))
    return found


def comparison(before: dict[str, dict], after: dict[str, dict]) -> str:
    """Markdown: every number that both runs have, with its change; "apart" where the two intervals do not meet."""
    lines = ["| measure | before | after | change | |", "|---|---:|---:|---:|---|"]
    for kind in after:
        old, new = numbers(before.get(kind, {})), numbers(after[kind])
        for name in (name for name in new if name in old and not any(c in name for c in ("always ", "end-pointer", "oracle"))):
            (a, a_low, a_high), (b, b_low, b_high) = old[name], new[name]
            known = None not in (a_low, a_high, b_low, b_high)
            apart = "apart" if known and (a_high < b_low or b_high < a_low) else ""
            lines.append(f"| {kind} / {name} | {a:.4g} | {b:.4g} | {b - a:+.4g} | {apart} |")
    return "\n".join(lines) if len(lines) > 2 else "| measure |\n|---|\n| the two runs have no number in common |"


def table_html(text: str) -> str:
    """A Markdown table as HTML."""
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    head, body = rows[0], [row for row in rows[1:] if not set("".join(row)) <= set("-: ")]
    cells = "".join(f"<th>{inline(cell)}</th>" for cell in head)
    return (f"<table><tr>{cells}</tr>" + "".join(
        "<tr>" + "".join(f"<td{_class(cell)}>{inline(cell)}</td>" for cell in row) + "</tr>" for row in body) + "</table>")


def _class(cell: str) -> str:
    """How a cell looks: met or not, or words, which may wrap."""
    name = {"yes": "yes", "**no**": "no"}.get(cell) or ("text" if cell[:1].isalpha() and len(cell) > 20 else "")
    return f" class='{name}'" if name else ""


def inline(text: str) -> str:
    """Emphasis and code of Markdown as HTML, all else escaped."""
    text = html.escape(text)
    text = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", text)
    text = re.sub(r"\*(.+?)\*", r"<i>\1</i>", text)
    return re.sub(r"`(.+?)`", r"<code>\1</code>", text)


def conversations(outputs: Path, into: Path) -> list[Sound]:
    """Stereo recordings made of the outputs of a dialogue bench: the first of each system and task."""
    found = []
    for task in sorted(outputs.glob("*/*")):
        chosen = [folder for folder in sorted(task.glob("*"), key=lambda p: p.name.zfill(8)) if (folder / "output.wav").exists()]
        for folder in chosen[:PLAYED]:
            sides = [to_mono(read_audio(folder / name)) for name in ("output.wav", "input.wav")]
            length = max(map(len, sides))
            name = f"{task.parent.name}-{task.name}-{folder.name}.wav"
            into.mkdir(parents=True, exist_ok=True)
            write_wav(into / name, np.stack([np.pad(side, (0, length - len(side))) for side in sides]))
            found.append(Sound(task.parent.name, task.name, folder.name, f"{into.name}/{name}"))
    # The model first, then those that it is held against, in the order of the tables.
    return sorted(found, key=lambda sound: (CONTROLS.index(sound.system) if sound.system in CONTROLS else -1))


def run(args: argparse.Namespace) -> None:
    """Writes the page, or the tables of the docs."""
    for document in map(Path, args.docs or ()):
        if not document.is_file():
            raise InputError(f"{document}: no such file; check the path")
        text = render.refreshed(document)
        replace_file(document, lambda part, text=text: part.write_text(text, encoding="utf-8"))
        print(f"made the tables of {document} anew")
    if args.docs:
        return
    if not args.results:
        raise InputError("give results: a folder of *.json, or files")
    paths = [Path(path) for path in args.results]
    for path in paths:
        if not path.exists():
            raise InputError(f"{path}: no such file or folder; check the path")
    out = Path(args.out) if args.out else (paths[0] if paths[0].is_dir() else paths[0].parent) / "index.html"
    out.parent.mkdir(parents=True, exist_ok=True)
    outputs = Path(args.audio) if args.audio else out.parent / "dialogue"
    audio = conversations(outputs, out.parent / "audio") if outputs.is_dir() else []
    before = load([Path(args.against)]) if args.against else None
    text = page(load(paths), audio, before)
    replace_file(out, lambda part: part.write_text(text, encoding="utf-8"))
    print(f"wrote {out}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser("benchmarks.report", "Show results of the benchmarks.")
    parser.add_argument("results", nargs="*", metavar="RESULTS", help="a folder of results (*.json), or files")
    parser.add_argument("--out", metavar="FILE", help="the page; by default index.html beside the results")
    parser.add_argument("--against", metavar="RESULTS", help="results of an earlier run, to compare with")
    parser.add_argument("--audio", metavar="FOLDER", help="outputs of benchmarks.dialogue; by default dialogue/ beside the page")
    parser.add_argument("--docs", nargs="+", metavar="FILE", help="make the marked tables of these Markdown files anew")
    return cli.run(parser, run, argv)


if __name__ == "__main__":
    sys.exit(main())
