"""Frames per second of a training pass (forward, loss, backward), beside the PyPI package's model on the same weights and codes.

    python -m benchmarks.training_speed
    python -m benchmarks.training_speed --model random-25m --batch 4 --frames 125 --json training.json
    python -m benchmarks.training_speed --compile --precision float32 bf16 --device cuda

All take turns in one process; the losses must agree before anything is timed. "quarter" runs the depth transformer on a
quarter of the frames, chosen at random, as training does: less work by intent. With --compile each is there a second time
through torch.compile, beside the compiled reference. Memory is what autograd keeps for the backward pass, each storage counted
once, without the parameters; on CUDA also the most that a pass held. bf16 is autocast, for accelerators: most CPUs multiply it
far slower than float32. The last line on stdout is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics as stats
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from benchmarks import record
from benchmarks.cost import SHAPES, random_lm
from benchmarks.growth import interleaved
from duplex.errors import InputError
from duplex.loss import dialogue_loss
from duplex.model.lm import DuplexLM, LMOutput
from infer import cli

NOTICE = "Passes take turns in one process; times on the CPU are of the processor."
QUARTER = 0.25
PRECISIONS = ("float32", "bf16")
COMPILED = ", compiled"


def random_codes(model: DuplexLM, batch: int, frames: int) -> Tensor:
    """int64 [B, K, T]: random audio, text that is PAD on two thirds of the frames."""
    c = model.config
    codes = torch.randint(0, c.card, (batch, c.num_rows, frames))
    text = torch.randint(0, c.text_card, (batch, frames))
    codes[:, 0] = torch.where(torch.rand(batch, frames) < 2 / 3, c.existing_text_padding_id, text)
    return codes.to(model.text_linear.weight.device)


def reference_of(model: DuplexLM) -> nn.Module:
    """The package's model with the same weights, to be trained."""
    from moshi.models import loaders

    settings = {key: value for key, value in model.config.to_dict().items() if key != "n_user"}
    weight = model.text_linear.weight
    reference = loaders.get_moshi_lm(None, settings, device=weight.device, dtype=weight.dtype)
    reference.load_state_dict(model.state_dict(), strict=True)
    return reference.train().requires_grad_(True)


def passes(model: DuplexLM, reference: nn.Module, codes: Tensor, autocast: bool = False,
           compiler: str | None = None) -> dict[str, Callable[[], Tensor]]:
    """Forward and loss of each way by name; all of them use this library's loss. `compiler`: each again, by that of torch's."""
    from moshi.utils.compile import no_compile

    if compiler:
        plainly = passes(model, reference, codes, autocast)
        twins = [torch.compile(network, backend=compiler) for network in (model, reference)]
        return plainly | {name + COMPILED: way for name, way in passes(*twins, codes, autocast).items()}
    config, frames = model.config, codes.shape[0] * codes.shape[2]
    chosen = torch.randperm(frames, device=codes.device)[: max(1, round(QUARTER * frames))].sort().values
    # On the CPU the package would compile one of its norms and nothing else; on CUDA it runs as it comes.
    plain = no_compile if codes.device.type == "cpu" else nullcontext
    cast = torch.autocast(codes.device.type, torch.bfloat16) if autocast else nullcontext()

    def theirs() -> Tensor:
        with cast, plain():
            out = reference(codes)
        output = LMOutput(out.text_logits, out.text_mask, out.logits, out.mask)
        return dialogue_loss(output, codes, config).total

    def ours(index: Tensor | None) -> Tensor:
        with cast:
            out = model(codes, depth_index=index)
        return dialogue_loss(out, codes, config).total

    return {"reference": theirs, "ours": lambda: ours(None), "quarter": lambda: ours(chosen)}


def kept_bytes(forward: Callable[[], Tensor], parameters: Sequence[Tensor]) -> int:
    """Bytes that autograd keeps between forward and backward, without the parameters."""
    own = {p.untyped_storage().data_ptr() for p in parameters}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = forward()
    del loss
    return sum(kept.values())


def steps(ways: dict[str, Callable[[], Tensor]], model: nn.Module, reference: nn.Module) -> dict[str, Callable[[], None]]:
    """Forward, loss and backward of each way; gradients are let go."""
    def step(name: str) -> Callable[[], None]:
        network = reference if name.startswith("reference") else model

        def run() -> None:
            ways[name]().backward()
            network.zero_grad(set_to_none=True)

        return run

    return {name: step(name) for name in ways}


def beside(name: str) -> str:
    """The reference of a way: compiled for those that are."""
    return "reference" + (COMPILED if name.endswith(COMPILED) else "")


