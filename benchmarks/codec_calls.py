"""What streaming costs a codec: 80 ms frame by frame, beside one fused call over the whole stretch, in turns.

    python -m benchmarks.codec_calls [--model tiny random-mimi] [--seconds 10] [--json docs/results/codec-calls.json]

The fused call is the upstream module over all frames at once, which has the same work and no overhead of calls; the streams are
the native one and upstream's own. Milliseconds of processor time a frame, medians.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import torch

from benchmarks import record
from benchmarks.cost import named_model, static_cost
from benchmarks.latency import NOTICE
from duplex.codec import MimiCodec
from duplex.units import FRAME_SAMPLES, seconds_to_frame
from infer import cli

WAYS = ("fused", "native stream", "upstream stream")


def measure(codec: MimiCodec, frames: int, rounds: int, seed: int) -> dict[str, dict[str, float]]:
    """{way: {"encode", "decode": ms a frame}} of `codec`, whose streams are native; upstream's stream shares its weights."""
    pcm = 0.05 * torch.randn(1, 1, frames * FRAME_SAMPLES, generator=torch.Generator().manual_seed(seed))
    codes = codec.encode(pcm)

    def streamed(stream) -> dict[str, Callable[[], object]]:
        return {"encode": lambda: [stream.encode_frame(pcm[:, :, i * FRAME_SAMPLES :][:, :, :FRAME_SAMPLES])
                                   for i in range(frames)],
                "decode": lambda: [stream.decode_frame(codes[:, :, i]) for i in range(frames)]}

    ways = dict(zip(WAYS, ({"encode": lambda: codec.encode(pcm), "decode": lambda: codec.decode(codes)},
                           streamed(codec.stream(1)), streamed(MimiCodec(codec.mimi, codec.config).stream(1))), strict=True))
    times: dict[tuple[str, str], list[float]] = {}
    for number in range(rounds + 1):
        for way, halves in ways.items():
            for half, call in halves.items():
                begun = time.thread_time()
                call()
                if number:  # the first round warms up
                    times.setdefault((way, half), []).append(1000 * (time.thread_time() - begun) / frames)
    return {way: {half: round(statistics.median(times[way, half]), 3) for half in ("encode", "decode")} for way in WAYS}


def run(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    result = record.stamp("codec_calls", args.seed, kind="codec_calls", notice=NOTICE,
                          seconds=args.seconds, rounds=args.rounds, codecs={})
    for name in args.model:
        model = named_model(name, "cpu", "native")
        found = measure(model.codec, seconds_to_frame(args.seconds), args.rounds, args.seed)
        both = {way: sum(halves.values()) for way, halves in found.items()}
        over = {way: round(both[way] / both["fused"], 2) for way in WAYS}
        result["codecs"][name] = {"codec_parameters": static_cost(model)["codec_parameters"], "ms": found, "over_fused": over}
        print(f"{name}: " + "; ".join(f"{way} {both[way]:.2f} ms a frame, {over[way]:.2f}× one fused call" for way in WAYS))
    record.write(args.json, result)


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser("benchmarks.codec_calls", "What streaming costs a codec, beside one fused call.")
    parser.add_argument("--model", nargs="+", default=["tiny", "random-mimi"], help="model folders or untrained shapes")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the stretch")
    parser.add_argument("--rounds", type=cli.at_least(1), default=5)
    parser.add_argument("--seed", type=cli.at_least(0), default=0)
    parser.add_argument("--json", metavar="FILE", help="also write the result there")
    return cli.run(parser, run, argv)


if __name__ == "__main__":
    sys.exit(main())
