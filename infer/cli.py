"""What the commands share: one-line errors, the thread count, and the options that choose a model and its sampling."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, replace

import torch

from duplex.audio import read_audio, to_mono
from duplex.config import SamplingConfig
from duplex.errors import DuplexError, InputError
from duplex.session import Prompt

USER_ERROR = 2
INTERRUPTED = 130


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, except where there is none to show."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line, as all other errors are."""

    def __init__(self, command: str, description: str):
        super().__init__(prog=f"python -m {command}", description=description, allow_abbrev=False,
                         formatter_class=_Help)

    def error(self, message: str) -> None:  # type: ignore[override]
        raise InputError(f"{message}; see {self.prog} --help")


def run(parser: Parser, body: Callable[[argparse.Namespace], None], argv: Sequence[str] | None) -> int:
    """Parses `argv`, sets the thread count and runs `body`; gives the exit status.

    Errors that the user can mend become one line on stderr and status 2; all others are bugs and keep their traceback.
    """
    add_runtime_options(parser)
    try:
        args = parser.parse_args(argv)
        torch.set_num_threads(args.threads)
        body(args)
    except DuplexError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("error: interrupted; nothing was written", file=sys.stderr)
        return INTERRUPTED
    return 0


def add_runtime_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu", help="where the model runs: cpu, cuda, cuda:1 ...")
    # A frame is too little work to share out, and threads that wait for each other make the slowest frames slower.
    parser.add_argument("--threads", type=at_least(1), default=1, metavar="N", help="CPU threads of the model")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="tiny", metavar="MODEL",
                        help="the embedded 'tiny' model, a checkpoint folder or a hub id (org/name)")
    parser.add_argument("--seed", type=at_least(0), default=0, help="same seed and input, same conversation")
    group = parser.add_argument_group("sampling (what is not given is as the model recommends)")
    group.add_argument("--temperature-text", dest="text_temperature", type=number(0), metavar="T")
    group.add_argument("--temperature-audio", dest="audio_temperature", type=number(0), metavar="T")
    group.add_argument("--top-k-text", dest="text_top_k", type=at_least(0), metavar="K", help="0 keeps all")
    group.add_argument("--top-k-audio", dest="audio_top_k", type=at_least(0), metavar="K", help="0 keeps all")
    group.add_argument("--greedy", action="store_true", default=None, help="always take the most likely token")
    group.add_argument("--repetition-window", type=at_least(0), metavar="N",
                       help="word pieces that the repetition guard remembers")
    group.add_argument("--patience", type=number(0), metavar="L",
                       help="how much the system's silence is favoured before it takes a turn, in logits")
    group.add_argument("--repetition-penalty", type=number(1), metavar="P", help="how much less likely it makes them")
    group = parser.add_argument_group("prompt (before time zero)")
    group.add_argument("--prompt-text", metavar="TEXT", help="persona or situation")
    group.add_argument("--prompt-audio", metavar="FILE", help="recording of the voice that the system shall have")


def sampling_of(args: argparse.Namespace, recommended: SamplingConfig) -> SamplingConfig:
    """The model's recommended sampling with the options of the command line over it."""
    given = {field.name: getattr(args, field.name) for field in fields(SamplingConfig) if hasattr(args, field.name)}
    return replace(recommended, **{name: value for name, value in given.items() if value is not None})


def prompt_of(args: argparse.Namespace) -> Prompt | None:
    if args.prompt_text is None and args.prompt_audio is None:
        return None
    audio = None if args.prompt_audio is None else to_mono(read_audio(args.prompt_audio))
    return Prompt(text=args.prompt_text, audio=audio)


def device_of(args: argparse.Namespace) -> torch.device:
    """The device named on the command line; InputError when there is none of that name here."""
    try:
        device = torch.device(args.device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise InputError(f"--device {args.device}: no such device here; use cpu") from None
    return device


def at_least(least: int) -> Callable[[str], int]:
    """Argument type: an integer from `least` up."""

    def integer(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is less than {least}")
        return value

    return integer


def number(least: float, most: float = math.inf) -> Callable[[str], float]:
    """Argument type: a finite number in [least, most]."""

    def number(text: str) -> float:
        value = float(text)
        if not (math.isfinite(value) and least <= value <= most):
            limits = f"from {least:g} up" if most == math.inf else f"in {least:g}..{most:g}"
            raise argparse.ArgumentTypeError(f"{text} is not a number {limits}")
        return value

    return number
