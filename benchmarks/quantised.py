"""What rounded weights cost in accuracy: nats per token, and agreement of the tokens that would be chosen.

    python -m benchmarks.quantised
    python -m benchmarks.quantised --model FOLDER --frames 1500 --seeds 4 --speed FOLDER random-25m --json quantised.json

The exact model converses with the recorded user that comes with the product, sampling as its folder recommends. A copy of it with
the very weights that the kernels use (rounded, and turned back to floats) then predicts the same conversations, teacher-forced.
The difference in nats is what the rounding costs on what the model says; agreement is how often the likeliest token stays the
same given the same past. `--speed` times a frame of each scheme, and of the same weights in a well-kept library's kernels
(`benchmarks.library`), in turns. The last line on stdout is JSON.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks import record
from benchmarks.cost import named_model
from benchmarks.growth import interleaved
from benchmarks.kinds import recorded_user
from benchmarks.library import KERNELS, Products, Torchao
from duplex.checkpoint import LoadedModel
from duplex.errors import InputError
from duplex.fast.lm import NativeEngine
from duplex.fast.packing import Matrix
from duplex.fast.rounded import frame_linears
from duplex.loss import dialogue_loss
from duplex.model.lm import DuplexLM
from duplex.streams import StreamLayout
from duplex.units import FRAME_SAMPLES
from infer import cli

NOTICE = "Teacher-forced on conversations of the exact model; a difference of nats is against its own likelihood of them."
SCHEMES = ("f32", "f16", "bf16", "int8", "int4")


def conversation(model: LoadedModel, frames: int, seed: int) -> Tensor:
    """int64 [K, T]: text, the system's and the user's codes of a conversation of `frames` frames."""
    user = np.resize(recorded_user(), (frames + model.config.max_delay, FRAME_SAMPLES))
    layout, stream, engine = StreamLayout.from_config(model.config), model.codec.stream(1), model.engine()
    state, heard, said = engine.init_state(1, seed), [], []
    for pcm in user:
        codes = stream.encode_frame(torch.from_numpy(pcm)[None, None])[:, : layout.n_user]
        state, out = engine.step(state, codes)
        heard.append(codes[0])
        said += [out.tokens[0]] if bool(out.ready[0]) else []
    # What is heard at step t + 1 completes frame t.
    both = [torch.cat([spoken, heard[t + 1]]) for t, spoken in enumerate(said) if t + 1 < len(heard)]
    return torch.stack(both, 1)


def rounded(lm: DuplexLM, scheme: str) -> DuplexLM:
    """A copy of the model with the weights that the native step reads in this scheme, as floats."""
    twin = copy.deepcopy(lm)
    with torch.no_grad():
        for _, module in frame_linears(twin):
            columns = Matrix(module.weight, scheme).multiply(torch.eye(module.in_features))
            module.weight.copy_(columns.T)
    return twin


@torch.no_grad()
def compare(lm: DuplexLM, codes: Tensor, schemes: Sequence[str]) -> dict[str, dict]:
    """{scheme: nats per text and audio token, their excess over the exact weights, agreement}; `codes` int64 [B, K, T]."""
    config = lm.config
    exact = lm(codes)
    base = dialogue_loss(exact, codes, config).nll.means()
    result: dict[str, dict] = {"exact": _row(base, base, 1.0, 1.0, config.dep_q)}
    for scheme in schemes:
        out = rounded(lm, scheme)(codes)
        text = _agreement(out.text_logits, exact.text_logits, exact.text_mask)
        audio = _agreement(out.logits, exact.logits, exact.mask) if config.dep_q else 1.0
        result[scheme] = _row(dialogue_loss(out, codes, config).nll.means(), base, text, audio, config.dep_q)
    return result


def _agreement(logits: Tensor, exact: Tensor, mask: Tensor) -> float:
    return round((logits.argmax(-1) == exact.argmax(-1))[mask].float().mean().item(), 5)


def _row(nll: dict[str, float], base: dict[str, float], text: float, audio: float, books: int) -> dict:
    def spoken(means: dict[str, float]) -> float:
        found = [means[f"audio_{q}"] for q in range(books) if f"audio_{q}" in means]
        return sum(found) / max(len(found), 1)

    return {"text_nats": round(nll["text"], 5), "audio_nats": round(spoken(nll), 5),
            "text_excess": round(nll["text"] - base["text"], 5), "audio_excess": round(spoken(nll) - spoken(base), 5),
            "text_agreement": text, "audio_agreement": audio}


def frame_times(model: LoadedModel, schemes: Sequence[str], rounds: int, threads: int = 1) -> dict[str, float]:
    """Median milliseconds of the processor for one frame, all in turns: the whole native step by scheme ("exact" is the first),
    and the products alone in the libraries ("ort-f32", …; "torchao-int8" where that is installed, else a line on stderr)."""
    user = torch.zeros(1, StreamLayout.from_config(model.config).n_user, dtype=torch.long)

    def step(scheme: str) -> Callable[[], object]:
        engine = NativeEngine(model.lm, model.sampling, scheme)
        held = [engine.init_state()]
        return lambda: held.__setitem__(0, engine.step(held[0], user)[0])

    calls: dict[object, Callable[[], object]] = {scheme: step(scheme) for scheme in ("exact", *schemes)}
    calls |= {scheme: Products(model.lm, scheme, threads=threads).frame for scheme in KERNELS}
    try:
        calls["torchao-int8"] = Torchao(model.lm).frame
    except InputError as error:
        print(error, file=sys.stderr)
    interleaved(calls, 2)
    times = interleaved(calls, rounds)
    return {str(name): round(1e3 * statistics.median(processor for _, processor in spans), 3) for name, spans in times.items()}


def run(args: argparse.Namespace) -> None:
    """Lives through the conversations, compares, prints a table and the result."""
    if cli.device_of(args).type != "cpu":
        raise InputError("--device: the rounded weights are those of the native kernels; use cpu")
    model = named_model(args.model, "cpu", "native")
    seeds = range(args.seed, args.seed + args.seeds)
    codes = torch.stack([conversation(model, args.frames, seed) for seed in seeds])
    result = record.stamp("quantised", args.seed, kind="quantised", notice=NOTICE, model=Path(args.model).name,
                          frames=args.frames, conversations=args.seeds, tokens=int(codes.numel()),
                          schemes=compare(model.lm, codes, args.schemes))
    print(f"{'weights':8}{'text nats':>11}{'excess':>10}{'audio nats':>12}{'excess':>10}{'same text':>11}{'same code':>11}")
    for name, row in result["schemes"].items():
        print(f"{name:8}{row['text_nats']:11.4f}{row['text_excess']:10.5f}{row['audio_nats']:12.4f}{row['audio_excess']:10.5f}"
              f"{row['text_agreement']:11.2%}{row['audio_agreement']:11.2%}")
    result["frame_ms"] = {}
    for source in args.speed:
        timed = model if source == args.model else named_model(source, "cpu", "naive")
        times = frame_times(timed, [s for s in args.schemes if s in ("int8", "int4")], args.rounds, args.threads)
        result["frame_ms"][Path(source).name] = times
        print(f"{Path(source).name}, ms of the processor: " + ", ".join(f"{name} {ms:.2f}" for name, ms in times.items()))
    record.write(args.json, result)
    print(json.dumps(result, allow_nan=False), flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser("benchmarks.quantised", "What rounded weights cost in accuracy.")
    parser.add_argument("--model", default="tiny", metavar="MODEL", help="the embedded 'tiny' model, a folder or a hub id")
    parser.add_argument("--schemes", nargs="+", default=["int8", "int4"], choices=SCHEMES, metavar="NAME",
                        help=", ".join(SCHEMES))
    parser.add_argument("--frames", type=cli.at_least(2), default=750, metavar="T", help="length of each conversation")
    parser.add_argument("--seeds", type=cli.at_least(1), default=2, metavar="N", help="conversations, from --seed on")
    parser.add_argument("--seed", type=cli.at_least(0), default=0, help="of the first conversation")
    parser.add_argument("--speed", nargs="+", default=[], metavar="MODEL",
                        help="also the time of a frame of these models, beside the library's kernels (needs onnx, onnxruntime)")
    parser.add_argument("--rounds", type=cli.at_least(1), default=30, metavar="N", help="timed frames of each")
    parser.add_argument("--json", metavar="FILE", help="also write the result there")
    return cli.run(parser, run, argv)


if __name__ == "__main__":
    sys.exit(main())
