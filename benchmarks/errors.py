"""Why answers are wrong: which part of an answer failed, by scenario, by voice, by what happened before.

    python -m benchmarks.errors out/bench/card.json [--examples 3]

An answer to "what is three plus five?" may be missing, be that to another question, be about "four plus five" (the system's
answers restate what was asked, so a word that it misheard shows), or say "three plus five is nine" (heard rightly, answered
wrongly). Every wrong answer of a card is of one such kind, told by comparing its words with all lines of the scripts.
"""

from __future__ import annotations

import argparse
import functools
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from benchmarks import record
from benchmarks.items import instance
from benchmarks.statistics import mean
from benchmarks.tasks import ROOMS
from duplex.errors import InputError
from duplex.metrics.words import errors, plain
from infer import cli
from train.corpus.exchange import REGISTRY, names

KINDS = {
    "right": "right",
    "silent": "silent",
    "another": "answers another question",
    "misheard": "right kind of answer, a word misheard",
    "concluded": "heard rightly, answered wrongly",
    "unfinished": "breaks off",
    "more": "right, and more words",
    "garbled": "no answer of the scripts",
}
ALIKE = 0.5
"""Share of words in common from which two lines are of one kind."""
SAMPLES = 400
WORDS = ("turn", "pause", "interruption", "name_recall", "order_recall")
"""Tasks whose answers are judged by their words."""


@functools.cache
def known_lines() -> dict[str, frozenset[str]]:
    """{plain line of the system: its scenarios}, of both splits: a wrong answer may well be one of training.

    A line belongs to the scenarios that it opens; where it opens none (what is asked later, corrections), to those that it is in.
    """
    first: dict[str, set[str]] = defaultdict(set)
    later: dict[str, set[str]] = defaultdict(set)
    for name in names():
        rng = random.Random(name)
        for _ in range(SAMPLES):
            for number, exchange in enumerate(instance(rng, name, rng.choice(("train", "test")))):
                (later if number else first)[plain(exchange.system)].add(name)
                if exchange.correction is not None:
                    later[plain(exchange.correction.system)].add(name)
    return {line: frozenset(names) for line, names in {**later, **first}.items()}


@functools.cache
def _bags() -> list[tuple[str, frozenset[str]]]:
    return [(line, frozenset(line.split())) for line in known_lines()]


def alike(words: Sequence[str], line: str) -> float:
    """1 for the same words, 0 for none in common: errors by the words of the longer one."""
    other = line.split()
    return 1 - errors(other, words) / max(1, len(words), len(other))


def nearest(words: Sequence[str], count: int = 24) -> list[tuple[float, str]]:
    """(likeness, line) of the lines most like these words, the most alike first."""
    bag = frozenset(words)
    likely = sorted(_bags(), key=lambda pair: -len(bag & pair[1]) / max(1, len(bag | pair[1])))[:count]
    return sorted(((alike(words, line), line) for line, _ in likely), reverse=True)


def kind(entry: dict) -> str | None:
    """One of `KINDS` for an item of a card's details; None where its answer was not judged."""
    if entry.get("right") is None or "heard" not in entry:
        return None
    words = entry["heard"].split()
    if entry["right"] or not words:
        return "right" if entry["right"] else "silent"
    wanted = min((plain(text).split() for text in entry["expected"]), key=lambda line: errors(line, words))
    if words == wanted[: len(words)]:
        return "unfinished"
    if wanted == words[: len(wanted)]:
        return "more"
    mine = _scenarios(entry)
    likeness = max(alike(words, " ".join(wanted)), alike(words, " ".join(wanted[: len(words)])))
    found = [(score, line, known_lines()[line]) for score, line in nearest(words)]
    own = max([likeness, *(score for score, _, names in found if mine & names)])
    other = max([0.0, *(score for score, _, names in found if not mine & names)])
    if max(own, other) < ALIKE:
        return "garbled"
    if other > own:
        return "another"
    spoken = set(plain(entry["asked"]).split())
    missed = Counter(wanted[: len(words)]) - Counter(words)
    exact = " ".join(words) in known_lines()  # the right answer to something else of this kind
    return "misheard" if exact or any(word in spoken for word in missed) else "concluded"


def _scenarios(entry: dict) -> frozenset[str]:
    """The scenarios that the right answer belongs to; of a barge-in that is not the scenario that it broke into."""
    if "," not in entry["scenario"]:
        return frozenset([entry["scenario"]])
    return frozenset().union(*(known_lines().get(plain(text), ()) for text in entry["expected"]))


def group(entry: dict) -> str:
    """The file of the scripts that a scenario is in: numbers, facts, memory, …"""
    name = entry["scenario"].partition(",")[0]
    return REGISTRY.scenarios[name][1].__module__.rpartition(".")[2] if name in REGISTRY.scenarios else "other"


def engine(entry: dict) -> str:
    """Who speaks: the engine of the voice."""
    return entry["speaker"].partition(":")[0]


def tally(entries: Iterable[dict]) -> dict:
    """{"n", "right": Estimate, kind: share of the others} of items whose answers were judged."""
    kinds = [found for found in map(kind, entries) if found]
    counts = Counter(kinds)
    shares = {name: round(counts[name] / len(kinds), 4) for name in KINDS if name != "right"} if kinds else {}
    return {"n": len(kinds), "right": mean([k == "right" for k in kinds]).to_dict()} | shares