def compare(model: DuplexLM, batch: int, frames: int, rounds: int, autocast: bool = False, compiler: str | None = None) -> dict:
    """{way: frames per second, milliseconds, bytes kept} and the ratios to the reference."""
    codes, reference = random_codes(model, batch, frames), reference_of(model)
    model.train().requires_grad_(True)
    ways = passes(model, reference, codes, autocast, compiler)
    losses = {name: float(forward().detach()) for name, forward in ways.items()}
    for name in (name for name in ways if not name.startswith("quarter")):
        if abs(losses[name] - losses["reference"]) > (0.05 if autocast else 1e-3) * abs(losses["reference"]):
            raise InputError(f"the losses differ: {losses[name]:.5f} ({name}) and {losses['reference']:.5f}; nothing was timed")
    kept = {name: kept_bytes(ways[name], list((reference if name.startswith("reference") else model).parameters()))
            for name in ways}
    calls = steps(ways, model, reference)
    wait = (lambda: torch.cuda.synchronize(codes.device)) if codes.device.type == "cuda" else None
    interleaved(calls, 1, wait)
    peaks = {name: _peak_mb(call, codes.device) for name, call in calls.items()} if wait else {}
    times = interleaved(calls, rounds, wait)
    clock = 0 if wait else 1  # the processor's time where it does the work
    medians = {name: stats.median(spent[clock] for spent in spans) for name, spans in times.items()}
    result = {name: {"frames_per_s": round(batch * frames / medians[name], 1), "median_ms": round(1e3 * medians[name], 1),
                     "kept_mb": round(kept[name] / 1e6, 1), "loss": round(losses[name], 5)} for name in ways}
    tokens = model.config.dep_q + 1
    for name in ways:
        result[name]["tokens_per_s"] = round(result[name]["frames_per_s"] * tokens, 1)
        result[name]["over_reference"] = round(medians[beside(name)] / medians[name], 3)
        result[name] |= {"peak_mb": peaks[name]} if peaks else {}
    return result


def _peak_mb(call: Callable[[], None], device: torch.device) -> float:
    """The most memory in use on an accelerator during a pass, in MB."""
    torch.cuda.reset_peak_memory_stats(device)
    call()
    return round(torch.cuda.max_memory_allocated(device) / 1e6, 1)


def run(args: argparse.Namespace) -> None:
    """Measures every shape that was asked for, prints a table and the result."""
    device = cli.device_of(args)
    torch.manual_seed(args.seed)
    result = record.stamp("training_speed", args.seed, kind="training_speed", notice=NOTICE, batch=args.batch, frames=args.frames,
                          rounds=args.rounds, threads=args.threads, device=str(device), precision=args.precision,
                          compiler=args.compile, shapes={})
    for name in args.model:
        model = random_lm(name, device)
        size = sum(p.numel() for p in model.parameters())
        for precision in args.precision:
            torch.manual_seed(args.seed)  # the same codes for all
            measured = compare(model, args.batch, args.frames, args.rounds, precision == "bf16", args.compile)
            called = name if precision == "float32" else f"{name}, {precision}"
            result["shapes"][called] = {"parameters": size, **measured}
            print(f"{called} ({size / 1e6:.1f} M parameters), {args.batch} x {args.frames} frames")
            for way, row in measured.items():
                print(f"  {way:19} {row['frames_per_s']:9.0f} frames/s {row['tokens_per_s']:10.0f} tokens/s "
                      f"{row['kept_mb']:9.1f} MB kept {row['over_reference']:6.2f} x the reference", flush=True)
    record.write(args.json, result)
    print(json.dumps(result, allow_nan=False), flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser("benchmarks.training_speed", "Frames per second of a training pass, beside the reference package.")
    parser.add_argument("--model", nargs="+", default=["random-4m"], choices=list(SHAPES), metavar="SHAPE",
                        help=f"untrained models: {', '.join(SHAPES)}")
    parser.add_argument("--batch", type=cli.at_least(1), default=2, metavar="B", help="dialogues in a batch")
    parser.add_argument("--frames", type=cli.at_least(2), default=125, metavar="T", help="frames of each")
    parser.add_argument("--rounds", type=cli.at_least(1), default=5, metavar="N", help="timed passes of each way")
    parser.add_argument("--precision", nargs="+", default=["float32"], choices=PRECISIONS,
                        help="bf16: autocast (for CUDA; far slower than float32 on most CPUs)")
    parser.add_argument("--compile", nargs="?", const="inductor", choices=("inductor", "aot_eager"),
                        help="also each way through torch.compile, by the code that it writes or, to try its graphs, without any")
    parser.add_argument("--seed", type=cli.at_least(0), default=0, help="of weights, codes and the choice of frames")
    parser.add_argument("--json", metavar="FILE", help="also write the result there")
    return cli.run(parser, run, argv)


if __name__ == "__main__":
    sys.exit(main())
