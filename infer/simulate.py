"""Simulate a conversation offline with a recorded user, or let two instances of the model talk to each other.

    python -m infer.simulate --user question.wav --out out/question
    python -m infer.simulate --self --seconds 30 --out out/self

Writes conversation.wav (left: system, right: user), transcript.md, events.jsonl and timeline.png.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from duplex.audio import read_audio, to_mono
from duplex.checkpoint import LoadedModel, load_model
from duplex.errors import InputError
from duplex.session import Session, SessionFrame
from duplex.simulate import Dialogue, self_dialogue, simulate
from duplex.text import Word, read_words
from duplex.units import FRAME_SECONDS, samples_to_frames, seconds_to_frames, seconds_to_samples
from infer import cli
from infer.report import About, check_folder, human_summary, write_report

MAX_TAIL = 3_600.0
CHANNELS = ("mix", "left", "right")


def parser() -> cli.Parser:
    parser = cli.Parser("infer.simulate", "Simulate a full-duplex conversation and write it down.")
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--user", metavar="FILE", help="recording of the user: wav, flac or ogg, any rate, mono or stereo")
    who.add_argument("--self", action="store_true", dest="with_itself", help="two instances talk to each other")
    parser.add_argument("--user-words", metavar="FILE",
                        help='what the user says, for the report alone: {"words": [[word, start, end], ...]}')
    parser.add_argument("--channel", choices=CHANNELS, default="mix", help="what to take from a stereo recording")
    parser.add_argument("--tail", type=cli.number(0, MAX_TAIL), default=4.0, metavar="S",
                        help="seconds of silence after the recording, for the last answer")
    parser.add_argument("--seconds", type=cli.number(FRAME_SECONDS, MAX_TAIL), default=30.0, metavar="S",
                        help="length of a conversation with --self")
    parser.add_argument("--out", default="out/simulate", metavar="DIR", help="folder for the results")
    cli.add_model_options(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    """Checks every input before the model is loaded, converses, reports."""
    out = check_folder(args.out)
    device = cli.device_of(args)
    prompt = cli.prompt_of(args)
    user_pcm, user_words = (None, []) if args.with_itself else _user(args)
    if args.with_itself and args.user_words:
        raise InputError("--user-words does not go with --self: the words of both sides are known; leave it out")
    model = load_model(args.model, device)
    sampling = cli.sampling_of(args, model.sampling)
    session = Session(model, sampling, args.seed, prompt)
    print(f"{_describe(model)}, {session.delay + 1} frames ({(session.delay + 1) * FRAME_SECONDS * 1000:.0f} ms) of "
          f"algorithmic latency, seed {args.seed}", flush=True)
    if user_pcm is None:
        frames = seconds_to_frames(args.seconds)
        partner = Session(model, sampling, args.seed + 1, prompt)
        dialogue = self_dialogue(session, partner, frames, clock=time.perf_counter, on_frame=Progress(frames))
        user = "a second instance of the model"
    else:
        frames = samples_to_frames(len(user_pcm))
        dialogue = simulate(session, user_pcm, clock=time.perf_counter, on_frame=Progress(frames))
        dialogue = Dialogue(**{**vars(dialogue), "user_words": tuple(user_words)})
        user = Path(args.user).name
    settings = {"seed": args.seed, "sampling": vars(sampling), "prompt_text": args.prompt_text,
                "prompt_audio": args.prompt_audio}
    paths = write_report(dialogue, About(str(args.model), user, settings), out)
    print(f"\n{human_summary(dialogue)}\n\nwrote {', '.join(path.name for path in paths)} in {out}/", flush=True)


def _user(args: argparse.Namespace) -> tuple[np.ndarray, list[Word]]:
    """The user's recording with its tail of silence, float32 [S] at 24 kHz, and the words that are known."""
    pcm_CS = read_audio(args.user)
    if args.channel != "mix" and pcm_CS.shape[0] != 2:
        raise InputError(f"{args.user}: has {pcm_CS.shape[0]} channels, not 2; leave --channel out")
    pcm = to_mono(pcm_CS) if args.channel == "mix" else pcm_CS[CHANNELS.index(args.channel) - 1]
    words = read_words(args.user_words) if args.user_words else []
    return np.pad(pcm, (0, seconds_to_samples(args.tail))), words


def _describe(model: LoadedModel) -> str:
    parameters = sum(weight.numel() for weight in model.lm.parameters())
    return f"model {model.folder.name}: {parameters / 1e6:.1f} M parameters in the language model"


class Progress:
    """Prints how far a conversation is and how fast, on one line of a terminal or now and then into a file."""

    def __init__(self, frames: int):
        self.frames = frames
        self.live = sys.stdout.isatty()
        self.interval = 0.2 if self.live else 5.0
        self.start = self.shown = time.perf_counter()

    def __call__(self, frame: SessionFrame) -> None:
        done, now = frame.index + 1, time.perf_counter()
        if now - self.shown < self.interval and done < self.frames:
            return
        self.shown = now
        speed = done * FRAME_SECONDS / max(now - self.start, 1e-9)
        line = (f"frame {done}/{self.frames}  {done * FRAME_SECONDS:.1f} s of {self.frames * FRAME_SECONDS:.1f} s  "
                f"{speed:.1f}x real time")
        last = done == self.frames
        print(f"\r{line:<60}" if self.live else line, end="\n" if last or not self.live else "", flush=True)


if __name__ == "__main__":
    sys.exit(main())
