"""Simulate conversations offline: with recordings, with scripted users, or of two checkpoints with each other.

    python -m infer.simulate --user question.wav --out out/question
    python -m infer.simulate --script interrupt.toml --policy learned guarded forced --runs 4 --out out/policies
    python -m infer.simulate --script chat.toml --network 50,30 --stalls 0.02,200 --echo -20 --drift 100 --out out/bad
    python -m infer.simulate --self --partner other/model --seconds 30 --out out/self

Writes conversation.wav (left: system, right: user), transcript.md, events.jsonl and timeline.png; for several
conversations a folder each, a page to compare them (index.html) and their statistics (summary.jsonl).
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np

from duplex.audio import read_audio, to_mono
from duplex.checkpoint import LoadedModel, load_model
from duplex.errors import InputError
from duplex.fast.backends import BACKENDS
from duplex.metrics.turntaking import turn_taking_statistics
from duplex.policy import POLICIES, PolicyConfig
from duplex.text import Word, read_words
from duplex.turns import speech_spans
from duplex.units import FRAME_SECONDS, seconds_to_frames, seconds_to_samples
from infer import cli
from infer.conditions import Conditions
from infer.dialogues import Outcome, Plan, converse, converse_together
from infer.page import write_page
from infer.report import About, check_folder, human_summary, write_report
from infer.user import RecordedUser, ScriptedUser, read_script

MAX_TAIL = 3_600.0
CHANNELS = ("mix", "left", "right")
DEFAULTS = {
    "user": None, "script": None, "with_itself": False, "partner": None, "user_words": None, "channel": "mix", "voice": None,
    "tail": 4.0, "seconds": 30.0, "runs": 1, "batch": 16, "policy": ["learned"], "barge_in_after": 0.8, "network": None,
    "stalls": None, "drift": 0.0, "echo": None, "echo_delay": 120.0, "no_cancel": False, "noise": None,
    "backend": "naive"}
"""What `run` needs beside the options of the model and `out`, as a parser without these options would have it."""


def parser() -> cli.Parser:
    parser = cli.Parser("infer.simulate", "Simulate full-duplex conversations and write them down.")
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--user", metavar="FILE", nargs="+",
                     help="recordings of users: wav, flac or ogg, any rate, mono or stereo")
    who.add_argument("--script", metavar="FILE", nargs="+", help="scripts of users that react to the system (docs/live.md)")
    who.add_argument("--self", action="store_true", dest="with_itself", help="two instances talk to each other")
    parser.add_argument("--partner", metavar="MODEL", help="with --self: the other one is this checkpoint")
    parser.add_argument("--user-words", metavar="FILE",
                        help='what the user says, for the report alone: {"words": [[word, start, end], ...]}')
    parser.add_argument("--channel", choices=CHANNELS, default="mix", help="what to take from a stereo recording")
    parser.add_argument("--voice", metavar="ENGINE[:VOICE]", help="speaks the scripts: hibari, espeak-ng or flite")
    parser.add_argument("--tail", type=cli.number(0, MAX_TAIL), default=4.0, metavar="S",
                        help="seconds of silence after the user's last word, for the last answer")
    parser.add_argument("--seconds", type=cli.number(FRAME_SECONDS, MAX_TAIL), default=30.0, metavar="S",
                        help="length of a conversation with --self")
    parser.add_argument("--runs", type=cli.at_least(1), default=1, metavar="N",
                        help="conversations each, with seeds from --seed up")
    parser.add_argument("--batch", type=cli.at_least(1), default=16, metavar="N", help="conversations that are held at once")
    parser.add_argument("--policy", choices=POLICIES, nargs="+", default=["learned"],
                        help="what happens when the user barges in; several are compared")
    parser.add_argument("--barge-in-after", type=cli.number(0.71, 10), default=0.8, metavar="S",
                        help="speech over the system that makes a barge-in for guarded and forced")
    group = parser.add_argument_group("conditions between user and model (none: a perfect world)")
    group.add_argument("--network", type=pair("DELAY,JITTER"), metavar="MS,MS",
                       help="delay of each direction, plus or minus jitter")
    group.add_argument("--stalls", type=pair("SHARE,MS"), metavar="P,MS", help="this share of packets is held up so long")
    group.add_argument("--drift", type=cli.number(-4_000, 4_000), default=0.0, metavar="PPM",
                       help="the speaker's clock against the microphone's")
    group.add_argument("--echo", type=cli.number(-90, 20), metavar="DB", help="open loudspeaker: its level in the microphone")
    group.add_argument("--echo-delay", type=cli.number(0, 1_000), default=120.0, metavar="MS", help="of that echo")
    group.add_argument("--no-cancel", action="store_true", help="leave that echo in")
    group.add_argument("--noise", type=cli.number(-120, 0), metavar="DB", help="noise at the microphone")
    parser.add_argument("--backend", choices=("auto", *BACKENDS), default="naive", help="how the model's steps are computed")
    parser.add_argument("--out", default="out/simulate", metavar="DIR", help="folder for the results")
    cli.add_model_options(parser)
    return parser


def pair(names: str):
    """Argument type: two numbers from 0 up with a comma between them."""

    def parse(text: str) -> tuple[float, float]:
        first, second = (cli.number(0)(part) for part in text.split(","))
        return first, second

    parse.__name__ = names
    return parse


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    """Checks every input before the model is loaded, converses, reports."""
    out = check_folder(args.out)
    device = cli.device_of(args)
    prompt = cli.prompt_of(args)
    if args.with_itself and args.user_words:
        raise InputError("--user-words does not go with --self: the words of both sides are known; leave it out")
    if args.partner and not args.with_itself:
        raise InputError("--partner goes with --self; add it")
    conditions = _conditions(args)
    if args.with_itself and not conditions.perfect:
        raise InputError("conditions do not go with --self; leave them out")
    plans, user_words = _plans(args, conditions), _user_words(args)
    model = load_model(args.model, device, backend=args.backend)
    sampling = cli.sampling_of(args, model.sampling)
    delay = model.config.max_delay + 1
    print(f"{_describe(model)}, {delay} frames ({delay * FRAME_SECONDS * 1000:.0f} ms) of algorithmic latency, seed {args.seed}",
          flush=True)
    if args.with_itself:
        frames = seconds_to_frames(args.seconds)
        other = load_model(args.partner, device, backend=args.backend) if args.partner else model
        found = iter(converse_together(model, other, plans, frames, (sampling, cli.sampling_of(args, other.sampling)), prompt,
                                       time.perf_counter, Progress(frames)))
    else:
        known = args.user is not None and len(plans) == 1 and conditions.perfect
        frames = len(plans[0].user()._frames) if known else None  # type: ignore[attr-defined]
        found = converse(model, plans, sampling, prompt, args.batch, time.perf_counter, Progress(frames))
    settings = {"sampling": vars(sampling), "prompt_text": args.prompt_text, "prompt_audio": args.prompt_audio}
    outcomes = []
    for outcome in found:
        if user_words:
            outcome = replace(outcome, dialogue=replace(outcome.dialogue, user_words=tuple(user_words)))
        folder = out / outcome.plan.name if len(plans) > 1 else out
        paths = write_report(outcome.dialogue, _about(args, outcome, settings), folder)
        if len(plans) == 1:
            names = ", ".join(path.name for path in paths)
            print(f"\n{human_summary(outcome.dialogue)}\n{_delivered(outcome)}\nwrote {names} in {out}/", flush=True)
        outcomes.append(_summary(outcome))
    if len(plans) > 1:
        _write_comparison(out, plans, outcomes)


def _plans(args: argparse.Namespace, conditions: Conditions) -> list[Plan]:
    """Every combination of user, policy and seed that was asked for."""
    if args.with_itself:
        partner = Path(args.partner).name if args.partner else "a second instance of the model"
        users = [("self", partner, lambda: RecordedUser(np.zeros(0, np.float32)))]
    elif args.script:
        users = [(Path(path).stem, Path(path).name, partial(ScriptedUser, read_script(path, args.voice), args.tail))
                 for path in args.script]
    else:
        users = [(Path(path).stem, Path(path).name, partial(RecordedUser, _recording(args, path))) for path in args.user]
    names = [name for name, _, _ in users]
    if len(set(names)) < len(names):
        raise InputError(f"two users are called {max(names, key=names.count)}; their folders need different names")
    policies = list(dict.fromkeys(args.policy))
    plans = []
    for (name, about, user), kind, number in itertools.product(users, policies, range(args.runs)):
        parts = [name if len(users) > 1 or len(policies) == args.runs == 1 else "", kind if len(policies) > 1 else "",
                 f"seed{args.seed + number}" if args.runs > 1 else ""]
        plans.append(Plan("-".join(filter(None, parts)), user, about, args.seed + number,
                          PolicyConfig(kind=kind, after_seconds=args.barge_in_after), conditions))
    return plans


def _conditions(args: argparse.Namespace) -> Conditions:
    delay, jitter = args.network or (0.0, 0.0)
    share, stall = args.stalls or (0.0, 200.0)
    return Conditions(delay, jitter, share, stall, args.drift, args.echo, args.echo_delay, not args.no_cancel, args.noise)


def _recording(args: argparse.Namespace, path: str) -> np.ndarray:
    """The user's recording with its tail of silence, float32 [S] at 24 kHz."""
    pcm_CS = read_audio(path)
    if args.channel != "mix" and pcm_CS.shape[0] != 2:
        raise InputError(f"{path}: has {pcm_CS.shape[0]} channels, not 2; leave --channel out")
    pcm = to_mono(pcm_CS) if args.channel == "mix" else pcm_CS[CHANNELS.index(args.channel) - 1]
    return np.pad(pcm, (0, seconds_to_samples(args.tail)))


