"""How long one 80 ms frame takes: by stage, end to end, by context, rows and length of a call, and what it must take at least.

    python -m benchmarks.latency
    python -m benchmarks.latency --model FOLDER --backend native naive --reference moshi --json latency.json
    python -m benchmarks.latency --model random-25m --contexts 0 750 3000 --rows 1 8 64 --call-minutes 30

States first what a frame costs on paper, then measures. The last line on stdout is the result as JSON. Percentiles are observed
times (nearest rank), never interpolated: with 200 frames p99 is the third slowest. The numbers hold for this machine, this load
and these weights. Lanes (backends, a whole session, the `moshi` package) take turns within each frame, so that they share
disturbances. Ratios on the CPU are of the processor's time, which does not count the waiting for a core that others use.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import record
from benchmarks.cost import (
    SHAPES,
    filled_share,
    least_ms,
    middle_context,
    named_model,
    operations,
    random_lm,
    roofline,
    static_cost,
)
from benchmarks.growth import by_context, by_rows, memory_mb, over_a_call, peak_memory_mb, session_bytes, user_sound
from benchmarks.growth import summary as statistics
from benchmarks.kinds import five_kinds
from benchmarks.lanes import STAGES, Lane, MoshiLane, SessionLane, Spent, StagesLane, agreement
from duplex.checkpoint import LoadedModel
from duplex.codec import MimiCodec
from duplex.errors import InputError
from duplex.fast.backends import BACKENDS, with_backend
from infer import cli

MOST_WARM_UP = 500
"""Longest warm-up, in frames, that is chosen without being asked for."""
COMPARED_FRAMES = 30
"""Frames whose greedy tokens are compared with the reference's before anything is timed."""
CONTEXT_ROUNDS = 12
"""Steps that are timed at each context."""
NOTICE = "Compute times of this machine under its load of the moment; compare ratios of interleaved lanes, not times."
FIRST_FRAME = """
import resource, sys, time; start = time.perf_counter()
import torch; torch.set_num_threads(int(sys.argv[3]))
from benchmarks.cost import named_model
from duplex.session import Session
import numpy as np
imported = time.perf_counter(); model = named_model(sys.argv[1], sys.argv[4], sys.argv[2]); loaded = time.perf_counter()
session = Session(model)
for _ in range(model.config.max_delay + 1): session.step(np.zeros(1920, dtype=np.float32))
used = resource.getrusage(resource.RUSAGE_SELF)
print(imported - start, loaded - imported, time.perf_counter() - loaded, time.time(), used.ru_utime + used.ru_stime)
"""

Measured = dict[str, dict[str, dict[str, float]]]


def measure(model: LoadedModel, frames: int, warmup: int, reference: bool = False,
            beside: Sequence[LoadedModel] = ()) -> Measured:
    """{lane: {stage: statistics}} of `frames` frames after `warmup` others, all lanes in turn within each frame.

    Lanes: "stages" and "session" of `model`, "moshi" with `reference`, and one called by its backend for each model in `beside`.
    Which one goes first alternates. The user speaks and is silent by turns. `warmup` must exceed the acoustic delay. InputError
    for a reference that this model cannot have.
    """
    lanes: list[Lane] = [StagesLane(model), SessionLane(model), *(StagesLane(other, other.backend) for other in beside)]
    lanes += [MoshiLane(model)] if reference else []
    times: dict[str, dict[str, list[Spent]]] = {lane.name: {} for lane in lanes}
    user = user_sound()
    for number in range(warmup + frames):
        for lane in lanes if number % 2 else reversed(lanes):
            for stage, spent in lane(user[number % len(user)]).items():
                if number >= warmup:
                    times[lane.name].setdefault(stage, []).append(spent)
    return {name: {stage: statistics(spent) for stage, spent in stages.items()} for name, stages in times.items()}


def ratios(measured: Measured, lane: str, key: str = "p50_ms") -> dict[str, float]:
    """Median of the reference over that of a lane, by stage; `key` "cpu_p50_ms" compares the processor's time."""
    ours, theirs = measured[lane], measured["moshi"]
    return {stage: round(theirs[stage][key] / ours[stage][key], 3) for stage in (*STAGES, "together")}


def first_frame(source: str, backend: str, threads: int, device: str) -> dict[str, float]:
    """Seconds of a new process until its first frame of sound: in all, of the processor, imports, model, session and frames.

    What the process does after its first frame (an interpreter with torch takes half a second to end) is not in them."""
    root = Path(__file__).resolve().parents[1]
    start = time.time()
    done = subprocess.run([sys.executable, "-c", FIRST_FRAME, source, backend, str(threads), device], capture_output=True,
                          text=True, cwd=root, check=False)
    if done.returncode:
        raise InputError(f"--start: the new process failed: {(done.stderr.splitlines() or ['no message'])[-1]}")
    imports, load, frames, reached, processor = map(float, done.stdout.split())
    return {"total_s": round(reached - start, 3), "cpu_s": round(processor, 3), "imports_s": round(imports, 3),
            "model_s": round(load, 3), "first_frames_s": round(frames, 3)}


