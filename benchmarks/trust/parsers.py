"""Readers of what strangers send: property tests, coverage-guided fuzzing, and the worst that a message may hold."""

from __future__ import annotations

import base64
import importlib.util
import json
from collections.abc import Iterator

from benchmarks.trust import Options, Promise, seeds
from benchmarks.trust.examples import Failed, check
from benchmarks.trust.fuzz import MEMORY_MB, Fuzzed, fuzz
from benchmarks.trust.targets import CALL_SECONDS, LARGEST_FILE, TARGETS, Target, Timed, messages, paged
from infer.server.limits import Limits

AREA = "parsers"
EXAMPLES = 10_000
SHORT_EXAMPLES = 300
FUZZ_MINUTES, SHORT_FUZZ_MINUTES = 10.0, 0.5
PARTS = tuple(dict.fromkeys(target.part for target in TARGETS.values()))


def run(options: Options) -> Iterator[Promise]:
    """A line for each kind of input: its property tests and its fuzzing; then one for the largest inputs."""
    for part in PARTS:
        yield properties(part, SHORT_EXAMPLES if options.short else EXAMPLES, options.seed)
    yield largest()
    minutes = options.length(FUZZ_MINUTES, SHORT_FUZZ_MINUTES)
    if importlib.util.find_spec("atheris") is None:
        yield Promise(AREA, "coverage-guided fuzzing finds nothing", "no crash, no hang", "", None,
                      "the fuzzer is not installed: pip install -e '.[fuzz]' (Linux and macOS)")
        return
    for part in PARTS:
        yield fuzzing(part, 60 * minutes / len(TARGETS), options)


def _of(part: str) -> list[Target]:
    return [target for target in TARGETS.values() if target.part == part]


def properties(part: str, count: int, seed: int) -> Promise:
    """Property tests of the readers of one kind of input."""
    found, slowest, names = [], 0.0, [target.name for target in _of(part)]
    for name in names:
        try:
            slowest = max(slowest, check(name, count, seed).slowest)
        except Failed as failed:
            found.append(str(failed)[:300])
    measured = found[0] if found else f"0 of {count * len(names):,} examples, slowest call {1000 * slowest:.1f} ms"
    return Promise(AREA, f"{part}: any bytes end in a value or in a typed error of one line", "no crash, every call < "
                   f"{1000 * CALL_SECONDS:.0f} ms", measured, not found,
                   f"{count:,} seeded examples of each of {', '.join(names)}: good inputs damaged, JSON values swapped, "
                   f"plain bytes; files up to about {LARGEST_FILE >> 10} KiB, manifests 8; processor time of a call")


def fuzzing(part: str, seconds: float, options: Options) -> Promise:
    """Fuzzing of the readers of one kind of input, each for so long."""
    out = options.out / "fuzz"
    out.mkdir(parents=True, exist_ok=True)
    results = [fuzz(target.name, seconds, out, options.seed) for target in _of(part)]
    clean = all(one.executions and not one.findings and not one.said for one in results)
    return Promise(AREA, f"{part}: fuzzing finds no crash, no hang and no slow call", f"0 findings, every call < "
                   f"{1000 * CALL_SECONDS:.0f} ms", "; ".join(map(_said, results)), clean,
                   f"atheris (libFuzzer) on the instrumented readers, {seconds:.0f} s each by the clock, "
                   f"at most {MEMORY_MB:,} MB a process; edges: of the seeds alone, then reached")


def _said(one: Fuzzed) -> str:
    findings = f"{len(one.findings)} findings ({one.said[:120]})" if one.findings or one.said else "0 findings"
    return (f"{one.name}: {findings}, {one.executions:,} runs, {one.first_edges} to {one.edges} edges, "
            f"slowest {one.slowest_ms:.1f} ms")


def worst() -> dict[str, tuple[str, bytes]]:
    """{name: (target, input)}: what costs most among messages of the largest size that the server takes."""
    size = Limits.message_bytes
    start = b'{"type": "session.start", "session": {"model": "m", "audio": {"format": {"type": "audio/pcmu", "rate": 8000}}}}\n'
    sound = base64.b64encode(bytes(3 * (size - 100) // 4)).decode()
    append = json.dumps({"type": "session.input_audio.append", "audio": sound}).encode()
    event = b'{"type": "x", "y": %s}'
    head = seeds.joined(*list(messages(seeds.pages()[-1][1:]))[:2])  # the two pages before the sound
    pages = {name: b"\2" + paged(head + seeds.joined(piece) * count)[: size - 1] for name, piece, count in (
        ("9,000 pages without packets", b"\0\0", 9_000), ("126 pages without packets", b"\0\0", 126),
        ("126 pages of one packet", b"\0\1\1\x40", 126), ("pages of an empty packet", b"\0\1\0", 9_000))}
    third = base64.b64encode(bytes(6 * 8_000)).decode()
    six = json.dumps({"type": "session.input_audio.append", "audio": third}).encode()
    return {
        "24 s of telephone sound": ("live", start + append),
        "6 s of telephone sound": ("live", start + six),
        "a list of numbers": ("live", event % (b"[" + b"1," * (size // 2 - 20) + b"1]")),
        "nested lists": ("live", event % (b"[" * (size // 2))),
        "one long number": ("live", event % (b"9" * (size - 30))),
        "half characters": ("live", start.replace(b'"m"', b'"m", "instructions": "' + b"\\ud800" * 40_000 + b'"')),
        **{name: ("pages", data) for name, data in pages.items()},
        "messages of one byte": ("moshi", b"\1" + b"\1\0\1" * 1_000),
    }


def largest() -> Promise:
    """The worst messages of the largest size."""
    times, broken = {}, []
    for name, (target, data) in worst().items():
        timed = Timed(TARGETS[target])
        try:
            timed(data)
        except AssertionError as error:
            broken.append(f"{name}: {error}")
        times[name] = timed.slowest
    slow = max(times, key=lambda name: times[name])
    return Promise(AREA, f"the costliest messages of {Limits.message_bytes >> 10} KiB, the largest taken, end as soon",
                   f"every call < {1000 * CALL_SECONDS:.0f} ms", "; ".join(broken) or f"{1000 * times[slow]:.1f} ms ({slow})",
                   not broken,
                   f"made by hand: {', '.join(times)}; processor time")
