"""Values of strangers in one-line messages: quoted, cut, and never a reason to fail."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Mapping
from typing import Any

_LONGEST_KEY = 200  # comparing takes time with the square of the length


class _Short(reprlib.Repr):
    """A repr that neither goes deep nor grows with its value."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 4, 200, 200
        self.maxdict = self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = 20

    def repr_int(self, x: int, level: int) -> str:
        if x.bit_length() > 2_000:  # Python refuses to write down the longest
            return f"a number of {x.bit_length()} bits"
        return repr(x)


_SHORT = _Short()


def show(name: object, limit: int = 60) -> str:
    """`name` quoted for a one-line message: escapes kept visible, cut at `limit` characters."""
    text = _SHORT.repr(name)
    return text if len(text) <= limit else text[: limit - 4] + "...'"


def nearest(name: str, known: Mapping[str, Any] | Iterable[str], cutoff: float = 0.6) -> str:
    """` (did you mean 'x'?)` for the closest of `known`, or an empty string when none is close."""
    close = difflib.get_close_matches(name[:_LONGEST_KEY], list(known), n=1, cutoff=cutoff)
    return f" (did you mean {show(close[0])}?)" if close else ""