def run(args: argparse.Namespace) -> None:
    """Loads, states the cost, measures, reports."""
    device = cli.device_of(args)
    if args.json and not Path(args.json).absolute().parent.is_dir():
        raise InputError(f"{args.json}: there is no such folder; make it first")
    torch.manual_seed(args.seed)
    model = named_model(args.model, device, args.backend[0])
    beside = [with_backend(named_model(args.model, device, "naive"), name) for name in args.backend[1:]]
    context = model.config.context or 0
    warmup = min(context, MOST_WARM_UP) if args.warmup is None else args.warmup
    warmup = max(warmup, model.config.max_delay + 1)
    result: dict[str, Any] = record.stamp(
        "latency", args.seed, kind="latency", notice=NOTICE, model=args.model, backend=model.backend, device=str(device),
        threads=args.threads, frames=args.frames, warmup_frames=warmup, context_frames=context)
    result["middle_context_frames"] = middle_context(result)
    result["codec_context_frames"] = model.codec.config.context // 2 if isinstance(model.codec, MimiCodec) else 0
    result["cost"] = static_cost(model) | operations(model) | {"roofline": roofline(model)}
    _say_cost(result, context)
    exact = [lane for lane in (model, *beside) if "-int" not in lane.backend]
    if args.reference and exact:
        result["agreement"] = agreement(exact, user_sound()[:COMPARED_FRAMES])
        for name, same in result["agreement"].items():
            print("{}: {equal_tokens} of {tokens} greedy tokens and {equal_codes} of {codes} codes are the reference's".format(
                name, **same))
    measured = measure(model, args.frames, warmup, args.reference == "moshi", beside)
    result |= measured
    _say_table(measured)
    bound = result["cost"]["roofline"]
    clock = "p50_ms" if device.type == "cuda" else "cpu_p50_ms"
    least = least_ms(result["cost"], filled_share(result))
    result["multiple_of_roofline"] = {"model": round(measured["stages"]["model"][clock] / least, 2)}
    if "codec_ms" in bound:
        spent = sum(measured["stages"][stage][clock] for stage in ("encode", "decode"))
        result["multiple_of_roofline"]["codec"] = round(spent / bound["codec_ms"], 2)
    print("measured over roofline: " + ", ".join(f"{name} {value:.2f}" for name, value in result["multiple_of_roofline"].items()))
    if "moshi" in measured:
        key = clock
        result["moshi_over_ours_p50"], result["moshi_over_ours_cpu"] = ratios(measured, "stages"), ratios(measured, "stages", key)
        for lane, name in (("stages", model.backend), *((other.backend, other.backend) for other in beside)):
            line = ", ".join(f"{stage} {ratio:.2f}" for stage, ratio in ratios(measured, lane, key).items())
            print(f"moshi / {name}, medians of {'time' if key == 'p50_ms' else 'processor time'}: {line}")
        result["moshi_over"] = {other.backend: ratios(measured, other.backend, key) for other in beside}
    _more(args, model, result)
    line = json.dumps(result, allow_nan=False)
    record.write(args.json, result)
    print(line, flush=True)


def _more(args: argparse.Namespace, model: LoadedModel, result: dict[str, Any]) -> None:
    """What is measured on request, and the memory at the end."""
    if args.kinds:
        result["latency_kinds"] = five_kinds(model, result["session"]["session"], args.seed)
        for name, kind in result["latency_kinds"].items():
            numbers = ", ".join(f"{key} {value}" for key, value in kind.items() if key != "what")
            print(f"latency, {name}: {numbers} ({kind['what']})")
    if args.contexts:
        result["by_context"] = _counted(CONTEXT_ROUNDS, by_context(
            _with_context(args.model, model, max(args.contexts)), args.contexts, CONTEXT_ROUNDS))
        for row in result["by_context"]:
            print(f"after {row['frames']:5.0f} frames: model step p50 {row['p50_ms']:.2f} ms, p99 {row['p99_ms']:.2f} ms")
    if args.rows:
        result["by_rows"] = _counted(args.rounds, by_rows(model, args.rows, args.rounds))
        for row in result["by_rows"]:
            print(f"{row['rows']:3.0f} rows: frame p50 {row['p50_ms']:.2f} ms, p99 {row['p99_ms']:.2f} ms, "
                  f"{row['ms_per_session']:.2f} a session, gain {row['throughput_gain']:.2f} "
                  f"(model {row['model_throughput_gain']:.2f})")
    if args.call_minutes:
        result["call"] = over_a_call(model, args.call_minutes)
        for row in result["call"]:
            print(f"until minute {row['until_minute']:5.1f}: p50 {row['p50_ms']:.2f} ms, p99 {row['p99_ms']:.2f} ms, "
                  f"{row['memory_mb']:.0f} MB, session {row['session_bytes'] / 1e6:.3f} MB")
    if args.start:
        result["start"] = [first_frame(args.model, model.backend, args.threads, result["device"]) for _ in range(2)]
        print("start to first frame, again: {total_s:.2f} s, {cpu_s:.2f} s of the processor".format(**result["start"][1]))
    result["memory"] = {"resident_mb": memory_mb(), "peak_mb": peak_memory_mb(), "bytes_per_session": session_bytes(model)}


