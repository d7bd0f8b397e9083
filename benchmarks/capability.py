"""What a model can do: one set of probes for each of nine functions, with an honest row where it has not the function.

    python -m benchmarks.capability --model tiny [--items 100] [--json capability.json]

The functions are those of the field's surveys: text, speech style, sound generation, sound understanding, languages, context,
interaction, streaming latency and more than one modality. Answers are read from the model's own text and by a recogniser from
its sound, in the language of the answer; what is played and not spoken (beeps, a scale) is read from the sound's pitch. Chance
and the controls stand beside, a control with its score by ear where its sound is judged.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks import latency, record, tasks
from benchmarks.clips import Clips
from benchmarks.items import Item, Scene, answers, core, instance, listening, scene
from benchmarks.kept import Kept, fingerprint
from benchmarks.recogniser import Recogniser
from benchmarks.scoring import Score, score, values
from benchmarks.statistics import Estimate, mean
from benchmarks.systems import Control, ModelSystem, Response, System, controls
from duplex.checkpoint import load_model
from duplex.errors import InputError
from duplex.metrics.behaviour import said
from duplex.metrics.words import plain, spoken_words
from duplex.text import Word
from duplex.units import SAMPLE_RATE
from infer import cli
from train.corpus import scripts
from train.corpus.exchange import LANGUAGES, STYLES, Exchange, split_key

WRONG_TONE = 0.06
"""Share by which a played tone may miss its pitch: half a tone."""


@dataclass(frozen=True)
class Function:
    """One function: what is asked, of how many kinds, and how it is judged."""

    name: str
    what: str
    scenarios: tuple[str, ...]
    """Scenarios of the scripts whose exchanges are the probes; () for functions with a measurement of their own."""
    keep: Callable[[Exchange], bool] = lambda exchange: True
    sound: str = ""
    """"beeps": judged by what is played, too."""


FUNCTIONS = (
    Function("text", "answers questions of the scripts (all core scenarios)", ("*",)),
    Function("speech style", "tells how the user speaks: fast, slow, high, low, loud, quiet", ("manner",)),
    Function("sound generation", "plays beeps and a scale on request", ("make_sound",), sound="beeps"),
    Function("sound understanding", "names a sound that it hears", ("name_sound",)),
    Function("languages", "answers in French and Spanish; says a phrase in them", ("foreign", "translate")),
    Function("context", "name and revised order, asked for after 30 s", ()),
    Function("interaction", "goes on through a backchannel, stops for a barge-in, waits in a pause", ()),
    Function("streaming latency", "one frame within 80 ms", ()),
    Function("multimodal", "sees images or video", ()),
)
NOT_SUPPORTED = {"multimodal": "the model has no input for images or video"}
HALF = 0.5
BY_EAR = ("recogniser", "played")
"""Scores that are of a system's sound."""


def run(args: argparse.Namespace) -> None:
    """Probes every function and prints the table."""
    if args.json and not Path(args.json).absolute().parent.is_dir():
        raise InputError(f"{args.json}: there is no such folder; make it first")
    clock, model, clips = record.Clock(), load_model(args.model, backend="auto"), Clips(args.clips_folder)
    ears = None if args.no_recogniser else Recogniser.named(args.whisper)
    recogniser = functools.cache(lambda: None if args.no_recogniser else Recogniser(args.whisper, args.threads))
    systems = [ModelSystem(model, "model", seed=args.seed), *controls(clips)]
    kept = Kept(args.keep, model=fingerprint(model.folder) if args.keep else "", backend=model.backend, seed=args.seed,
                items=args.items, ears=ears, voices=clips.versions)
    rows, counts = [], {}
    for function in FUNCTIONS:
        if function.name in args.skip:
            continue
        missing = NOT_SUPPORTED.get(function.name) or _missing(function, clips)
        if missing:
            rows.append({"name": function.name, "what": function.what, "supported": False, "why": missing, "systems": {}})
            continue
        if function.name == "streaming latency":
            measured = latency.measure(model, 200, 100)["session"]["session"]
            share = 1 - measured["deadline_misses"] / 200
            rows.append({"name": function.name, "what": f"{function.what} (p99 {measured['p99_ms']:.1f} ms)", "supported": True,
                         "unit": "%", "systems": {"model": {"own text": Estimate(share, None, None, 200).to_dict()}}})
            continue
        part = kept.get(f"capability {function.name}",
                        lambda function=function: _probed(function, systems, clips, args, recogniser()))
        counts[function.name] = part["counts"]
        rows.append({"name": function.name, "what": function.what, "supported": True, "unit": "%", **part["row"]})
        clock.done(function.name)
    result = record.stamp("capability", args.seed, model=Path(args.model).name, items=args.items, engines=clips.versions,
                          recogniser=ears, rows=rows, tasks=counts, kept=kept.measured, seconds=clock.spent)
    print(table(result))
    record.write(args.json, result)
    record.refuse_excluded(counts)
    print(json.dumps(result))


