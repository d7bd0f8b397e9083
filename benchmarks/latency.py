"""How long one 80 ms frame takes: codec encode, model step, codec decode, and a whole session step.

    python -m benchmarks.latency
    python -m benchmarks.latency --model FOLDER --frames 500 --reference moshi --json latency.json

States first what a frame costs on paper, then measures. The last line on stdout is the result as JSON. Percentiles
are observed times (nearest rank), never interpolated: with 200 frames p99 is the third slowest. The numbers hold for this
machine, this load and these weights. They are compute alone: a listener waits for the frame and the acoustic delay besides.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from duplex.checkpoint import LoadedModel, load_model
from duplex.codec import MimiCodec, MimiConfig, build_mimi
from duplex.config import PRESETS
from duplex.engine import Engine
from duplex.errors import InputError
from duplex.model.layers import TokenEmbedding
from duplex.model.lm import DuplexLM
from duplex.session import Session
from duplex.streams import StreamLayout
from duplex.testing import ByteTokenizer, scripted_speech
from duplex.units import FRAME_SAMPLES, FRAME_SECONDS
from infer import cli

STAGES = ("encode", "model", "decode")
MOST_WARM_UP = 500
"""Longest warm-up, in frames, that is chosen without being asked for."""
RANDOM_CODEC = MimiConfig(dimension=128, n_filters=16, codebook_dim=64, n_codebooks=8, cardinality=512, num_heads=4,
                          num_layers=2, dim_feedforward=512, context=32, layer_scale=0.1)


def random_model(device: torch.device | str = "cpu") -> LoadedModel:
    """Untrained weights in a small model's shape (preset "toy"), with a byte tokenizer: costs time as a trained one does."""
    config = replace(PRESETS["toy"], text_card=ByteTokenizer.vocab_size)
    torch.manual_seed(0)
    books = StreamLayout.from_config(config).n_system
    codec = MimiCodec(build_mimi(RANDOM_CODEC, books, device), RANDOM_CODEC)
    return LoadedModel(lm=DuplexLM(config).to(device).eval(), config=config, codec=codec, tokenizer=ByteTokenizer(), meta={},
                       folder=Path("random"))


def static_cost(model: LoadedModel) -> dict[str, int]:
    """Numbers of parameters, and bytes of different weights that one frame of one conversation reads.

    Matrices and codebooks in use count whole and once, embedding tables one row. Each book of a codec counts as its entries.
    """
    tables = {id(module.weight) for module in model.lm.modules() if isinstance(module, TokenEmbedding)}
    weights = list(model.lm.parameters())
    touched = sum((weight[0] if id(weight) in tables else weight).nbytes for weight in weights)
    codec_weights: list[torch.Tensor] = []
    unused: list[torch.Tensor] = []
    if isinstance(model.codec, MimiCodec):
        books = [module.embedding for module in model.codec.mimi.modules() if hasattr(module, "embedding_sum")]
        codec_weights, unused = [*model.codec.mimi.parameters(), *books], books[model.codec.n_codebooks :]
    return {"lm_parameters": sum(weight.numel() for weight in weights), "lm_bytes_per_frame": touched,
            "codec_parameters": sum(weight.numel() for weight in codec_weights),
            "codec_bytes_per_frame": sum(w.nbytes for w in codec_weights) - sum(w.nbytes for w in unused)}


