"""Where the time of a frame, of a training step or of a start goes.

    python -m benchmarks.profile --model random-25m --backend naive native --rows 1 8 --reference moshi
    python -m benchmarks.profile --model random-4m random-25m --training
    python -m benchmarks.profile --start

Every line is the processor's time of one call without a profiler, split into

    products      matrix products and convolutions
    attention     scaled dot products, with their softmax
    elementwise   norms, rotations, activations, losses, sampling
    memory        copies, gathers, fills, embeddings
    overhead      the rest: dispatching operators, Python between them, autograd's bookkeeping

torch's operators are timed by its profiler, each less what the profiler shows for an operator with nothing to do. The native step
counts its own time; there embeddings are elementwise, activations are part of the products around them, and overhead is what
comes before and after the kernels; its rates are bytes of weights over products, and keys and values of the temporal transformer
over all attention. `operators` counts nested ones too. A reference with streams attends over its whole ring, however little of
it is filled; ours stands at a full context. The last line on stdout is JSON.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks import latency, record, training_speed
from benchmarks.cost import SHAPES, bandwidth, named_model, random_lm, roofline
from benchmarks.lanes import as_published, now, reference_lm, since
from duplex.checkpoint import LoadedModel
from duplex.errors import InputError
from duplex.fast.lm import PARTS, NativeEngine
from duplex.model import passes
from duplex.streams import StreamLayout
from infer import cli

NOTICE = "Shares of a profiled run, scaled to the processor's time of one without; on an accelerator, of the clock's."
GROUPS = ("products", "attention", "elementwise", "memory", "overhead")
BACKENDS = ("naive", "native", "native-int8", "native-int4")
_ATTENTION = re.compile(r"scaled_dot_product|flash_attention|^attention$")
_PRODUCTS = re.compile(r"aten::(_?(add|b|badd)?mm|addmv|mv|dot|linear|matmul|einsum|\w*conv\w*)$")
_MEMORY = re.compile(r"aten::(\w*(copy|clone|cat|stack|index|gather|scatter|embedding|fill|zero|empty|resize|repeat|roll|pad)\w*"
                     r"|(select|slice|as_strided)\w*backward|arange|full|ones\w*|new_\w+)$")

Call = Callable[[], object]


@contextmanager
def attention_named() -> Iterator[None]:
    """Attention that is made of plain products goes by its name in profiles."""
    plain = passes.attend_in_blocks

    def named(*arguments: Any) -> Tensor:
        with record_function("attention"):
            return plain(*arguments)

    passes.attend_in_blocks = named
    try:
        yield
    finally:
        passes.attend_in_blocks = plain


def _attends(event: FunctionEvent | None, backward: frozenset[int] | set[int] = frozenset()) -> bool:
    """Is it, or is anything above it, attention, or a backward node with the number of one of attention's operators?"""
    while event is not None:
        if _ATTENTION.search(event.name) or (event.name.startswith("autograd::engine") and event.sequence_nr in backward):
            return True
        event = event.cpu_parent
    return False


def group_of(event: FunctionEvent, backward: frozenset[int] | set[int] = frozenset()) -> str | None:
    """The group of one of torch's operators, None for what is no operator; all that attention calls belongs to it."""
    if _attends(event, backward):
        return "attention" if event.name.startswith("aten::") else None
    if not event.name.startswith("aten::"):
        return None
    return "products" if _PRODUCTS.match(event.name) else "memory" if _MEMORY.match(event.name) else "elementwise"


@functools.cache
def floor_us() -> float:
    """Microseconds that the profiler shows for an operator with nothing to do."""
    x = torch.zeros(1)
    with profile(activities=[ProfilerActivity.CPU]) as watched:
        for _ in range(300):
            x * x
    return statistics.median(event.self_cpu_time_total for event in watched.events() if event.name == "aten::mul")


def unwatched(call: Call, rounds: int, device: torch.device) -> float:
    """Median milliseconds of a call: of the processor, or by the clock until an accelerator is done."""
    spans = []
    for number in range(rounds + 2):
        start = now()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        spans += [since(start)[device.type != "cuda"]] if number >= 2 else []
    return 1e3 * statistics.median(spans)


