"""The duplex bench: pauses, backchannels, turns, interruptions and what else happens in a conversation.

    python -m benchmarks.dialogue --system tiny [--items 50] [--out out/bench/dialogue] [--json dialogue.json]
    python -m benchmarks.dialogue --system tiny ws://localhost:8998 live://localhost:8998 folder:OUTPUTS
    python -m benchmarks.dialogue --system tiny --backend native native-int8    rounded weights beside the exact ones
    python -m benchmarks.dialogue --write-items ITEMS          only the items, for a system that runs elsewhere

Scores tasks of Full-Duplex-Bench v1 and v1.5 both as its public scorers do ("exact") and at the moment that an item is about
("corrected"), behaviour by activity, speech into rooms where nobody talks, and turn-taking statistics of a model that talks to
itself. Controls stand in every table. Items and outputs are written in that benchmark's folders. The last line of the output is
the result as JSON.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import folders, record, segments, tasks
from benchmarks.clips import Clips
from benchmarks.folders import FolderSystem
from benchmarks.items import Item, scene
from benchmarks.kept import Kept, fingerprint
from benchmarks.protocol import latencies, public_scores
from benchmarks.recogniser import Recogniser
from benchmarks.scoring import Score, excluded, score, values
from benchmarks.selfcontrols import RULES, control_talk
from benchmarks.selftalk import self_talk
from benchmarks.selftalk import table as self_table
from benchmarks.statistics import mean, median
from benchmarks.systems import Control, ModelSystem, Response, System, controls
from duplex.audio import write_wav
from duplex.checkpoint import LoadedModel, load_model
from duplex.errors import InputError
from duplex.fast.backends import BACKENDS
from duplex.metrics.words import plain
from duplex.text import Word
from duplex.units import SAMPLE_RATE
from infer import cli
from train.corpus.exchange import Exchange

TASKS = ("pause", "report", "turn", "interruption", "backchannel", "aside", "background", "silence")
ROUNDS = 2
"""How often a system sits in each of the rooms where nobody speaks."""
TEMPERATURES = (0.1, 0.4, 0.7, 1.0)
PUBLIC = (
    ("pause.tor", "pause: takes over", "%", "↓"), ("report.tor", "backchannel: takes over", "%", "↓"),
    ("report.frequency", "backchannel: how many a second", "", "↑"), ("report.jsd", "backchannel: JSD", "", "↓"),
    ("turn.tor", "turn: takes it", "%", "↑"), ("turn.latency", "turn: mean latency", "s", "↓"),
    ("interruption.tor", "interruption: answers", "%", "↑"), ("interruption.latency", "interruption: mean latency", "s", "↓"),
    ("interruption.stop", "v1.5 user interrupts: stop latency", "s", "↓"),
    ("interruption.response", "v1.5 user interrupts: response latency", "s", "↓"),
    ("backchannel.stop", "v1.5 user backchannels: stop latency", "s", "↑"),
    ("aside.stop", "v1.5 talks to others: stop latency", "s", "↑"),
    ("background.stop", "v1.5 background speech: stop latency", "s", "↑"),
)
BEHAVIOUR = (
    ("turn.takes_turn", "takes the turn", "%", "↑"), ("turn.response_s", "median response", "s", "↓"),
    ("turn.over_user", "starts over the user", "%", "↓"), ("turn.right", "right answer", "%", "↑"),
    ("pause.takes_over", "takes a pause for the end", "%", "↓"),
    ("interruption.speaking", "was speaking when interrupted", "%", ""),
    ("interruption.stop_s", "interrupted: median time until silent", "s", "↓"),
    ("interruption.right", "interrupted: right answer", "%", "↑"),
    ("backchannel.goes_on", "goes on through a backchannel", "%", "↑"),
    ("aside.goes_on", "goes on through talk to others", "%", "↑"),
    ("background.goes_on", "goes on through background speech", "%", "↑"),
    ("report.takes_over", "takes over in a long turn", "%", "↓"),
    ("silence.spoke", "speaks unasked where nobody does", "%", "↓"),
    ("turn.loop", "repeats itself", "%", "↓"), ("turn.sound_without_words", "sound without words", "%", "↓"),
    ("turn.words_without_sound", "words without sound", "%", "↓"),
)


def run(args: argparse.Namespace) -> None:
    """Makes the items, plays them to all systems, scores, writes folders and tables."""
    if args.json and not Path(args.json).absolute().parent.is_dir():
        raise InputError(f"{args.json}: there is no such folder; make it first")
    clock, clips = record.Clock(), Clips(args.clips_folder)
    items = {task: functools.cache(partial(tasks.make, clips, task, args.items, args.seed)) for task in args.tasks}
    if "silence" in items:
        items["silence"] = functools.cache(partial(rooms, args.silence_seconds, args.items, args.seed))
    if args.write_items:
        for task, made in items.items():
            if task == "silence":
                _write_rooms(Path(args.write_items), made())
            else:
                _write(Path(args.write_items), task, made())
        lasting = f" --silence-seconds {args.silence_seconds:g}" if "silence" in items else ""
        print(f"wrote {args.write_items}: put output.wav (and output.json) beside each input.wav, then score it with "
              f"--system folder:{Path(args.write_items).name} --items {args.items} --seed {args.seed}{lasting}")
        return
    ears = None if args.no_recogniser else Recogniser.named(args.whisper)
    bench = _Bench(args, items, functools.cache(lambda: Recogniser(args.whisper, args.threads)) if ears else None, clock)
    systems = [system for source in args.system for system in open_systems(source, args)]
    systems += [] if args.no_controls else controls(clips)
    kept = Kept(args.keep, seed=args.seed, items=args.items, ears=ears, voices=clips.versions, segments=segments.name())
    found = {system.name: bench.measure(system, kept) for system in systems}
    selftalk = []
    model = next((system.model for system in systems if isinstance(system, ModelSystem)), None)
    if model is not None and args.dialogues:
        def talk(temperature: float) -> dict:
            return self_talk(model, _greeting(clips, args.seed), temperature, args.dialogues, args.self_seconds, args.seed)

        selftalk = [kept.get(f"dialogue self {t}", partial(talk, t), dialogues=args.dialogues, seconds=args.self_seconds,
                             **bench.identity(model)) for t in TEMPERATURES]
        if not args.no_controls:
            for name in RULES:
                made = partial(control_talk, name, clips, _greeting(clips, args.seed), args.dialogues, args.self_seconds,
                               args.seed)
                selftalk.append(kept.get(f"dialogue self {name}", made, dialogues=args.dialogues, seconds=args.self_seconds))
        clock.done("self-dialogue")
    result = record.stamp("dialogue", args.seed, items=args.items, engines=clips.versions, segments=segments.name(),
                          recogniser=ears, silence_seconds=args.silence_seconds, systems=found, selftalk=selftalk,
                          kept=kept.measured, seconds=clock.spent,
                          backends={s.name: s.model.backend for s in systems if isinstance(s, ModelSystem)})
    print("\n\n".join(f"{title}\n\n{text}" for title, text in tables(result)))
    record.write(args.json, result)
    for name, scores in found.items():
        record.refuse_excluded({f"{name}, {task}": entry for task, entry in scores["tasks"].items()})
    print(json.dumps(result))


def open_systems(source: str, args: argparse.Namespace) -> list[System]:
    """The system of an address: folder:PATH, ws://…, live://…, or else a model, on each backend that was asked for."""
    if source.startswith("folder:"):
        return [_Outputs(source.removeprefix("folder:"))]
    if "://" in source:
        from benchmarks.remote import ServerSystem

        return [ServerSystem(source, args.sessions)]
    name = Path(source).name if Path(source).is_dir() else source
    return [ModelSystem(load_model(source, backend=backend), name if backend == "auto" else f"{name}, {backend}", seed=args.seed)
            for backend in args.backend]