def analysis(found: dict[str, list[dict]], silence: Sequence[dict] = ()) -> dict:
    """Of a card's details: kinds of errors by task; of questions by scenario, group of scenarios and voice; and, since there is
    more to a conversation than words, pauses by their length, interruptions by what they are, runs of ``silence`` by room."""
    result: dict = {"by_task": {task: tally(found[task]) for task in WORDS if task in found}}
    questions = found.get("turn", [])
    for name, of in (("by_group", group), ("by_voice", engine), ("by_scenario", lambda entry: entry["scenario"])):
        result[name] = {value: tally(entries) for value, entries in split(questions, of).items()}
    result["interruptions"] = {what: tally(entries) for what, entries in split(
        found.get("interruption", []), lambda entry: entry["scenario"].rpartition(", ")[2]).items()}
    pauses = [entry for entry in found.get("pause", []) if entry.get("takes_over") is not None]
    result["pauses"] = {length: mean([bool(entry["takes_over"]) for entry in entries]).to_dict()
                        for length, entries in split(pauses, _length).items()}
    result["silence"] = {}
    for number, room in enumerate(ROOMS):
        runs = [run for run in silence if run.get("room") == number]
        if runs:
            result["silence"][room] = {what: mean([bool(run[what]) for run in runs]).to_dict() for what in ("spoke", "words")}
    return result


def split(entries: Sequence[dict], of: Callable[[dict], str]) -> dict[str, list[dict]]:
    """The items by some property, sorted."""
    found: dict[str, list[dict]] = defaultdict(list)
    for entry in entries:
        found[of(entry)].append(entry)
    return dict(sorted(found.items()))


def _length(entry: dict) -> str:
    start, end = entry["marks"]["pause"]
    return f"{0.2 * int((end - start) / 0.2 + 1e-9):.1f} to {0.2 * int((end - start) / 0.2 + 1e-9) + 0.2:.1f} s"


TASK_NAMES = {"turn": "questions", "pause": "questions with a pause", "interruption": "what a barge-in asks",
              "name_recall": "the name, half a minute later", "order_recall": "the order, half a minute later"}


def table(rows: dict[str, dict], head: str) -> str:
    """Markdown: one line a tally, the kinds of errors as columns; columns that are empty throughout are left out."""
    kinds = [name for name in KINDS if name != "right" and any(row.get(name) for row in rows.values())]
    lines = [f"| {head} | n | right | " + " | ".join(KINDS[name] for name in kinds) + " |",
             "|---|---:|---:|" + "---:|" * len(kinds)]
    for name, row in rows.items():
        if row["n"]:
            cells = [name, str(row["n"]), record.cell({**row["right"], "n": row["n"]}, "%").rpartition(" (")[0]]
            lines.append("| " + " | ".join(cells + [f"{100 * row.get(k, 0):.0f} %" for k in kinds]) + " |")
    return "\n".join(lines)


def tables(result: dict) -> list[tuple[str, str]]:
    """(title, Markdown) of the analysis that a card holds."""
    found, shown = result.get("errors") or {}, []
    if found.get("by_task"):
        shown.append(("Why answers are wrong", table({TASK_NAMES[k]: v for k, v in found["by_task"].items()}, "answers to")))
    for key, title, head in (("by_group", "Questions by what they are about", "about"),
                             ("by_voice", "Questions by voice", "engine"),
                             ("interruptions", "Interruptions by what they are", "what")):
        if found.get(key):
            shown.append((title, table(found[key], head)))
    if found.get("pauses"):
        lines = ["| pause | takes it for the end |", "|---|---:|"]
        lines += [f"| {length} | {record.cell(estimate, '%')} |" for length, estimate in found["pauses"].items()]
        shown.append(("Pauses by length", "\n".join(lines)))
    if found.get("silence"):
        lines = ["| room | speaks unasked | with words |", "|---|---:|---:|"]
        lines += [f"| {room} | {record.cell(row['spoke'], '%')} | {record.number(row['words']['value'], '%')} |"
                  for room, row in found["silence"].items()]
        shown.append(("Silence by room", "\n".join(lines)))
    return shown


def run(args: argparse.Namespace) -> None:
    """Prints the analysis of a card and examples of each kind."""
    result = record.read(args.card)
    if not result.get("details"):
        raise InputError(f"{args.card}: no card with its items; make one with python -m benchmarks.card --json FILE")
    result["errors"] = analysis(result["details"]) | {"silence": (result.get("errors") or {}).get("silence", {})}
    for title, text in tables(result):
        print(f"{title}\n\n{text}\n")
    for name, what in KINDS.items():
        chosen = [entry for task in WORDS for entry in result["details"].get(task, []) if kind(entry) == name]
        for entry in chosen[: args.examples if name != "right" else 0]:
            print(f"{what}: \"{entry['asked']}\" - expected \"{entry['expected'][0]}\", said \"{entry['heard']}\" "
                  f"({entry['item']}, {entry['speaker']})")


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser("benchmarks.errors", "Say why the answers of a model are wrong.")
    parser.add_argument("card", type=Path, metavar="CARD", help="a result of benchmarks.card")
    parser.add_argument("--examples", type=cli.at_least(0), default=2, metavar="N", help="answers of each kind to show")
    return cli.run(parser, run, argv)


if __name__ == "__main__":
    sys.exit(main())