def of_operators(call: Call, rounds: int, device: torch.device) -> dict[str, Any]:
    """The groups of a call that uses torch's operators, in ms, and how many operators it calls."""
    total, floor, cuda = unwatched(call, rounds, device), floor_us(), device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    start = now()
    with profile(activities=activities) as watched:
        with attention_named():
            for _ in range(rounds):
                call()
        wall, processor = since(start)
    share = 1.0 if cuda else min(1.0, processor / wall)  # the profiler's clock also runs while others have the core
    spent, count = dict.fromkeys(GROUPS, 0.0), 0
    events = watched.events()
    numbers = {event.sequence_nr for event in events if event.sequence_nr >= 0 and _attends(event)}
    for event in events:
        group = group_of(event, numbers)
        if group is not None:
            count += event.name.startswith("aten::")
            own = event.self_device_time_total if cuda else max(0.0, event.self_cpu_time_total * share - floor)
            spent[group] += own / 1e3 / rounds
    return _closed(total, spent) | {"operators": round(count / rounds)}


def of_native(engine: NativeEngine, call: Call, rounds: int) -> dict[str, Any]:
    """The groups of a native step, in ms, by its own counters."""
    total = unwatched(call, rounds, engine.device)
    engine.spent_ns = torch.zeros(len(PARTS), dtype=torch.int64)
    start = now()
    for _ in range(rounds):
        call()
    wall, processor = since(start)
    parts = dict(zip(PARTS, (engine.spent_ns * (min(1.0, processor / wall) / rounds / 1e6)).tolist(), strict=True))
    engine.spent_ns = None
    parts["elementwise"] += parts.pop("sampling")
    return _closed(total, dict.fromkeys(GROUPS, 0.0) | parts)


def _closed(total: float, spent: dict[str, float]) -> dict[str, Any]:
    """The groups, with the rest as overhead; where a busy machine made them more than the total, in proportion."""
    work = sum(spent.values())
    scale = min(1.0, total / work) if work else 1.0
    spent = {name: value * scale for name, value in spent.items()} | {"overhead": max(0.0, total - work)}
    return {"total_ms": round(total, 3)} | {f"{name}_ms": round(value, 3) for name, value in spent.items()}


def frames(model: LoadedModel, rows: Sequence[int], rounds: int, reference: bool) -> list[dict[str, Any]]:
    """One line for each number of rows: a step of the model at a full context; with `reference` LMGen's beside it."""
    layout, engine, found = StreamLayout.from_config(model.config), model.engine(), []
    for size in rows:
        user, state = torch.zeros(size, layout.n_user, dtype=torch.long, device=engine.device), engine.init_state(size)
        state.frames_B += model.config.context or 0
        state.line.ring_BKR.zero_()
        call = functools.partial(engine.step, state, user)
        line = {"way": model.backend, "rows": size}
        if isinstance(engine, NativeEngine):
            line |= of_native(engine, call, rounds)
            bound = roofline(model)
            loop = bandwidth(int(bound["lm_weight_bytes"] + size * bound["kv_bytes"]))
            line |= {"weights_gb_s": _rate(bound["lm_weight_bytes"], line["products_ms"]), "loop_gb_s": round(loop / 1e9, 1),
                     "kv_gb_s": _rate(size * bound["kv_bytes"], line["attention_ms"])}
        else:
            line |= of_operators(call, rounds, engine.device)
        found.append(line)
        if reference:
            theirs = functools.partial(reference_lm(model, size).step, user[..., None])
            with as_published(engine.device):
                found.append({"way": "LMGen.step", "rows": size} | of_operators(theirs, rounds, engine.device))
    return found


def _rate(size: float, ms: float) -> float:
    return round(size / max(ms, 1e-9) / 1e6, 1)


def training(name: str, batch: int, length: int, rounds: int, device: torch.device) -> list[dict[str, Any]]:
    """One line for each way to pass forward and backward, as `benchmarks.training_speed` times them."""
    model = random_lm(name, device).train().requires_grad_(True)
    codes, reference = training_speed.random_codes(model, batch, length), training_speed.reference_of(model)
    calls = training_speed.steps(training_speed.passes(model, reference, codes), model, reference)
    return [{"way": way, "model": name} | of_operators(call, rounds, device) for way, call in calls.items()]