def _probed(function: Function, systems: Sequence[System], clips: Clips, args: argparse.Namespace,
            recogniser: Recogniser | None) -> dict:
    """Puts the probes of a function to all systems: the row's scores, and how many items of the model were left out."""
    items = probes(function, clips, args.items, args.seed)
    flat = [item for group in items for item in group]
    found: dict[str, dict] = {}
    for system in systems:
        responses = [r for group in items for r in system.respond(group)]
        if system.name == "oracle":
            responses = [voiced(item, r, clips) for item, r in zip(flat, responses, strict=True)]
        ear = None if isinstance(system, Control) else recogniser
        found[system.name] = {how: value.to_dict() for how, value in judge(function, flat, responses, ear).items()}
        if system.name == "model":
            left_out = {"items": len(flat), "excluded": [r.error for r in responses if r.error]}
    row = {"systems": found, "chance": chance(flat) if function.scenarios else None}
    unheard = {language(item) for item in flat} - recogniser.languages if recogniser is not None else set()
    if unheard:
        row["note"] = f"by text alone: the recogniser does not know {' and '.join(sorted(unheard))}"
    return {"row": row, "counts": left_out}


def voiced(item: Item, response: Response, clips: Clips) -> Response:
    """The oracle's response; none where no voice here can speak its lines, which says nothing about the item."""
    if all(clips.system(line.name) is not None for line in item.ideal):
        return response
    return replace(response, error=f"{item.name}: no voice here speaks the answer")


def _missing(function: Function, clips: Clips) -> str:
    if function.name == "languages" and not all(clips.foreigners(language) for language in LANGUAGES):
        return "no engine here speaks French and Spanish: apt-get install espeak-ng"
    unknown = [name for name in function.scenarios if name != "*" and name not in scripts.names()]
    return f"the scripts have no scenario {unknown[0]}" if unknown else ""


