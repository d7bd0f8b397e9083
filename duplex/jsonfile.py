"""JSON that comes from elsewhere: its value, or one error of the product's own.

Python's parser ends in three kinds of exception (syntax, text that is not UTF-8, brackets nested deeper than the stack), and a
number of 400 digits is one that `float` refuses: each was once a traceback somewhere.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from duplex.errors import ConfigError, DuplexError, InputError

LARGEST_CONFIGURATION = 1_000_000  # bytes; real ones are a hundredth of it


def parse_json(text: str | bytes, where: str, error: type[DuplexError] = InputError, mend: str = "write the file again") -> Any:
    """The value of JSON; `error` naming `where` for anything else."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as problem:
        lines = str(problem).splitlines()
        reason = lines[0][:80] if lines and not isinstance(problem, RecursionError) else "brackets nested too deep"
        raise error(f"{where}: not valid JSON ({reason}); {mend}") from None


def read_bytes(path: Path, error: type[DuplexError] = InputError, largest: int | None = None) -> bytes:
    """The bytes of a file; `error` when it cannot be read or is larger than `largest`."""
    try:
        if largest is not None and path.stat().st_size > largest:
            raise error(f"{path}: too large for what it should be ({path.stat().st_size} bytes); copy the right file")
        return path.read_bytes()
    except (OSError, MemoryError) as problem:
        reason = getattr(problem, "strerror", None) or problem or "too large"
        raise error(f"{path}: cannot be read ({reason}); check the path") from None


def read_json(path: str | Path, error: type[DuplexError] = InputError, mend: str = "write the file again",
              largest: int | None = None) -> Any:
    """The value of a JSON file; `error` naming the file when it is missing, larger than `largest` bytes or no JSON."""
    path = Path(path)
    return parse_json(read_bytes(path, error, largest), str(path), error, mend)


def read_configuration(path: str | Path, error: type[DuplexError] = ConfigError) -> Any:
    """The value of a JSON file of settings."""
    return read_json(path, error, "copy the file again", LARGEST_CONFIGURATION)


def seconds(value: Any) -> float:
    """A number as float. Raises ValueError or TypeError, also for one that has no place among floats, and never OverflowError."""
    try:
        return float(value)
    except OverflowError:
        raise ValueError("a number out of all proportion") from None