def start(source: str, backend: str, threads: int) -> dict[str, Any]:
    """Seconds of a new process to its first frame by Python's own account of imports, summed up by package."""
    began = time.time()
    command = [sys.executable, "-X", "importtime", "-c", latency.FIRST_FRAME, source, backend, str(threads), "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=record.ROOT, check=False)
    if done.returncode:
        raise InputError(f"--start: the new process failed: {(done.stderr.splitlines() or ['no message'])[-1]}")
    lines = re.findall(r"^import time:\s+(\d+) \|\s+\d+ \|\s+([\w.]+)$", done.stderr, re.MULTILINE)
    names = [name for _, name in lines]
    begun = max(names.index(name) for name in ("benchmarks.cost", "duplex.session"))  # what comes later, loading imports
    at_once, later, modules = Counter[str](), Counter[str](), Counter[str]()
    for number, (us, name) in enumerate(lines):
        package = name.partition(".")[0]
        (at_once if number <= begun else later)[package] += int(us)
        modules[package] += 1
    imports, load, first, reached, _ = map(float, done.stdout.split())
    total = reached - began
    packages = [{"package": name, "modules": modules[name], "import_s": round(at_once[name] / 1e6, 3),
                 "loading_s": round(later[name] / 1e6, 3)} for name, _ in (at_once + later).most_common()]
    return {"total_s": round(total, 3), "imports_s": round(imports, 3), "model_s": round(load, 3),
            "first_frames_s": round(first, 3), "imports_while_loading_s": round(later.total() / 1e6, 3), "packages": packages}


def run(args: argparse.Namespace) -> None:
    """Profiles what was asked for, prints it line by line and the result."""
    device = cli.device_of(args)
    if args.json and not Path(args.json).absolute().parent.is_dir():
        raise InputError(f"{args.json}: there is no such folder; make it first")
    torch.manual_seed(args.seed)
    os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # the profiler calls it an error that there is no GPU
    result = record.stamp("profile", args.seed, kind="profile", notice=NOTICE, device=str(device), threads=args.threads,
                          rounds=args.rounds, floor_us=round(floor_us(), 2), lines=[])
    if args.start:
        result["start"] = begun = start(args.model[0], args.backend[0], args.threads)
        print("first frame after {total_s} s: imports {imports_s}, model {model_s} (of that imports {imports_while_loading_s}), "
              "session and frames {first_frames_s}".format(**begun))
        for row in begun["packages"][:12]:
            print("  {package:20} {modules:5} modules {import_s:8.3f} s, while loading {loading_s:.3f} s".format(**row))
    elif args.training:
        for name in args.model:
            if name not in SHAPES:
                raise InputError(f"--training --model {name}: an untrained shape is meant; use one of {', '.join(SHAPES)}")
            result["lines"] += training(name, args.batch, args.frames, args.rounds, device)
    else:
        for source in args.model:
            for number, backend in enumerate(args.backend):
                model = named_model(source, device, backend)
                lines = frames(model, args.rows, args.rounds, args.reference == "moshi" and not number)
                result["lines"] += [{"model": Path(source).name, **line} for line in lines]
    for line in result["lines"]:
        shares = ", ".join(f"{name} {line[f'{name}_ms']:.2f} ({line[f'{name}_ms'] / line['total_ms']:.0%})" for name in GROUPS)
        rest = ", ".join(f"{key} {line[key]}" for key in ("operators", "weights_gb_s", "kv_gb_s", "loop_gb_s") if key in line)
        rows = f", {line['rows']} row(s)" if "rows" in line else ""
        print(f"{line['model']}, {line['way']}{rows}: {line['total_ms']:.2f} ms: {shares}; {rest}")
    record.write(args.json, result)
    print(json.dumps(result, allow_nan=False), flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser("benchmarks.profile", "Where the time of a frame, of a training step or of a start goes.")
    parser.add_argument("--model", nargs="+", default=["tiny"], metavar="MODEL",
                        help=f"'tiny', checkpoint folders, or untrained weights: {', '.join(SHAPES)}")
    parser.add_argument("--backend", nargs="+", default=["naive", "native"], choices=BACKENDS, metavar="NAME",
                        help="how to compute; the first is the one that --start takes")
    parser.add_argument("--rows", nargs="+", type=cli.at_least(1), default=[1], metavar="B", help="conversations in a batch")
    parser.add_argument("--reference", choices=("moshi",), help="also the moshi package's LMGen on the same weights")
    parser.add_argument("--training", action="store_true", help="a training pass and the reference's in place of a frame")
    parser.add_argument("--batch", type=cli.at_least(1), default=1, metavar="B", help="dialogues of a training pass")
    parser.add_argument("--frames", type=cli.at_least(2), default=100, metavar="T", help="frames of each")
    parser.add_argument("--start", action="store_true", help="a new process up to its first frame in place of a frame")
    parser.add_argument("--rounds", type=cli.at_least(1), default=5, metavar="N", help="calls with and without the profiler")
    parser.add_argument("--seed", type=cli.at_least(0), default=0, help="of codes")
    parser.add_argument("--json", metavar="FILE", help="also write the result there")
    return cli.run(parser, run, argv)


if __name__ == "__main__":
    sys.exit(main())
