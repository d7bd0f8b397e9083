"""Examine a model folder on held-out questions: does it answer, rightly, in time, and stop when interrupted?

    python -m train.exam MODEL --bank BANK [--items 60] [--json FILE]

Every item is one exchange of the test split (arguments and phrases that training never saw; the voices are those of the
bank), put to a fresh session. The system's words are read from its inner monologue. A barge-in item waits until the
system is well into a long answer and then says "stop" or asks something else.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from duplex.checkpoint import LoadedModel, load_model
from duplex.errors import InputError
from duplex.session import Session
from duplex.units import FRAME_SAMPLES, FRAME_SECONDS, frames_to_samples, seconds_to_frames
from train import cli
from train.corpus import scripts
from train.corpus.bank import Bank
from train.files import replace_file

LISTEN = 8.0  # seconds after the question in which the answer must come
LEAD = 0.8  # seconds of silence before the question


@dataclass(frozen=True)
class Answer:
    """What came of one item."""

    question: str
    expected: str
    heard: str
    right: bool
    response: float | None
    """Seconds from the end of the question to the first sound of the answer; None: no answer."""
    yielded: float | None = None
    """Barge-in items: seconds from the start of the interruption until the system is silent; None: it went on."""
    follow_right: bool | None = None
    engine: str = ""


def plain(text: str) -> str:
    """Lower case without marks, for comparing words."""
    return " ".join(re.sub(r"[^a-z ]", " ", text.lower()).split())


class Room:
    """One session and the user audio that is fed to it, frame by frame."""

    def __init__(self, model: LoadedModel, seed: int):
        self.session = Session(model, seed=seed)
        self.active: list[bool] = []
        self.words = []

    def hear(self, samples: np.ndarray) -> None:
        """Feed audio (padded to whole frames)."""
        samples = np.pad(samples, (0, -len(samples) % FRAME_SAMPLES)).astype(np.float32)
        for at in range(0, len(samples), FRAME_SAMPLES):
            frame = self.session.step(samples[at : at + FRAME_SAMPLES])
            self.active.append(frame.system_active)
            self.words += frame.words

    def quiet(self, seconds: float) -> None:
        """Feed silence."""
        self.hear(np.zeros(frames_to_samples(seconds_to_frames(seconds)), np.float32))

    def text(self, after: float = 0.0, before: float = 1e9) -> str:
        """Words of the inner monologue that start in a span of seconds."""
        return " ".join(w.text for w in self.words if after <= w.start < before)

    def speaking_from(self, frame: int) -> int | None:
        """First frame of speech at or after ``frame``."""
        return next((i for i in range(frame, len(self.active)) if self.active[i]), None)


def ask(model: LoadedModel, bank: Bank, rng: random.Random, item: scripts.Exchange, seed: int) -> Answer | None:
    """Put one question; None when the bank cannot say it."""
    clips = bank.find("user", item.user)
    if not clips:
        return None
    clip = rng.choice(clips)
    room = Room(model, seed)
    room.quiet(LEAD)
    room.hear(bank.speech(clip).samples)
    end = len(room.active)
    room.quiet(LISTEN)
    room.words += room.session.finish()[0]
    first = room.speaking_from(max(0, end - 2))
    heard = room.text()
    return Answer(item.user, item.system, heard, plain(heard) == plain(item.system),
                  None if first is None else max(0.0, (first - end) * FRAME_SECONDS), engine=clip.engine)


def interrupt(model: LoadedModel, bank: Bank, rng: random.Random, seed: int) -> Answer | None:
    """Have it count, break in after two seconds of counting, and see whether it stops and answers."""
    item = scripts.counting(rng, scripts.Picker(rng, "test"))[0]
    follow = rng.choice([scripts.stop(scripts.Picker(rng, "test")), scripts.addition(rng, scripts.Picker(rng, "test"))[0]])
    questions = [c for c in bank.find("user", item.user) if c.engine != "asterisk"]
    if not questions:
        return None
    clip = rng.choice(questions)
    breaks = [c for c in bank.find("user", follow.user) if c.engine == clip.engine]
    if not breaks:
        return None
    room = Room(model, seed)
    room.quiet(LEAD)
    room.hear(bank.speech(clip).samples)
    end = len(room.active)
    for _ in range(40):
        room.quiet(FRAME_SECONDS)
        if sum(room.active[end:]) >= 20:
            break
    else:
        return Answer(item.user, follow.system, room.text(), False, None, engine=clip.engine)
    start = len(room.active)
    room.hear(bank.speech(rng.choice(breaks)).samples)
    room.quiet(4.0)
    room.words += room.session.finish()[0]
    silent = next((i for i in range(start, len(room.active) - 3) if not any(room.active[i : i + 3])), None)
    after = room.text(after=(start + 4) * FRAME_SECONDS)
    before = plain(room.text(before=start * FRAME_SECONDS))
    return Answer(f"{item.user} | {follow.user}", follow.system, after, plain(item.system).startswith(before), None,
                  None if silent is None else (silent - start) * FRAME_SECONDS, plain(after).endswith(plain(follow.system)),
                  clip.engine)


def summary(answers: list[Answer], breaks: list[Answer]) -> dict:
    """Shares and medians over the items; an interruption needs a long answer to break into, so the others are only counted."""
    tried, breaks = len(breaks), [b for b in breaks if b.follow_right is not None]
    responses = sorted(a.response for a in answers if a.response is not None)
    stops = sorted(b.yielded for b in breaks if b.yielded is not None)

    def share(values: list[bool]) -> float:
        return round(sum(values) / max(1, len(values)), 3)

    return {
        "questions": len(answers), "right": share([a.right for a in answers]),
        "answered": share([a.response is not None for a in answers]),
        "response_median_s": responses[len(responses) // 2] if responses else None,
        "interruptions": len(breaks), "no_long_answer_to_interrupt": tried - len(breaks),
        "yielded": share([b.yielded is not None and b.yielded <= 1.5 for b in breaks]),
        "yield_median_s": stops[len(stops) // 2] if stops else None,
        "answers_interruption": share([bool(b.follow_right) for b in breaks]),
    }


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser("exam", __doc__)
    parser.add_argument("model")
    parser.add_argument("--bank", type=Path, required=True)
    parser.add_argument("--items", type=int, default=60)
    parser.add_argument("--breaks", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    cli.add_threads(parser)
    return cli.run(parser, run, argv)


def run(args: argparse.Namespace) -> None:
    """Puts all questions, then all interruptions, and prints each with what came of it."""
    model, bank = load_model(args.model), Bank(args.bank)
    rng = random.Random(args.seed)
    answers: list[Answer] = []
    breaks: list[Answer] = []
    for attempt in range(20 * (args.items + args.breaks)):
        seed = args.seed * 100_000 + attempt
        if len(answers) < args.items:
            item = scripts.exchanges(rng, "test", 1)[0]
            if (answer := ask(model, bank, rng, item, seed)) is not None:
                answers.append(answer)
                verdict = "right" if answer.right else "WRONG"
                print(f"{verdict}  [{answer.engine}] {answer.question}  ->  {answer.heard}", flush=True)
        elif len(breaks) < args.breaks:
            if (answer := interrupt(model, bank, rng, seed)) is not None:
                breaks.append(answer)
                stopped = "goes on" if answer.yielded is None else f"stops after {answer.yielded:.2f} s"
                print(f"break  [{answer.engine}] {answer.question}  ->  {stopped}, then: {answer.heard}", flush=True)
    if len(answers) < args.items or len(breaks) < args.breaks:
        raise InputError(f"{args.bank}: too few of the scripts' lines are in this bank; make it again with train.speak")
    result = summary(answers, breaks)
    if args.json:
        text = json.dumps({"summary": result, "answers": [asdict(a) for a in answers + breaks]}, indent=1)
        replace_file(args.json, lambda part: part.write_text(text))
    print(json.dumps(result))


if __name__ == "__main__":
    raise SystemExit(main())