def _user_words(args: argparse.Namespace) -> list[Word]:
    if args.user_words and (args.script or len(args.user) > 1):
        raise InputError("--user-words goes with one recording; leave it out")
    return read_words(args.user_words) if args.user_words else []


def _about(args: argparse.Namespace, outcome: Outcome, settings: dict) -> About:
    plan = outcome.plan
    world = {} if plan.conditions.perfect else {"conditions": asdict(plan.conditions)}
    return About(str(args.model), plan.about_user, {"seed": plan.seed, "policy": plan.policy.kind, **settings, **world},
                 tuple({"time": round(line.start, 4), "end": round(line.end, 4), "text": line.text} for line in outcome.said),
                 asdict(outcome.delivery) if outcome.delivery else None)


def _delivered(outcome: Outcome) -> str:
    way = outcome.delivery
    return "" if way is None else (
        f"delivery: underrun {100 * way.underrun_share:.2f} % of the time, playout delay {way.playout_delay_ms:.0f} ms, dropped "
        f"{way.dropped_ms:.0f} ms; the silent user was heard {way.echo_heard} times and "
        f"yielded to {way.echo_yields} times in {way.system_turns} turns\n")


def _summary(outcome: Outcome) -> dict:
    """One conversation for the page and for summary.jsonl."""
    dialogue, plan = outcome.dialogue, outcome.plan
    statistics = turn_taking_statistics(speech_spans(dialogue.events, "system"), speech_spans(dialogue.events, "user"),
                                        dialogue.seconds) if dialogue.seconds else None
    return {"name": plan.name, "user": plan.about_user, "seed": plan.seed, "policy": plan.policy.kind,
            **dialogue.summary.to_dict(), "unheard_seconds": round(dialogue.heard.seconds, 3), "turn_taking": statistics,
            "delivery": asdict(outcome.delivery) if outcome.delivery else None}