@dataclass(frozen=True)
class _Bench:
    """What all systems are put to."""

    args: argparse.Namespace
    items: dict[str, Callable[[], list[Item]]]
    recogniser: Callable[[], Recogniser] | None
    clock: record.Clock

    def identity(self, model: LoadedModel) -> dict[str, str]:
        """What the numbers of a model depend on."""
        return {"model": fingerprint(model.folder) if self.args.keep else "", "backend": model.backend}

    def measure(self, system: System, kept: Kept) -> dict:
        """All scores of one system: Estimates by "task.measure", and per task the items that were left out.

        Only models and controls can be kept: who knows what is behind an address or in a folder by now?
        """
        found: dict[str, dict] = {"exact": {}, "corrected": {}, "behaviour": {}, "tasks": {}}
        steady = isinstance(system, (ModelSystem, Control))
        identity = self.identity(system.model) if isinstance(system, ModelSystem) else {}
        out = Path(self.args.out) / _safe(system.name) if self.args.out else None
        for task in self.items:
            gone = out is not None and not all((out / name).is_dir() for name in _folders(task))
            make = partial(self.silence, system) if task == "silence" else partial(self.task, system, task, out)
            lasts = {"lasts": self.args.silence_seconds} if task == "silence" else {}
            scores = kept.get(f"dialogue {system.name} {task}", make, anew=gone or not steady, out=str(out), **identity, **lasts)
            found["tasks"][task] = scores.pop("counts")
            for name, part in scores.items():
                found[name] |= part
            self.clock.done(f"{system.name}: {task}")
        return found

    def task(self, system: System, task: str, out: Path | None) -> dict:
        """The scores of a system in one task; writes its items and outputs to a folder, if one is given."""
        chosen, ear = self.items[task](), self.recogniser and self.recogniser()
        responses = system.respond(chosen)
        words = heard_words(system, responses, ear)
        responses = _with_text(system, responses, words)
        scores = [score(item, response) for item, response in zip(chosen, responses, strict=True)]
        found: dict = {"counts": {"items": len(chosen), "excluded": excluded(scores)}, "behaviour": _behaviour(task, scores)}
        usable = [(chosen[n], responses[n], words[n]) for n, s in enumerate(scores) if "error" not in s]
        for form in ("exact", "corrected"):
            estimates = public_scores(task, usable, form == "exact")
            if task in folders.V15:
                estimates |= latencies(usable, form == "exact")
            found[form] = {f"{task}.{name}": estimate.to_dict() for name, estimate in estimates.items()}
        if out is not None:
            _write(out, task, chosen, responses, words)
            if task in folders.V15 and not isinstance(system, FolderSystem):
                given = system.respond([folders.cleaned(item) for item in chosen])
                folders.write_clean_outputs(out, chosen, given, heard_words(system, given, ear))
        return found

    def silence(self, system: System) -> dict:
        """Whether a system speaks where nobody does. Nothing is recognised, since a recogniser hears words in noise."""
        chosen = self.items["silence"]()
        scores = [unasked(item, response) for item, response in zip(chosen, system.respond(chosen), strict=True)]
        return {"counts": {"items": len(chosen), "excluded": excluded(scores)}, "behaviour": _behaviour("silence", scores)}


