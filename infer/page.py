"""Conversations side by side on one page: players that can run together, timelines that follow them, and the figures.

    python -m infer.page out/a out/b --out out/compare.html

Made from the folders that `infer.simulate` and `infer.live --record` write. The page is one file of HTML that refers to
their recordings; it needs no network and no server.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template

from duplex.errors import InputError
from infer import cli
from infer.timeline import COLOURS

_MARKS = {"barge_in": ("#CC79A7", "barge-in"), "yielded": ("#0072B2", "yielded"), "false_yield": ("#444444", "false yield"),
          "backchannel": ("#009E73", "backchannel"), "truncated": ("#000000", "playback cut"), "resumed": ("#56B4E9", "resumed"),
          "script": ("#D55E00", "scripted line")}


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser("infer.page", "Put recorded conversations side by side on a page.")
    parser.add_argument("folders", nargs="+", metavar="DIR", help="folders that hold conversation.wav and events.jsonl")
    parser.add_argument("--out", default="out/compare.html", metavar="FILE", help="the page")
    return cli.run(parser, run, argv)


def run(args: argparse.Namespace) -> None:
    write_page([Path(folder) for folder in args.folders], Path(args.out), "Conversations")
    print(f"wrote {args.out}", flush=True)


def write_page(folders: Sequence[Path], path: Path, title: str) -> None:
    """Writes the page; InputError for a folder that holds no conversation."""
    runs = [_read(folder) for folder in folders]
    longest = max(run["seconds"] for run in runs)
    cards = "\n".join(_card(number, run, folder, path.parent, longest)
                      for number, (run, folder) in enumerate(zip(runs, folders, strict=True)))
    legend = " ".join(f'<span class="key"><i style="background:{colour}"></i>{name}</span>' for colour, name in _MARKS.values())
    text = Template(Path(__file__).with_suffix(".html").read_text(encoding="utf-8")).substitute(
        title=escape(title), cards=cards, legend=legend, figures=_figures(runs), system=COLOURS["system"], user=COLOURS["user"])
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error}); name another with --out") from None
    finally:
        temporary.unlink(missing_ok=True)


def _read(folder: Path) -> dict:
    """What a folder's events.jsonl tells."""
    path = folder / "events.jsonl"
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        about, summary = rows[0], rows[-1]
        if about["kind"] != "dialogue" or summary["kind"] != "summary" or not (folder / "conversation.wav").is_file():
            raise ValueError
        return {"name": folder.name, "about": about, "rows": rows[1:-1], "summary": summary, "seconds": float(about["seconds"])}
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); name folders of infer.simulate") from None
    except (ValueError, KeyError, IndexError, TypeError, UnicodeDecodeError):
        raise InputError(f"{folder}: holds no finished conversation; name folders of infer.simulate or infer.live") from None


def _card(number: int, run: dict, folder: Path, base: Path, longest: float) -> str:
    """Heading, player, timeline and words of one conversation."""
    about = run["about"]
    settings = ", ".join(f"{key} {about[key]}" for key in ("model", "user", "policy", "seed") if about.get(key) is not None)
    source = escape(os.path.relpath(folder / "conversation.wav", base).replace(os.sep, "/"))
    return (f'<section><h2>{escape(run["name"])}</h2><p class="small">{escape(settings)}</p>'
            f'<audio controls preload="none" src="{source}"></audio>{_timeline(run, longest)}'
            f"<details><summary>words</summary><p>{_words(run)}</p></details></section>")


def _timeline(run: dict, longest: float) -> str:
    """An SVG of 1000 units for the longest conversation; the script moves its cursor."""
    unit = 1000 / max(longest, 1e-9)
    parts = []
    for row in run["rows"]:
        kind, time = row["kind"], float(row["time"]) if "time" in row else 0.0
        if kind in ("system_stop", "user_stop") and row.get("seconds"):
            side, length = kind.removesuffix("_stop"), float(row["seconds"])
            start, top = time - length, 8 if side == "system" else 96
            parts.append(f'<rect class="{side}" x="{start * unit:.1f}" y="{top}" width="{length * unit:.1f}" height="52">'
                         f"<title>{side} {start:.2f} to {time:.2f} s</title></rect>")
        elif kind in _MARKS:
            colour, name = _MARKS[kind]
            note = f": {row['text']}" if kind == "script" else f", {row['seconds']:.2f} s" if row.get("seconds") else ""
            parts.append(f'<rect x="{time * unit:.1f}" y="64" width="9" height="28" fill="{colour}">'
                         f"<title>{escape(f'{time:.2f} s {name}{note}')}</title></rect>")
    seconds = range(0, int(longest) + 1, _tick(longest))
    ticks = "".join(f'<text x="{second * unit:.1f}" y="184">{second}</text>' for second in seconds)
    return (f'<svg viewBox="0 0 1000 190" data-seconds="{longest}" role="img" aria-label="timeline">'
            f'<line class="end" x1="{run["seconds"] * unit:.1f}" x2="{run["seconds"] * unit:.1f}" y1="4" y2="152"/>'
            f'{"".join(parts)}{ticks}<line class="cursor" x1="0" x2="0" y1="0" y2="156"/></svg>')


def _tick(seconds: float) -> int:
    return next((step for step in (1, 2, 5, 10, 30, 60) if seconds / step <= 20), 120)


def _words(run: dict) -> str:
    """The words of both sides in the order of their starts; what was not heard is struck out."""
    parts, side = [], ""
    for row in run["rows"]:
        if row["kind"] not in ("system_word", "user_word"):
            continue
        speaker = row["kind"].removesuffix("_word")
        if speaker != side:
            parts.append(f'{"<br>" if side else ""}<b class="{speaker}-text">{speaker}</b> ')
            side = speaker
        word = escape(str(row["word"]))
        parts.append(word if row.get("heard", True) else f"<s>{word}</s>")
        parts.append(" ")
    return "".join(parts) or "none known"


_COLUMNS = (
    ("answers after", "median_response_latency", " s"), ("barge-ins", "barge_ins", ""), ("false yields", "false_yields", ""),
    ("backchannels", "backchannels", ""), ("overlap", "overlap_seconds", " s"),
    ("system spoke", "system_speech_seconds", " s"), ("user spoke", "user_speech_seconds", " s"))


def _figures(runs: Sequence[dict]) -> str:
    head = "".join(f"<th>{name}</th>" for name, _, _ in _COLUMNS) + "<th>yielded after</th>"
    rows = []
    for run in runs:
        cells = []
        for _, key, unit in _COLUMNS:
            value = run["summary"].get(key)
            cells.append("<td>–</td>" if value is None else f"<td>{value:.2f}{unit}</td>" if isinstance(value, float)
                         else f"<td>{value}</td>")
        yields = ", ".join(f"{value:.2f} s" for value in run["summary"].get("times_to_yield", ())) or "–"
        rows.append(f"<tr><th>{escape(run['name'])}</th>{''.join(cells)}<td>{yields}</td></tr>")
    return f"<table><tr><th></th>{head}</tr>{''.join(rows)}</table>"


if __name__ == "__main__":
    sys.exit(main())