def _counted(frames: int, rows: list[dict[str, float]]) -> list[dict[str, float]]:
    """The rows with the number of frames that each is the statistics of: of fewer than a hundred, p99 is the slowest."""
    return [row | {"n": frames} for row in rows]


def _with_context(name: str, model: LoadedModel, frames: int) -> LoadedModel:
    """An untrained model with room for so many frames; a trained one as it is."""
    if name not in SHAPES or (model.config.context or 0) >= frames:
        return model
    lm = random_lm(name, model.lm.text_linear.weight.device, context=frames)
    return replace(model, lm=lm, config=lm.config)


def _say_cost(result: dict[str, Any], context: int) -> None:
    cost, bound = result["cost"], result["cost"]["roofline"]
    flops = (cost["temporal_flops"] + cost["depth_flops"]) / 1e6
    print(f"language model {cost['lm_parameters'] / 1e6:.2f} M parameters, {bound['lm_weight_bytes'] / 1e6:.2f} MB of weights "
          f"and {bound['kv_bytes'] / 1e6:.2f} MB of keys and values read per frame, {flops:.1f} MFLOP; "
          f"codec {cost['codec_parameters'] / 1e6:.2f} M, {cost['codec_bytes_per_frame'] / 1e6:.2f} MB, "
          f"{cost['codec_flops'] / 1e6:.1f} MFLOP")
    rates = ", ".join(f"{name.split('_')[0]} {value:.1f} GB/s" for name, value in bound.items() if "bandwidth" in name)
    print(f"this machine reads {rates} and computes {bound['peak_gflops']:.0f} GFLOP/s on one thread; at least "
          f"{bound.get('model_ms', 0):.3f} ms for the model and {bound.get('codec_ms', 0):.3f} ms for the codec")
    print(f"backend {result['backend']}; {result['frames']} frames after {result['warmup_frames']} of warm-up (the attention "
          f"window is {context}, the middle frame sees {result['middle_context_frames']}), {result['threads']} thread(s), "
          f"{result['device']}; times in ms", flush=True)


def _say_table(measured: Measured) -> None:
    print(f"{'':22}{'p50':>9}{'p95':>9}{'p99':>9}{'max':>9}{'RTF':>8}{'over 80 ms':>12}{'cpu p50':>9}{'cpu p99':>9}")
    for lane, stages in measured.items():
        for stage, s in stages.items():
            name = stage if stage == lane else f"{lane} {stage}"
            print(f"{name:22}{s['p50_ms']:9.2f}{s['p95_ms']:9.2f}{s['p99_ms']:9.2f}{s['max_ms']:9.2f}"
                  f"{s['real_time_factor']:8.3f}{s['deadline_misses']:12d}{s['cpu_p50_ms']:9.2f}{s['cpu_p99_ms']:9.2f}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser("benchmarks.latency", "Measure the compute time of one 80 ms frame, stage by stage.")
    parser.add_argument("--model", default="tiny", metavar="MODEL", help="the embedded 'tiny' model, a checkpoint folder, a hub "
                        f"id (org/name), or untrained weights: {', '.join(SHAPES)}")
    parser.add_argument("--backend", nargs="+", default=["auto"], choices=("auto", *BACKENDS), metavar="NAME",
                        help="how to compute; the first is the one that is reported, others run beside it")
    parser.add_argument("--frames", type=cli.at_least(1), default=200, metavar="N", help="frames to measure")
    parser.add_argument("--warmup", type=cli.at_least(0), metavar="N",
                        help="uncounted frames before that; as many as the attention window measure at a full context, which is "
                        f"the default up to {MOST_WARM_UP}")
    parser.add_argument("--seed", type=cli.at_least(0), default=0, help="of whatever is random")
    parser.add_argument("--reference", choices=("moshi",), help="also the moshi package on these weights: its tokens and times")
    parser.add_argument("--kinds", action="store_true", help="also the five kinds of latency, from a recorded conversation")
    parser.add_argument("--contexts", nargs="+", type=cli.at_least(0), metavar="N", help="also the step after so many frames")
    parser.add_argument("--rows", nargs="+", type=cli.at_least(1), metavar="B", help="also batches of so many conversations")
    parser.add_argument("--rounds", type=cli.at_least(1), default=8, metavar="N", help="frames of each such batch")
    parser.add_argument("--call-minutes", type=cli.number(0), metavar="M", help="also a call of that length, every frame of it")
    parser.add_argument("--start", action="store_true", help="also the time of a new process to its first frame, twice")
    parser.add_argument("--json", metavar="FILE", help="also write the result there")
    return cli.run(parser, run, argv)


if __name__ == "__main__":
    sys.exit(main())
