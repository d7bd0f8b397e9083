"""Property tests of the readers: seeds that are damaged the way files and messages are, and values of the wrong kind.

Every example follows from a seed and its number, so that one that fails is found again by its number, and made smaller while it
still fails in the same way. (Hypothesis, which the tests use elsewhere, spends ten times as long on an example as these readers.)
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.trust.targets import TARGETS, Target, Timed

_ODD = (None, True, False, -1, 0, 1, 3, 0.5, 2**31, 2**63, 10**30, 10**400, 1e308, math.inf, math.nan, "", ".", "..", "../x", "/",
        "\0", "x\ny", "\ud800", "nan", "a" * 300, [], {}, [[]], [0, 0], {"": 0})


class Failed(AssertionError):
    """An example broke a promise; the message has the example."""


def example(target: Target, number: int, seed: int = 0) -> bytes:
    """Example `number` of a target: mostly a damaged seed, values swapped where that is JSON, sometimes plain bytes."""
    rng = random.Random(f"{seed}:{target.name}:{number}")
    data = rng.choice(target.seeds())
    kind = rng.random()
    if kind < 0.1:
        return rng.randbytes(rng.randrange(300))
    text, rest = _body(data)
    lines = _lines(text)
    if not lines or kind < 0.5:
        return _damaged(rng, data, target.words)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(lines))
        lines[at] = _swapped(rng, lines[at])
    made = "\n".join(json.dumps(line) for line in lines).encode()
    return made + b"\n" if rest is None else len(made).to_bytes(8, "little") + made + rest


def _damaged(rng: random.Random, seed: bytes, words: tuple[str, ...]) -> bytes:
    """The seed with some places changed, cut, doubled or filled with words that mean something."""
    data = bytearray(seed)
    for _ in range(rng.randint(1, 6)):
        at, length = rng.randrange(len(data) + 1), rng.randint(1, 40)
        match rng.choice(("flip", "byte", "cut", "drop", "insert", "word", "double", "many")):
            case "flip" if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case "byte" if at < len(data):
                data[at] = rng.randrange(256)
            case "cut":
                del data[at:]
            case "drop":
                del data[at : at + length]
            case "insert":
                data[at:at] = rng.randbytes(length)
            case "word" if words:
                data[at:at] = rng.choice(words).encode()
            case "double":
                data[at:at] = data[at : at + length]
            case "many":
                data[at:at] = data[at : at + length] * rng.randint(2, 50)
    return bytes(data)


def _body(seed: bytes) -> tuple[bytes, bytes | None]:
    """JSON and what follows it: a safetensors file's header and its data; a text is all JSON."""
    length = int.from_bytes(seed[:8], "little")
    return (seed[8 : 8 + length], seed[8 + length :]) if seed[8:9] == b"{" and length < len(seed) else (seed, None)


def _lines(text: bytes) -> list[Any]:
    try:
        return [json.loads(line) for line in text.split(b"\n") if line]
    except ValueError:
        return []


def _swapped(rng: random.Random, value: Any) -> Any:
    """The value with one place in it changed: itself, or a place in one of its parts."""
    if not isinstance(value, (dict, list)) or not value or rng.random() < 0.1:
        return rng.choice(_ODD)
    changed = dict(value) if isinstance(value, dict) else list(value)
    place = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
    match rng.randrange(8):
        case 0:
            del changed[place]
        case 1 if isinstance(changed, dict):
            changed[rng.choice(("x", "\n", "type", "dtype", "path", place + "s"))] = rng.choice(_ODD)
        case 1:
            changed.insert(place, rng.choice(_ODD))
        case _:
            changed[place] = _swapped(rng, changed[place])
    return changed


def check(name: str, count: int, seed: int = 0) -> Timed:
    """Tries `count` examples of a target; raises Failed with the smallest example found of one that broke a promise."""
    target = TARGETS[name]
    timed = Timed(target)
    for data in target.seeds():  # imports and tables that are made once are no part of a call
        target.call(data)
    for number in range(count):
        data = example(target, number, seed)
        error = _error(timed, data)
        if error is not None:
            small = _smaller(data, partial(_same, timed, type(error)))
            raise Failed(f"{name}: example {number} of seed {seed}: {type(error).__name__}: {error}; with {small!r}") from error
    return timed


def _error(call: Callable[[bytes], object], data: bytes) -> BaseException | None:
    try:
        call(data)
    except BaseException as error:  # noqa: BLE001 - a foreign decoder's panic is no Exception
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        return error
    return None


def _same(call: Callable[[bytes], object], kind: type[BaseException], data: bytes) -> bool:
    return type(_error(call, data)) is kind


def _smaller(data: bytes, fails: Callable[[bytes], bool], tries: int = 400) -> bytes:
    """A shorter input that fails as well, found by leaving out ever smaller pieces."""
    size = len(data) // 2
    while size and tries:
        at = 0
        while at < len(data) and tries:
            shorter = data[:at] + data[at + size :]
            tries -= 1
            if fails(shorter):
                data = shorter
            else:
                at += size
        size //= 2
    return data