class _Lane:
    """One way to process a frame; gives the seconds that its stages took."""

    def __init__(self, name: str, model: LoadedModel):
        self.name, self.layout = name, StreamLayout.from_config(model.config)
        self.device = model.lm.text_linear.weight.device

    def timed(self, call: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
        """The result of a call and the seconds until it is there; an accelerator is waited for."""
        start = time.perf_counter()
        result = call(*arguments)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return result, time.perf_counter() - start

    def pcm_11S(self, pcm: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(pcm)[None, None].to(self.device)


class StagesLane(_Lane):
    """The parts of this library, called one after another as a session calls them."""

    def __init__(self, model: LoadedModel):
        super().__init__("stages", model)
        self.codec, self.engine = model.codec.stream(1), Engine(model.lm, model.sampling)
        self.state = self.engine.init_state()

    def __call__(self, pcm: np.ndarray) -> dict[str, float]:
        codes, encode = self.timed(self.codec.encode_frame, self.pcm_11S(pcm))
        (self.state, out), step = self.timed(self.engine.step, self.state, codes[:, : self.layout.n_user])
        if not bool(out.ready[0]):  # within the acoustic delay, which the warm-up covers
            return {}
        _, decode = self.timed(self.codec.decode_frame, out.tokens[:, self.layout.system_rows])
        return {"encode": encode, "model": step, "decode": decode, "together": encode + step + decode}


class SessionLane(_Lane):
    """A whole session step, from samples to samples, text and events."""

    def __init__(self, model: LoadedModel):
        super().__init__("session", model)
        self.session = Session(model)

    def __call__(self, pcm: np.ndarray) -> dict[str, float]:
        return {"session": self.timed(self.session.step, pcm)[1]}


class MoshiLane(_Lane):
    """The `moshi` package on a copy of the same weights: its streaming Mimi and its LMGen."""

    def __init__(self, model: LoadedModel):
        super().__init__("moshi", model)
        if not isinstance(model.codec, MimiCodec):
            raise InputError("--reference moshi: the model's codec is not a Mimi; leave the option out")
        if model.config.dep_q != self.layout.n_system:
            raise InputError("--reference moshi: this model predicts the user too, which LMGen would do in each frame and a "
                             "session does not; leave the option out")
        from moshi.models import LMGen, loaders

        settings = {key: value for key, value in model.config.to_dict().items() if key != "n_user"}
        dtype = model.lm.text_linear.weight.dtype
        lm = loaders.get_moshi_lm(None, settings, device=self.device, dtype=dtype).eval()
        lm.load_state_dict(model.lm.state_dict(), strict=True)
        s, config = model.sampling, model.config
        self.lm = LMGen(lm, use_sampling=not s.greedy, temp=s.audio_temperature, temp_text=s.text_temperature,
                        top_k=min(s.audio_top_k, config.card), top_k_text=min(s.text_top_k, config.text_card))
        self.mimi = copy.deepcopy(model.codec.mimi)
        self.lm.streaming_forever(1)
        self.mimi.streaming_forever(1)

    @torch.no_grad()
    def __call__(self, pcm: np.ndarray) -> dict[str, float]:
        from moshi.utils.compile import no_compile

        if self.device.type != "cpu":  # as the package comes
            return self._frame(pcm)
        with no_compile():  # on the CPU the package itself compiles no more than one norm, with a C++ compiler
            return self._frame(pcm)

    def _frame(self, pcm: np.ndarray) -> dict[str, float]:
        codes, encode = self.timed(self.mimi.encode, self.pcm_11S(pcm))
        tokens, step = self.timed(self.lm.step, codes[:, : self.layout.n_user])
        if tokens is None:
            return {}
        _, decode = self.timed(self.mimi.decode, tokens[:, self.layout.system_rows])
        return {"encode": encode, "model": step, "decode": decode, "together": encode + step + decode}


def statistics(seconds: Sequence[float]) -> dict[str, float]:
    """Of the times of frames: percentiles in ms, mean time per 80 ms of sound, and how many took longer than that."""
    times = np.asarray(seconds)
    p50, p95, p99 = (round(1e3 * float(value), 3) for value in np.percentile(times, (50, 95, 99), method="inverted_cdf"))
    return {"p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "max_ms": round(1e3 * float(times.max()), 3),
            "real_time_factor": round(float(times.mean()) / FRAME_SECONDS, 4),
            "deadline_misses": int((times > FRAME_SECONDS).sum())}


def measure(model: LoadedModel, frames: int, warmup: int, reference: bool = False) -> dict[str, dict[str, dict[str, float]]]:
    """{lane: {stage: statistics}} of `frames` frames after `warmup` others, all lanes in turn within each frame.

    Interleaving gives every lane the same disturbances; which one goes first alternates. The user speaks and is silent by
    turns. `warmup` must exceed the acoustic delay. InputError for a reference that this model cannot have.
    """
    lanes = [StagesLane(model), SessionLane(model), *([MoshiLane(model)] if reference else [])]
    times: dict[str, dict[str, list[float]]] = {lane.name: {} for lane in lanes}
    user = scripted_speech([(0.5, 3.0), (4.0, 6.5)], 8.0).reshape(-1, FRAME_SAMPLES)
    for number in range(warmup + frames):
        for lane in lanes if number % 2 else reversed(lanes):
            for stage, seconds in lane(user[number % len(user)]).items():
                if number >= warmup:
                    times[lane.name].setdefault(stage, []).append(seconds)
    return {name: {stage: statistics(seconds) for stage, seconds in stages.items()} for name, stages in times.items()}


def run(args: argparse.Namespace) -> None:
    """Loads, states the cost, measures, reports."""
    device = cli.device_of(args)
    if args.json and not Path(args.json).absolute().parent.is_dir():
        raise InputError(f"{args.json}: there is no such folder; make it first")
    model = random_model(device) if args.model == "random" else load_model(args.model, device)
    context = model.config.context or 0
    warmup = min(context, MOST_WARM_UP) if args.warmup is None else args.warmup
    warmup = max(warmup, model.config.max_delay + 1)
    cost = static_cost(model)
    result: dict[str, Any] = {
        "benchmark": "latency", "model": str(args.model), "device": str(device), "threads": args.threads,
        "machine": platform.processor() or platform.machine(), "cpus": os.cpu_count(), "torch": torch.__version__,
        "frames": args.frames, "warmup_frames": warmup, "context_frames": context, "cost": cost}
    print(f"language model {cost['lm_parameters'] / 1e6:.2f} M parameters, {cost['lm_bytes_per_frame'] / 1e6:.2f} MB of weights "
          f"read per frame; codec {cost['codec_parameters'] / 1e6:.2f} M, {cost['codec_bytes_per_frame'] / 1e6:.2f} MB")
    print(f"{args.frames} frames after {warmup} of warm-up (the attention window is {context}), {args.threads} thread(s), "
          f"{device}; times in ms", flush=True)
    measured = measure(model, args.frames, warmup, args.reference == "moshi")
    result |= measured
    print(f"{'':18}{'p50':>9}{'p95':>9}{'p99':>9}{'max':>9}{'RTF':>8}{'over 80 ms':>12}")
    for lane, stages in measured.items():
        for stage, s in stages.items():
            name = stage if stage == lane else f"{lane} {stage}"
            print(f"{name:18}{s['p50_ms']:9.2f}{s['p95_ms']:9.2f}{s['p99_ms']:9.2f}{s['max_ms']:9.2f}"
                  f"{s['real_time_factor']:8.3f}{s['deadline_misses']:12d}")
    if "moshi" in measured:
        ours, theirs = measured["stages"], measured["moshi"]
        ratios = {stage: round(theirs[stage]["p50_ms"] / ours[stage]["p50_ms"], 3) for stage in (*STAGES, "together")}
        result["moshi_over_ours_p50"] = ratios
        print("moshi / ours, medians: " + ", ".join(f"{stage} {ratio:.2f}" for stage, ratio in ratios.items()))
    line = json.dumps(result)
    if args.json:
        _write(Path(args.json), line + "\n")
    print(line, flush=True)


def _write(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); check the folder") from None
    finally:
        part.unlink(missing_ok=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser("benchmarks.latency", "Measure the compute time of one 80 ms frame, stage by stage.")
    parser.add_argument("--model", default="tiny", metavar="MODEL", help="the embedded 'tiny' model, a checkpoint folder, a hub "
                        "id (org/name), or 'random' for untrained weights of a small model")
    parser.add_argument("--frames", type=cli.at_least(1), default=200, metavar="N", help="frames to measure")
    parser.add_argument("--warmup", type=cli.at_least(0), metavar="N",
                        help=f"uncounted frames before that; by default the attention window, at most {MOST_WARM_UP}")
    parser.add_argument("--reference", choices=("moshi",), help="also time the moshi package on the same weights")
    parser.add_argument("--json", metavar="FILE", help="also write the result there")
    return cli.run(parser, run, argv)


if __name__ == "__main__":
    sys.exit(main())
