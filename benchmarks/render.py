"""Results as Markdown tables: the one place where a number on record becomes text, for pages, docs and model cards alike."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from benchmarks import ablation, capability, card, codec, dialogue, errors, heard, latency_tables, patience, record
from benchmarks.trust import report as trust
from duplex.errors import InputError

_BLOCK = re.compile(r"<!-- results: (?P<file>[\w./-]+)(?: \| (?P<title>[^>]*?))? -->\n.*?<!-- end of results -->", re.DOTALL)


RENDERERS: dict[str, Callable[[dict], list[tuple[str, str]]]] = {
    "card": lambda r: [("Model card", card.table(r)), ("Right answers by scenario", scenario_table(r)), *errors.tables(r)],
    "dialogue": dialogue.tables,
    "codec": lambda r: [("Codec", codec.table(r))],
    "capability": lambda r: [("Capabilities", capability.table(r))],
    "ablation": lambda r: [("The same questions under other conditions", ablation.table(r))],
    "heard": lambda r: [("Words heard", heard.table(r))],
    "bench": lambda r: [("How long it took", _took(r))],
    "patience": lambda r: [("Patience", patience.table(r))],
    "latency": latency_tables.tables,
    "trust": trust.tables,
}


def scenario_table(result: dict) -> str:
    """Right answers to questions, by scenario."""
    lines = ["| scenario | right |", "|---|---:|"]
    lines += [f"| {name} | {record.cell(estimate, '%')} |" for name, estimate in result["scenarios"].items()]
    return "\n".join(lines)


def _took(result: dict) -> str:
    from benchmarks import bench  # which imports this module's pages

    return bench.table(result)


def tables(result: dict) -> list[tuple[str, str]]:
    """(title, Markdown) of a result's tables; InputError for a benchmark that this version does not know."""
    kind = result["benchmark"]
    if kind not in RENDERERS:
        raise InputError(f"results of '{kind}' cannot be shown; known are {', '.join(RENDERERS)}")
    return RENDERERS[kind](result)


def provenance(result: dict) -> str:
    """Who measured it, when, where: one line of Markdown."""
    parts = [f"{result.get('date', '?')}", f"commit {result.get('commit', '?')}", str(result.get("machine", "?")),
             f"seed {result.get('seed', '?')}"]
    command = f", `{result['command']}`" if result.get("command") else ""
    others = sorted({when.rpartition("commit ")[2] for when in result.get("kept", {}).values()} - {result.get("commit")})
    earlier = f", parts at commit {', '.join(others)}" if others else ""
    return f"*{', '.join(parts)}{earlier}{command}*"


def block(result: dict, title: str | None = None) -> str:
    """What stands between the marks of a document: the table (of a title, else the first), its provenance and the notice."""
    found = dict(tables(result))
    if title is not None and title not in found:
        raise InputError(f"no table '{title}'; there are: {', '.join(found)}")
    text = found[title] if title else next(iter(found.values()))
    notice = f"\n\n{result['notice']}" if result.get("notice") else ""
    return f"\n{text}\n\n{provenance(result)}{notice}\n\n"


def refreshed(document: Path) -> str:
    """The document with every block between ``<!-- results: FILE [| TITLE] -->`` and ``<!-- end of results -->`` made anew.

    FILE is relative to the document. InputError when it cannot be read.
    """
    def fresh(match: re.Match) -> str:
        result = record.read(document.parent / match["file"])
        head = match[0][: match[0].index("\n") + 1]
        return f"{head}{block(result, match['title'])}<!-- end of results -->"

    return _BLOCK.sub(fresh, document.read_text(encoding="utf-8"))


def has_blocks(document: Path) -> bool:
    """Whether a document holds tables of results."""
    return bool(_BLOCK.search(document.read_text(encoding="utf-8")))