def rooms(seconds: float, count: int, seed: int) -> list[Item]:
    """The items of the silence task: what is heard in each room in which nobody speaks, `ROUNDS` times, at most ``count``."""
    heard = [(name, pcm) for again in range(ROUNDS)
             for name, pcm in zip(tasks.ROOMS, tasks.rooms(seconds, seed + again), strict=True)]
    return [Item(f"silence/{n:04d}", "silence", name, "nobody", n, pcm, {"turn": (0.0, len(pcm) / SAMPLE_RATE)}, "", ())
            for n, (name, pcm) in enumerate(heard[:count])]


def unasked(item: Item, response: Response) -> Score:
    """Does the system speak where nobody does: a word in its own text, or speech in its sound?"""
    found = score(replace(item, task="report"), response)  # a long turn without a word in it: what cannot be scored is the same
    return found if "error" in found else found | {
        "spoke": bool(found["starts"]) or any(plain(word.text) for word in response.words)}


class _Outputs(FolderSystem):
    """Finished outputs, those in rooms where nobody speaks too: these stand in a folder that the public benchmark has not."""

    def _place(self, item: Item) -> tuple[str, Path]:
        return ("v1", self.folder / "silence" / str(item.seed)) if item.task == "silence" else super()._place(item)


def _write_rooms(root: Path, items: Sequence[Item]) -> None:
    """``silence/{id}/input.wav`` and, as beside every input, an annotation."""
    for item in items:
        folder = root / "silence" / str(item.seed)
        folder.mkdir(parents=True, exist_ok=True)
        write_wav(folder / "input.wav", item.user)
        for name, content in folders.annotation(item, "v1").items():
            (folder / name).write_text(json.dumps(content), encoding="utf-8")


def _folders(task: str) -> list[str]:
    """The folders of a task, in both versions."""
    return [names[task] for names in (folders.V1, folders.V15) if task in names]