def probes(function: Function, clips: Clips, count: int, seed: int) -> list[list[Item]]:
    """The items of a function, grouped by task."""
    if function.name == "context":  # put as plain questions: answers to recall are not made sound of, and here they are heard
        return [[replace(item, task="turn") for item in tasks.make(clips, task, -(-count // 2), seed + 7)]
                for task in ("name_recall", "order_recall")]
    if function.name == "interaction":
        return [tasks.make(clips, task, -(-count // 3), seed + 7) for task in ("backchannel", "interruption", "pause")]
    names = tuple(core()) if function.scenarios == ("*",) else function.scenarios
    return [[probe(function, clips, names[n % len(names)], seed, n) for n in range(count)]]


def probe(function: Function, clips: Clips, name: str, seed: int, number: int) -> Item:
    """One question of a scenario, by a held-out speaker who can ask it so."""
    s = scene(clips, seed, f"capability:{function.name}", number)
    exchange = instance(s.rng, name)[0]
    s.speaker = _speaker(clips, exchange, s)
    turn = s.say(exchange)
    right = answers(name, exchange)
    listen, least = listening(max(right, key=len))
    s.answer(exchange.system_key)
    return Item(f"{function.name}/{number:04d}", "turn", name, s.speaker.name, number, s.finish(turn[1] + listen), {"turn": turn},
                exchange.user, right, least, ideal=tuple(s.ideal))


def _speaker(clips: Clips, exchange: Exchange, s: Scene):
    """The scene's speaker, or one who can speak with the exchange's mark."""
    if exchange.user_mark in LANGUAGES:
        return s.rng.choice(clips.foreigners(exchange.user_mark))
    if exchange.user_mark in STYLES and exchange.user_mark not in s.speaker.styles():
        return s.rng.choice([speaker for speaker in clips.speakers if exchange.user_mark in speaker.styles()])
    return s.speaker


def judge(function: Function, items: Sequence[Item], responses: Sequence[Response],
          recogniser: Recogniser | None) -> dict[str, Estimate]:
    """Shares of right behaviour: by the model's "own text", by the "recogniser", by what is "played"."""
    scores = [score(item, response) for item, response in zip(items, responses, strict=True)]
    if function.name == "interaction":
        return {"behaviour": mean([ok for item, s in zip(items, scores, strict=True) for ok in _interacts(item, s)])}
    found = {"own text": mean(values(scores, "right"))}
    if function.sound:
        found["played"] = mean([plays(item, r) for item, r in zip(items, responses, strict=True) if not r.error])
    elif recogniser is not None and recogniser.languages.issuperset(map(language, items)):
        found["recogniser"] = mean(_heard(items, responses, recogniser))
    return found


def language(item: Item) -> str:
    """The language of the right answer: its code."""
    mark = split_key(item.ideal[-1].name)[1] if item.ideal else ""
    return mark if mark in LANGUAGES else "en"


def _heard(items: Sequence[Item], responses: Sequence[Response], recogniser: Recogniser) -> list[bool]:
    """Whether the recogniser hears a right answer in each response that can be judged; one language at a time."""
    found: list[bool] = []
    for spoken in ("en", *LANGUAGES):
        pairs = [(item, r) for item, r in zip(items, responses, strict=True) if language(item) == spoken and not r.error]
        words = recogniser.words([_after(item, r) for item, r in pairs], spoken) if pairs else []
        found += [_heard_right(item, said_words) for (item, _), said_words in zip(pairs, words, strict=True)]
    return found


def _interacts(item: Item, s: Score) -> list[bool]:
    if "error" in s:
        return []
    if item.task == "pause":
        return [not s["takes_over"] and bool(s["answers_after"])]
    if item.task == "backchannel":
        return [bool(s["goes_on"])]
    return [bool(s["speaking"]) and s["stop_s"] is not None and float(s["stop_s"]) <= 1.0]


def _after(item: Item, response: Response) -> np.ndarray:
    """What is said after the question; silence before."""
    pcm = response.pcm.copy()
    pcm[: max(0, round((item.marks["turn"][1] - 0.3) * SAMPLE_RATE))] = 0
    return pcm


def _heard_right(item: Item, words: Sequence[Word]) -> bool:
    heard = spoken_words(said(words, 0.0))
    for answer in item.expected:
        wanted = spoken_words(answer)
        if heard == wanted or (item.least is not None and len(heard) >= item.least and heard == wanted[: len(heard)]):
            return True
    return False


def plays(item: Item, response: Response) -> bool:
    """Whether as many tones are heard as there are words in the answer: beeps of one pitch, or a rising scale."""
    wanted = len(plain(item.expected[0]).split())
    pitches = tones(_after(item, response))
    if len(pitches) != wanted:
        return False
    if item.expected[0].startswith("beep"):
        return max(pitches) <= min(pitches) * (1 + WRONG_TONE)
    return all(b > a for a, b in zip(pitches, pitches[1:], strict=False))


def tones(pcm: np.ndarray, window: float = 0.02) -> list[float]:
    """Frequencies in Hz of the tones in float32 [S] at 24 kHz: stretches of at least 0.15 s in which one line of the spectrum
    holds half of the energy."""
    size = round(window * SAMPLE_RATE) * 2
    hop = size // 2
    found: list[list[float]] = []
    quiet = True
    for at in range(0, len(pcm) - size, hop):
        frame = pcm[at : at + size] * np.hanning(size)
        power = np.abs(np.fft.rfft(frame)) ** 2
        peak = int(power[2:].argmax()) + 2
        tonal = power.sum() > 1e-3 and power[max(0, peak - 2) : peak + 3].sum() > HALF * power.sum()
        if tonal:
            hertz = peak * SAMPLE_RATE / size
            if quiet or abs(hertz - found[-1][-1]) > WRONG_TONE * hertz + SAMPLE_RATE / size:
                found.append([])
            found[-1].append(hertz)
        quiet = not tonal
    return [float(np.median(line)) for line in found if len(line) * hop / SAMPLE_RATE >= 0.15]


def chance(items: Sequence[Item]) -> float:
    """The score of always giving the most frequent right answer."""
    counts = Counter(answer for item in items for answer in set(item.expected))
    return counts.most_common(1)[0][1] / len(items)


def table(result: dict) -> str:
    """The result as a Markdown table."""
    names = ["always silent", "always talking", "VAD end-pointer", "oracle"]
    lines = ["| function | what | model, by its own text or behaviour | by ear | chance | " + " | ".join(names) + " |",
             "|---|---|---:|---:|---:|" + "---:|" * len(names)]
    for row in result["rows"]:
        if not row["supported"]:
            lines.append(f"| {row['name']} | {row['what']} | not supported: {row['why']} |" + " |" * (2 + len(names)))
            continue
        mine, what = row["systems"]["model"], row["what"] + (f" ({row['note']})" if row.get("note") else "")
        cells = [row["name"], what, record.cell(next(iter(mine.values())), "%"), record.cell(by_ear(mine), "%"),
                 record.number(row.get("chance"), "%"), *(_both(row["systems"].get(name, {})) for name in names)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def by_ear(scores: dict[str, dict]) -> dict | None:
    """The estimate of a system's sound, if there is one."""
    return next((scores[how] for how in BY_EAR if how in scores), None)


def _both(scores: dict[str, dict]) -> str:
    """A control's scores: by its own text or behaviour, and behind a stroke by ear where its sound was judged, too."""
    first, ear = next(iter(scores.values()), None), by_ear(scores)
    return " / ".join(record.number(e["value"], "%") for e in (first, ear) if e) or "—"


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser("benchmarks.capability", "Probe what a model can do.")
    parser.add_argument("--model", default="tiny", metavar="MODEL", help="'tiny', a checkpoint folder or a hub id")
    parser.add_argument("--items", type=cli.at_least(1), default=100, metavar="N", help="probes of each function")
    parser.add_argument("--skip", nargs="*", default=[], choices=[f.name for f in FUNCTIONS], help="leave these out")
    parser.add_argument("--no-recogniser", action="store_true", help="judge by the model's own text alone")
    parser.add_argument("--seed", type=cli.at_least(0), default=0, help="of probes and sampling")
    record.add_options(parser)
    return cli.run(parser, run, argv)


if __name__ == "__main__":
    sys.exit(main())
