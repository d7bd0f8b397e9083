"""The scores of a model card: every target of the default model, on held-out voices, templates and arguments.

    python -m benchmarks.card --model tiny [--items 200] [--json scores.json] [--workers 2]

Each row is measured beside the controls (always silent, always talking, a VAD end-pointer, an oracle) and has a 95 % bootstrap
interval over items. Prints the table as Markdown; the last line of the output is the result as JSON.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from benchmarks import codec as codec_bench
from benchmarks import errors, latency, record, tasks
from benchmarks.clips import Clips
from benchmarks.items import Item
from benchmarks.kept import Kept, fingerprint
from benchmarks.recogniser import Recogniser
from benchmarks.rollout import decode_all
from benchmarks.scoring import Score, excluded, score, values
from benchmarks.silence import silent_runs
from benchmarks.statistics import Estimate, mean, median, ratio
from benchmarks.systems import ModelSystem, Response, controls
from duplex.checkpoint import LoadedModel, load_model
from duplex.errors import InputError
from duplex.fast.backends import BACKENDS
from duplex.metrics.behaviour import onsets
from duplex.metrics.words import errors as word_errors
from duplex.metrics.words import plain, spoken_words
from duplex.vad import activity
from infer import cli

Scores = dict[str, list[Score]]
"""{task: one score an item}."""


@dataclass(frozen=True)
class Row:
    """One line of the card: what is measured, the target, and which measure of which tasks it is."""

    name: str
    what: str
    unit: str
    target: float | None
    at_most: bool
    measure: str = ""
    tasks: tuple[str, ...] = ()
    """None: the row has a measurement of its own."""

    def met(self, value: float | None) -> bool | None:
        """Whether a value meets the target; None without a target. Never (None) meets none."""
        if self.target is None:
            return None
        return value is not None and (value <= self.target if self.at_most else value >= self.target)

    def estimate(self, scores: Scores) -> Estimate:
        """Median of times, share of everything else, over the items of all its tasks."""
        found = [value for task in self.tasks for value in values(scores[task], self.measure)]
        return median(found) if self.unit == "s" else mean(found)


ROWS = (
    Row("right", "right answer, by its own text", "%", 0.85, False, "right", ("turn",)),
    Row("takes_turn", "smooth turn-taking: takes the turn", "%", 0.95, False, "takes_turn", ("turn",)),
    Row("response_s", "smooth turn-taking: median response", "s", 0.6, True, "response_s", ("turn",)),
    Row("pause_takes_over", "pause inside a user turn: wrongly takes over", "%", 0.10, True, "takes_over", ("pause",)),
    Row("pause_right", "pause inside a user turn: right answer afterwards", "%", None, False, "right", ("pause",)),
    Row("speaking", "was speaking when interrupted, so that it could be", "%", None, False, "speaking", ("interruption",)),
    Row("stop_s", "user barges in: median time until silent", "s", 0.5, True, "stop_s", ("interruption",)),
    Row("stop_right", "user barges in: answers the new request", "%", 0.85, False, "right", ("interruption",)),
    Row("goes_on", "user backchannels: goes on speaking", "%", 0.90, False, "goes_on", ("backchannel",)),
    Row("recall", "name and revised order, asked for after 30 s", "%", 0.80, False, "right", ("name_recall", "order_recall")),
    Row("name_recall", "… the name", "%", None, False, "right", ("name_recall",)),
    Row("order_recall", "… the revised order", "%", None, False, "right", ("order_recall",)),
    Row("loop", "answers that repeat a phrase", "%", None, True, "loop", ("turn", "pause", "interruption", "backchannel")),
    Row("silence", "silence: speaks unasked", "%", 0.05, True, "spoke", ("silence",)),
)
SPOKEN = Row("spoken_wer", "spoken answer against its own text: WER", "%", 0.15, True)
CODEC_WER = Row("codec_wer_points", "codec, system voice: WER on reconstructions minus on originals, points", "", 3.0, True)
CODEC_STOI = Row("codec_stoi", "codec, system voice: STOI", "", 0.85, False)
FRAME = Row("frame_p99_ms", "one 80 ms frame, codec and model, p99 on one CPU core", "ms", 40.0, True)
CONVERSATIONS = ("turn", "pause", "interruption", "backchannel", "name_recall", "order_recall")


def run(args: argparse.Namespace) -> None:
    """Measures all rows and prints the card."""
    if args.json and not Path(args.json).absolute().parent.is_dir():
        raise InputError(f"{args.json}: there is no such folder; make it first")
    model = load_model(args.model, backend=args.backend)
    kept = Kept(args.keep, model=fingerprint(model.folder) if args.keep else "", backend=model.backend, seed=args.seed)
    bench = _Bench(args, model)
    chosen = [task for task in CONVERSATIONS if task not in args.skip]
    parts = {task: kept.get(f"card {task}", partial(bench.conversations, task), items=args.items, ears=bench.ears,
                            voices=bench.clips.versions) for task in chosen}
    if "silence" not in args.skip:
        parts["silence"] = kept.get("card silence", bench.silence, items=args.items, seconds=args.silence_seconds)
    scored = {name: {task: part["scores"][name] for task, part in parts.items()} for name in bench.systems}
    rows = [_row(row, {name: row.estimate(s).to_dict() for name, s in scored.items()}) for row in ROWS
            if all(task in parts for task in row.tasks)]
    if parts.get("turn", {}).get("spoken"):
        rows.insert(1, _row(SPOKEN, {"model": parts["turn"]["spoken"]}))
    if "codec" not in args.skip:
        measured = kept.get("codec system", partial(bench.codec, "system"), clips=args.items, ears=bench.ears,
                            voices=bench.clips.versions)
        rows.insert(0, _row(CODEC_STOI, {"model": measured["stoi"]}))
        if "wer_points" in measured:
            rows.insert(0, _row(CODEC_WER, {"model": measured["wer_points"]}))
        bench.clock.done("codec")
    if "latency" not in args.skip:
        rows.append(_row(FRAME, {"model": kept.get("card latency", lambda: frame_latency(model))}))
        bench.clock.done("latency")
    found = {task: part["details"] for task, part in parts.items() if "details" in part}
    silent = scored["model"].get("silence", [])
    out = {task: {"items": len(s), "excluded": excluded(s)} for task, s in scored["model"].items()}
    if "codec" not in args.skip:
        out["codec"] = {"items": measured["items"], "excluded": measured["excluded"]}
    result = record.stamp("card", args.seed, model=_name(args.model), backend=model.backend,
                          sampling=asdict(model.sampling), items=args.items, engines=bench.clips.versions,
                          recogniser=bench.ears, seconds=bench.clock.spent, kept=kept.measured, rows=rows, tasks=out,
                          scenarios=by_scenario(found), errors=errors.analysis(found, silent), details=found)
    print(table(result), flush=True)
    record.write(args.json, result)
    record.refuse_excluded(out)
    print(json.dumps({key: value for key, value in result.items() if key != "details"}))


class _Bench:
    """What the parts of a card are measured with; items and the recogniser are made when the first part wants them."""

    def __init__(self, args: argparse.Namespace, model: LoadedModel):
        self.args, self.model, self.clock, self.clips = args, model, record.Clock(), Clips(args.clips_folder)
        self.systems = {"model": _Pool(args, model), **{control.name: control for control in controls(self.clips)}}
        self.ears = None if args.no_recogniser else Recogniser.named(args.whisper)

    @functools.cached_property
    def recogniser(self) -> Recogniser | None:
        return None if self.args.no_recogniser else Recogniser(self.args.whisper, self.args.threads)

    def conversations(self, task: str) -> dict:
        """Scores of all systems, details of the model's items and, of questions, how well its answers are understood."""
        count = max(1, self.args.items // 2) if task.endswith("recall") else self.args.items
        items = tasks.make(self.clips, task, count, self.args.seed)
        responses = {name: system.respond(items) for name, system in self.systems.items()}
        scores = {name: [score(item, response) for item, response in zip(items, given, strict=True)]
                  for name, given in responses.items()}
        part = {"scores": scores, "details": details(items, scores["model"])}
        if task == "turn" and self.recogniser is not None:
            part["spoken"] = spoken_against_text(responses["model"], self.recogniser).to_dict()
        self.clock.done(f"{count} items: {task}")
        return part

    def silence(self) -> dict:
        """Scores of all systems in rooms where nobody speaks."""
        rooms = tasks.rooms(self.args.silence_seconds, self.args.seed)
        found = {name: [_unasked(system.respond([_room(room)])[0]) for room in rooms]
                 for name, system in self.systems.items() if name != "model"}
        found["model"] = silence(self.model, rooms, self.args.items, self.args.seed)
        self.clock.done(f"{self.args.items} runs of {self.args.silence_seconds:.0f} s of silence")
        return {"scores": found}

    def codec(self, who: str) -> dict:
        """What the codec keeps of the lines of a voice."""
        return codec_bench.scores(self.model.codec, codec_bench.lines(self.clips, self.args.items, self.args.seed, who),
                                  self.recogniser)


class _Pool:
    """The model in this process, or in several: each has its own copy and a share of the items."""

    name = "model"

    def __init__(self, args: argparse.Namespace, model: LoadedModel):
        self.system = ModelSystem(model, seed=args.seed, batch=args.batch)
        self.args, self.workers = args, args.workers

    def respond(self, items: Sequence[Item]) -> list[Response]:
        if self.workers == 1 or len(items) < 2 * self.workers:
            return self.system.respond(items)
        parts = [list(items[n :: self.workers]) for n in range(self.workers)]
        jobs = [(self.args.model, self.args.backend, self.args.seed, self.args.batch, part) for part in parts]
        with ProcessPoolExecutor(self.workers, mp_context=get_context("spawn")) as pool:
            found = list(pool.map(_respond, jobs))
        merged: list[Response | None] = [None] * len(items)
        for n, part in enumerate(found):
            merged[n :: self.workers] = part
        return merged  # type: ignore[return-value]


def _respond(job: tuple[str, str, int, int, list[Item]]) -> list[Response]:
    source, backend, seed, batch, items = job
    torch.set_num_threads(1)
    return ModelSystem(load_model(source, backend=backend), seed=seed, batch=batch).respond(items)


def silence(model: LoadedModel, rooms: Sequence[np.ndarray], runs: int, seed: int) -> list[Score]:
    """Whether the model speaks, in so many runs, shared out among rooms in which nobody does: words or sound."""
    found: list[Score] = []
    for number, room in enumerate(rooms):
        seeds = [seed * 100_000 + n for n in range(number, runs, len(rooms))]
        if not seeds:
            continue
        runs_here = silent_runs(model, room, seeds)[0]
        quiet = list({id(run): run for run in runs_here if run.spoke_at is None}.values())  # without a word: is there a sound?
        sounds = decode_all(model, [run.codes for run in quiet], model.config.max_delay)
        heard = {id(run): bool(onsets(activity(sound))) for run, sound in zip(quiet, sounds, strict=True)}
        found += [{"spoke": heard.get(id(run), True), "words": run.spoke_at is not None, "room": number} for run in runs_here]
    return found


def _room(pcm: np.ndarray) -> Item:
    return Item("silence", "silence", "silence", "nobody", 0, pcm, {}, "", ())


def _unasked(response: Response) -> Score:
    return {"spoke": bool(onsets(activity(response.pcm)))}


def spoken_against_text(responses: Sequence[Response], recogniser: Recogniser) -> Estimate:
    """Word error rate of a recogniser on what a system said, with what it wrote as the reference, over responses with words."""
    chosen = [r for r in responses if not r.error and any(plain(w.text) for w in r.words)]
    references = [spoken_words(" ".join(w.text for w in r.words)) for r in chosen]
    heard = [spoken_words(text) for text in recogniser.transcribe([r.pcm for r in chosen])]
    return ratio([word_errors(a, b) for a, b in zip(references, heard, strict=True)], [len(words) for words in references])


def frame_latency(model: LoadedModel) -> dict:
    """The p99 of a session's step in ms, over 300 frames after 100 of warm-up, on one thread; a rank, so without an interval."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        measured = latency.measure(model, 300, 100)
    finally:
        torch.set_num_threads(before)
    return {"value": measured["session"]["session"]["p99_ms"], "low": None, "high": None, "n": 300}


def _row(row: Row, systems: dict[str, dict]) -> dict:
    model = systems["model"]
    return {"name": row.name, "what": row.what, "unit": row.unit, "target": row.target, "at_most": row.at_most,
            "systems": systems, "met": row.met(model["value"]) if model["n"] else None}


def by_scenario(found: dict[str, list[dict]]) -> dict[str, dict]:
    """{scenario: share of right answers} of the questions."""
    rights: dict[str, list[bool]] = {}
    for one in found.get("turn", ()):
        if one.get("right") is not None:
            rights.setdefault(one["scenario"], []).append(bool(one["right"]))
    return {name: mean(values).to_dict() for name, values in sorted(rights.items())}


def details(items: Sequence[Item], scores: Sequence[Score]) -> list[dict]:
    """Every item with what was expected and what came."""
    return [{"item": item.name, "scenario": item.scenario, "speaker": item.speaker, "asked": item.asked,
             "expected": list(item.expected[:3]), "marks": {k: [round(t, 2) for t in span] for k, span in item.marks.items()},
             **_finite(given)} for item, given in zip(items, scores, strict=True)]


def _finite(given: Score) -> Score:
    return {k: (None if isinstance(v, float) and not math.isfinite(v) else round(v, 3) if isinstance(v, float) else v)
            for k, v in given.items()}


def _name(source: str) -> str:
    return Path(source).name if Path(source).is_dir() else source


def table(result: dict) -> str:
    """The card's table as Markdown."""
    names = ["always silent", "always talking", "VAD end-pointer", "oracle"]
    lines = ["| what | target | model | met | " + " | ".join(names) + " |", "|---|---:|---:|:-:|" + "---:|" * len(names)]
    for row in result["rows"]:
        sign, unit = ("≤" if row["at_most"] else "≥"), row["unit"]
        target = "" if row["target"] is None else f"{sign} {record.number(row['target'], unit)}"
        met = {True: "yes", False: "**no**", None: ""}[row["met"]]
        others = [_short(row["systems"].get(name), unit) for name in names]
        cells = [row["what"], target, record.cell(row["systems"]["model"], unit), met, *others]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _short(estimate: dict | None, unit: str) -> str:
    if not estimate or not estimate["n"]:
        return "—"
    return "never" if estimate["value"] is None else record.number(estimate["value"], unit)


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser("benchmarks.card", "Measure every row of a model card.")
    parser.add_argument("--model", default="tiny", metavar="MODEL", help="'tiny', a checkpoint folder or a hub id")
    parser.add_argument("--items", type=cli.at_least(5), default=200, metavar="N", help="items of each row")
    parser.add_argument("--silence-seconds", type=cli.number(1), default=300.0, metavar="S", help="length of a silent run")
    parser.add_argument("--skip", nargs="*", default=[], choices=[*CONVERSATIONS, "silence", "codec", "latency"],
                        help="leave these out")
    parser.add_argument("--batch", type=cli.at_least(1), default=64, help="conversations stepped together")
    parser.add_argument("--workers", type=cli.at_least(1), default=1, help="processes that share the conversations")
    parser.add_argument("--backend", default="auto", choices=("auto", *BACKENDS), help="how the steps are computed")
    parser.add_argument("--no-recogniser", action="store_true", help="leave out what needs one")
    parser.add_argument("--seed", type=cli.at_least(0), default=0, help="of items and sampling")
    record.add_options(parser)
    return cli.run(parser, run, argv)


if __name__ == "__main__":
    sys.exit(main())
