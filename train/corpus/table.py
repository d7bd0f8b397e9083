"""What is in a synthesised corpus: hours, dialogues, words, voices, events by kind, turn-taking beside published figures.

    python -m train.corpus.table DIR [--into docs/corpus.md]

Reads the labels alone, which are exact, and no sound. ``--into`` replaces what lies between the two marks of a page.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import median

import soundfile

from duplex.errors import InputError
from duplex.metrics.turntaking import pooled, turn_taking_statistics
from train import cli
from train.files import replace_file
from train.own.labels import SYSTEM_LABEL, USER_LABEL
from train.synthesize import FORMATS
from train.validate import PUBLISHED

BEGIN, END = "<!-- corpus table: begin -->", "<!-- corpus table: end -->"
COLUMNS = ("ipu", "pause", "gap", "overlap")
SPEECH = ("user_turn", "user_backchannel", "aside", "barge_in_stop", "barge_in_request", "barge_in_correction")


def read_dialogue(sound: Path) -> dict:
    """One dialogue's labels: seconds, words by label, events."""
    labels = json.loads(sound.with_suffix(".json").read_text())
    events = [json.loads(line) for line in sound.with_suffix(".events.jsonl").read_text().splitlines()]
    words: dict[str, list] = {SYSTEM_LABEL: [], USER_LABEL: []}
    for text, (start, end), label in labels["alignments"]:
        words[label].append((text, start, end))
    return {"seconds": soundfile.info(sound).duration, "words": words, "events": events}


def speech(dialogue: dict, label: str) -> list[tuple[float, float]]:
    """Stretches of speech: the words, and the user's turns that have none (mumbled ones)."""
    spans = [(start, end) for _, start, end in dialogue["words"][label]]
    if label == USER_LABEL:
        for event in dialogue["events"]:
            span = event["start"], event["end"]
            if event["kind"] in SPEECH and not any(span[0] - 0.05 <= s and e <= span[1] + 0.05 for s, e in spans):
                spans.append(span)
    return sorted(spans)


def find(folder: Path, split: str) -> list[Path]:
    """The finished dialogues of a split."""
    return sorted(p for form in FORMATS for p in (folder / split).glob(f"*.{form}"))


def table(folder: Path) -> str:
    """The corpus as a page in Markdown."""
    splits = {split: [read_dialogue(p) for p in find(folder, split)] for split in ("train", "test")}
    everything = [d for found in splits.values() for d in found]
    if not everything:
        raise InputError(f"{folder}: no dialogues in train/ or test/; make them with python -m train.synthesize --out {folder}")
    lines = ["| | " + " | ".join(splits) + " |", "|---|" + "---:|" * len(splits)]
    for name, value in (("dialogues", len), ("hours", lambda ds: f"{sum(d['seconds'] for d in ds) / 3600:.2f}"),
                        ("words of the system", lambda ds: _words(ds, SYSTEM_LABEL)),
                        ("words of the user", lambda ds: _words(ds, USER_LABEL)),
                        ("user speakers", lambda ds: len(_speakers(ds)))):
        lines.append(f"| {name} | " + " | ".join(str(value(found)) for found in splits.values()) + " |")
    shared = _speakers(splits["train"]) & _speakers(splits["test"])
    lines += ["", f"Speakers in both splits: {len(shared)}.", "", *_event_rows(everything), "", *_turn_rows(everything)]
    return "\n".join(lines)


def _words(dialogues: Iterable[dict], label: str) -> int:
    return sum(len(d["words"][label]) for d in dialogues)


def _speakers(dialogues: Iterable[dict]) -> set[str]:
    return {e["speaker"] for d in dialogues for e in d["events"] if "speaker" in e}


def _event_rows(dialogues: list[dict]) -> list[str]:
    lengths: dict[str, list[float]] = defaultdict(list)
    whole: Counter[str] = Counter()
    for dialogue in dialogues:
        for event in dialogue["events"]:
            kind = event["kind"]
            if kind in ("gain", "noise", "echo", "reverb"):
                whole[kind] += 1
            else:
                name = f"{kind} (to the {event['to']})" if "to" in event else kind
                lengths[name].append(event["end"] - event["start"])
    hours = sum(d["seconds"] for d in dialogues) / 3600
    rows = ["| event | count | an hour | median seconds |", "|---|---:|---:|---:|"]
    for kind, found in sorted(lengths.items()):
        rows.append(f"| {kind} | {len(found)} | {len(found) / hours:.0f} | {median(found):.2f} |")
    shares = ", ".join(f"{kind} {count / len(dialogues):.0%}" for kind, count in sorted(whole.items()))
    return [*rows, "", f"Share of dialogues with the user's channel changed: {shares}."]


def _turn_rows(dialogues: list[dict]) -> list[str]:
    mine = pooled([turn_taking_statistics(speech(d, SYSTEM_LABEL), speech(d, USER_LABEL), d["seconds"]) for d in dialogues])
    rows = {"this corpus": tuple(mine[c]["seconds_per_minute"] for c in COLUMNS), **PUBLISHED}
    offsets = [e["offset"] for d in dialogues for e in d["events"] if e.get("to") == "user"]
    lines = ["| seconds a minute | speech (IPU) | pause | gap | overlap |", "|---|---:|---:|---:|---:|"]
    lines += [f"| {name} | " + " | ".join(f"{value:.1f}" for value in row) + " |" for name, row in rows.items()]
    if offsets:
        share = sum(o < 0 for o in offsets) / len(offsets)
        lines += ["", f"User turns that follow at once begin {median(offsets):+.2f} s (median) from the end of the answer; "
                      f"{share:.0%} of them overlap it."]
    return lines


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser("corpus.table", __doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--into", type=Path, help="a page with the two marks, whose table is replaced")
    return cli.run(parser, run, argv)


def run(args: argparse.Namespace) -> None:
    """Prints the table, or puts it into a page."""
    made = table(args.corpus)
    if args.into is None:
        print(made)
        return
    page = args.into.read_text()
    if BEGIN not in page or END not in page:
        raise InputError(f"{args.into}: put the lines {BEGIN} and {END} where the table belongs")
    head, rest = page.split(BEGIN, 1)
    replace_file(args.into, lambda part: part.write_text(f"{head}{BEGIN}\n{made}\n{END}{rest.split(END, 1)[1]}"))


if __name__ == "__main__":
    raise SystemExit(main())