def _write_comparison(out: Path, plans: Sequence[Plan], outcomes: Sequence[dict]) -> None:
    lines = "".join(f"{json.dumps(outcome)}\n" for outcome in outcomes)
    temporary = out / ".summary.part"
    temporary.write_text(lines, encoding="utf-8")
    temporary.replace(out / "summary.jsonl")
    write_page([out / plan.name for plan in plans], out / "index.html", f"{len(plans)} conversations")
    width = max(len(plan.name) for plan in plans)
    print(f"\n{'':{width}}  answer  barge-ins  yielded after  false yields  overlap")
    for outcome in outcomes:
        median, yields = outcome["median_response_latency"], outcome["times_to_yield"]
        print(f"{outcome['name']:{width}}  {'-' if median is None else f'{median:.2f} s':>6}  {outcome['barge_ins']:>9}  "
              f"{', '.join(f'{value:.2f}' for value in yields) or '-':>13}  {outcome['false_yields']:>12}  "
              f"{outcome['overlap_seconds']:>5.1f} s")
    print(f"\nwrote {len(plans)} conversations, index.html and summary.jsonl in {out}/", flush=True)


def _describe(model: LoadedModel) -> str:
    parameters = sum(weight.numel() for weight in model.lm.parameters())
    return f"model {model.folder.name}: {parameters / 1e6:.1f} M parameters in the language model"


class Progress:
    """Prints how far a conversation is and how fast, on one line of a terminal or now and then into a file."""

    def __init__(self, frames: int | None):
        self.frames = frames
        self.live = sys.stdout.isatty()
        self.interval = 0.2 if self.live else 5.0
        self.start = self.shown = time.perf_counter()

    def __call__(self, done: int) -> None:
        now, last = time.perf_counter(), done == self.frames
        if now - self.shown < self.interval and not last:
            return
        self.shown = now
        speed = done * FRAME_SECONDS / max(now - self.start, 1e-9)
        of = (f"/{self.frames}  {done * FRAME_SECONDS:.1f} s of {self.frames * FRAME_SECONDS:.1f} s" if self.frames
              else f"  {done * FRAME_SECONDS:.1f} s")
        line = f"frame {done}{of}  {speed:.1f}x real time"
        print(f"\r{line:<60}" if self.live else line, end="\n" if last or not self.live else "", flush=True)


if __name__ == "__main__":
    sys.exit(main())