def heard_words(system: System, responses: Sequence[Response], recogniser: Recogniser | None) -> list[list[Word]]:
    """Words with times by the recogniser; without one the system's own text. A control's text is what it speaks."""
    if recogniser is None or isinstance(system, Control):
        return [list(response.words) for response in responses]
    return recogniser.words([response.pcm for response in responses])


def _with_text(system: System, responses: Sequence[Response], words: Sequence[Sequence[Word]]) -> list[Response]:
    """Responses of a system that tells no words of its own, with those that were heard."""
    if system.has_text:
        return list(responses)
    return [Response(r.pcm, tuple(said), r.error) for r, said in zip(responses, words, strict=True)]


def _behaviour(task: str, scores: Sequence[Score]) -> dict[str, dict]:
    found = {}
    for name, _, unit, _ in BEHAVIOUR:
        of, _, measure_name = name.partition(".")
        if of == task:
            found[name] = (median if unit == "s" else mean)(values(scores, measure_name)).to_dict()
    return found


def _write(root: Path, task: str, items: Sequence[Item], responses: Sequence[Response] | None = None,
           words: Sequence[Sequence[Word]] = ()) -> None:
    """Folders of both versions, one beside the other."""
    for version, names in (("v1", folders.V1), ("v1.5", folders.V15)):
        if task in names:
            folders.write_items(root, items, version)
            if responses is not None:
                folders.write_outputs(root, items, responses, words, version)


def _safe(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name)


def _greeting(clips: Clips, seed: int) -> np.ndarray:
    """A held-out user who says hello, float32 [T * 1920]."""
    s = scene(clips, seed, "greeting", 0)
    end = s.say(Exchange("hello", ""))[1]
    return s.finish(end)


def tables(result: dict) -> list[tuple[str, str]]:
    """(title, Markdown) of each table."""
    names = list(result["systems"])
    found = []
    for form, rows in (("exact", PUBLIC), ("corrected", PUBLIC), ("behaviour", BEHAVIOUR)):
        lines = ["| measure | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
        for key, what, unit, better in rows:
            cells = [record.cell(result["systems"][name][form].get(key), unit) for name in names]
            if any(key in result["systems"][name][form] for name in names):
                lines.append(f"| {what} {better} | " + " | ".join(cells) + " |")
        left_out = [sum(len(entry["excluded"]) for entry in result["systems"][name]["tasks"].values()) for name in names]
        lines.append("| items left out | " + " | ".join(map(str, left_out)) + " |")
        title = {"exact": "Full-Duplex-Bench, official-exact", "corrected": "Full-Duplex-Bench, corrected",
                 "behaviour": "Behaviour"}[form]
        found.append((title, "\n".join(lines)))
    if result["selftalk"]:
        found.append(("Self-dialogue", self_table(result["selftalk"])))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser("benchmarks.dialogue", "Measure how systems converse.")
    parser.add_argument("--system", nargs="+", default=["tiny"], metavar="SYSTEM", help="models, ws://host:port (Moshi's "
                        "protocol), live://host:port (the Live API), folder:PATH (finished outputs)")
    parser.add_argument("--backend", nargs="+", default=["auto"], choices=("auto", *BACKENDS), metavar="NAME",
                        help="how the models' steps are computed; several stand beside each other")
    parser.add_argument("--items", type=cli.at_least(1), default=50, metavar="N", help="items of each task")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS, help="which tasks")
    parser.add_argument("--write-items", metavar="FOLDER", help="write the items there and stop")
    parser.add_argument("--out", metavar="FOLDER", help="write items and outputs there, a folder for each system")
    parser.add_argument("--sessions", type=cli.at_least(1), default=2, help="conversations with a server side by side")
    parser.add_argument("--silence-seconds", type=cli.number(1), default=60.0, metavar="S",
                        help="length of an item in which nobody speaks")
    parser.add_argument("--dialogues", type=cli.at_least(0), default=4, help="self-dialogues at each temperature; 0: none")
    parser.add_argument("--self-seconds", type=cli.number(1), default=60.0, metavar="S", help="length of a self-dialogue")
    parser.add_argument("--no-recogniser", action="store_true", help="take the systems' own text for what was heard")
    parser.add_argument("--no-controls", action="store_true", help="the systems alone, to stand beside a result with controls")
    parser.add_argument("--seed", type=cli.at_least(0), default=0, help="of items and sampling")
    record.add_options(parser)
    return cli.run(parser, run, argv)


if __name__ == "__main__":
    sys.exit(main())
