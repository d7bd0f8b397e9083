"""What the training commands share: a parser whose complaints are one line, and one place where errors end."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from duplex.errors import DuplexError, InputError

USER_ERROR = 2
INTERRUPTED = 130


class Parser(argparse.ArgumentParser):
    """Described by the first line of the module's docstring; a wrong option is an InputError."""

    def __init__(self, command: str, docstring: str):
        super().__init__(prog=f"python -m train.{command}", description=docstring.splitlines()[0], allow_abbrev=False)

    def error(self, message: str) -> None:  # type: ignore[override]
        raise InputError(f"{message}; see {self.prog} --help")


def run(parser: Parser, body: Callable[[argparse.Namespace], int | None], argv: Sequence[str] | None) -> int:
    """Parses ``argv`` and runs ``body``, whose return value (None is 0) is the exit status.

    What the user can mend, missing files and a full disk included, becomes one line on stderr and status 2.
    """
    try:
        args = parser.parse_args(argv)
        if "threads" in args:
            import torch  # here: not every command needs it

            torch.set_num_threads(args.threads)
        return body(args) or 0
    except (DuplexError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}; check the path and the free space", file=sys.stderr)
    except KeyboardInterrupt:
        print("error: interrupted; start the command again to go on", file=sys.stderr)
        return INTERRUPTED
    return USER_ERROR


def add_threads(parser: argparse.ArgumentParser) -> None:
    """``--threads``, one by default: two spinning pools on few cores slow each other several times."""
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
