"""Check a recipe without weights: parameters, memory a GPU, tokens a step and expected hours on a cluster.

    python -m train.plan RECIPE.toml --cluster 64xH100 [--mfu 0.4] [--json] [--set machine.devices=8 …]

Nothing is loaded and no GPU is needed. Memory is counted from the shapes (weights, gradients, two moments, activations of one
micro-batch); hours follow from the arithmetic of a step and the share of the peak that is reached, ``--mfu``, a guess that a
first run replaces. The exit status is 1 when the plan does not fit the cluster.
"""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from duplex.config import LMConfig
from duplex.errors import InputError
from duplex.model.lm import DuplexLM
from duplex.overlay import load_toml
from duplex.units import FRAME_SECONDS
from duplex.weights import empty_lm
from train import cli
from train.module import is_depth
from train.recipe import FitRecipe

GPUS = {"A100-40": (40, 312), "A100": (80, 312), "H100": (80, 989), "H200": (141, 989), "B200": (180, 2250), "L40S": (48, 362),
        "4090": (24, 165)}
"""Memory in GB and dense bf16 peak in TFLOP/s, as the makers state them."""
USABLE = 0.9  # of the memory: the rest is the driver's, the collectives' and what fragments


@dataclass(frozen=True)
class Plan:
    """What a stage needs."""

    parameters: int
    temporal: int
    """Parameters evaluated once a frame: temporal transformer and text head."""
    depth: int
    """Parameters of the depth transformer: each predicted row passes through its own share of them."""
    embeddings: int
    trained: int
    gpus: int
    weights_gb: float
    """Per GPU, as the three below."""
    gradients_gb: float
    optimizer_gb: float
    activations_gb: float
    memory_gb: float
    tokens_per_step: int
    """Text and predicted audio tokens of one optimiser step."""
    frames_per_step: int
    audio_hours_per_step: float
    flops_per_step: float
    seconds_per_step: float
    hours: float
    gpu_hours: float
    fits: bool


def cluster(text: str) -> tuple[int, str]:
    """ "64xH100" -> (64, "H100"); InputError for anything else."""
    match = re.fullmatch(r"(\d+)x(.+)", text)
    if not match or match[2] not in GPUS or int(match[1]) < 1:
        raise InputError(f"--cluster {text}: give COUNTxGPU such as 64xH100; known: {', '.join(GPUS)}")
    return int(match[1]), match[2]


def sizes(model: DuplexLM) -> tuple[int, int, int, int]:
    """Parameters in all, of the temporal part with the text head, of the depth part, and of embedding tables."""
    counts = {"temporal": 0, "depth": 0, "embeddings": 0}
    for name, p in model.named_parameters():
        part = "embeddings" if "emb." in name else "depth" if is_depth(name) else "temporal"
        counts[part] += p.numel()
    return sum(counts.values()), counts["temporal"], counts["depth"], counts["embeddings"]


def step_flops(config: LMConfig, recipe: FitRecipe, temporal: int, depth: int) -> float:
    """Floating-point operations of one optimiser step: 6 per weight and token, attention beside; recomputation included."""
    s = recipe.train
    frames = s.batch * s.frames
    reach = min(s.frames, config.context or s.frames) / 2  # causal: half of the window on average
    attention = 2 * 2 * reach * config.dim * config.num_layers  # scores and mixture of one frame, forward
    per_frame = 2 * temporal + attention
    # With weights per position each row uses its own set; else all rows use all weights.
    depth_uses = depth if config.depformer_weights_per_step else depth * config.dep_q
    per_depth_frame = 2 * depth_uses
    text_only = 1.0 if recipe.data.kind == "text" else recipe.data.text_share
    temporal_part, depth_part = frames * per_frame, frames * s.depth_share * (1 - text_only) * per_depth_frame
    if recipe.start.depth_only:
        return temporal_part + depth_part * 3
    backward = 2.0 if not recipe.start.lora_rank else 1.1  # with adapters only the gradient's way through is computed
    again = 1.0 if recomputes(recipe) else 0.0
    return (temporal_part + depth_part) * (1 + backward + again)


def recomputes(recipe: FitRecipe) -> bool:
    """Whether activations are computed again in the backward pass."""
    return recipe.machine.gradient_checkpointing or recipe.model.gradient_checkpointing


def activation_bytes(config: LMConfig, recipe: FitRecipe, micro: int) -> float:
    """Bytes of activations that one micro-batch keeps for the backward pass."""
    s, width = recipe.train, 2 if recipe.machine.precision != "32-true" else 4
    frames = micro * s.frames
    # Per layer and frame: input, norm, q k v, attention output, norm, the two gated halves, their product.
    hidden = config.hidden_scale * config.dim * 2 / 3
    layer = config.dim * 8 + 3 * hidden
    temporal = frames * config.dim * config.num_layers if recomputes(recipe) else frames * layer * config.num_layers
    one_layer = frames * layer if recomputes(recipe) else 0
    rows = 0 if recipe.data.kind == "text" else s.depth_share * frames * config.dep_q
    wide = config.depformer_dim_feedforward
    wide = max(wide) if isinstance(wide, tuple) else wide or config.hidden_scale * config.depformer_dim
    depth_layer = config.depformer_dim * 8 + 3 * wide * 2 / 3
    depth = rows * (config.depformer_dim if recomputes(recipe) else depth_layer) * int(config.depformer_num_layers)
    # Logits in float32, their log-probabilities and their gradient.
    logits = 3 * 4 * (frames * (config.text_card_out or config.text_card) + rows * config.card)
    return width * (temporal + one_layer + depth) + logits


def plan(recipe: FitRecipe, gpus: int, kind: str, mfu: float) -> Plan:
    """The plan of a recipe on ``gpus`` of a kind."""
    config, s, machine = recipe.model, recipe.train, recipe.machine
    memory, peak = GPUS[kind]
    total, temporal, depth, embeddings = sizes(empty_lm(config, "recipe"))
    trained = total if not recipe.start.lora_rank else adapter_parameters(config, recipe.start.lora_rank)
    trained = depth if recipe.start.depth_only else trained
    share = gpus if machine.strategy == "fsdp" else 1
    whole = 2 if machine.precision == "bf16-true" else 4
    kept = total + (trained if recipe.start.lora_rank else 0)
    weights, gradients, moments = (x / share / 1e9 for x in (kept * whole, trained * whole, 2 * trained * whole))
    if machine.strategy == "fsdp":  # the layer at work is gathered, and the next one on its way
        weights += 2 * 2 * (temporal / config.num_layers) / 1e9
    micro = machine.micro_batch or max(1, s.batch // gpus)
    activations = activation_bytes(config, recipe, micro) / 1e9
    used = weights + gradients + moments + activations
    frames = s.batch * s.frames
    text_only = 1.0 if recipe.data.kind == "text" else recipe.data.text_share
    flops = step_flops(config, recipe, temporal, depth)
    seconds = flops / (gpus * peak * 1e12 * mfu)
    tokens = round(frames * (1 + (1 - text_only) * config.dep_q))
    gigabytes = (round(x, 2) for x in (weights, gradients, moments, activations, used))
    audio_hours, hours = (1 - text_only) * frames * FRAME_SECONDS / 3600, seconds * s.steps / 3600
    return Plan(total, temporal, depth, embeddings, trained, gpus, *gigabytes, tokens, frames, round(audio_hours, 3), flops,
                round(seconds, 3), round(hours, 1), round(gpus * hours), used <= USABLE * memory)


def adapter_parameters(config: LMConfig, rank: int) -> int:
    """Parameters of adapters of one rank on every linear layer."""
    from torch import nn

    layers = (m for m in empty_lm(config, "recipe").modules() if isinstance(m, nn.Linear))
    return sum(rank * (m.in_features + m.out_features) for m in layers)


def report(p: Plan, kind: str, mfu: float, recipe: FitRecipe) -> str:
    """The plan in words."""
    s = recipe.train
    verdict = "fits" if p.fits else f"does NOT fit in {USABLE:.0%} of {GPUS[kind][0]} GB"
    return "\n".join([
        f"parameters      {p.parameters / 1e6:,.1f}M: temporal and text head {p.temporal / 1e6:,.1f}M, "
        f"depth {p.depth / 1e6:,.1f}M, embeddings {p.embeddings / 1e6:,.1f}M; trained {p.trained / 1e6:,.1f}M",
        f"memory a GPU    {p.memory_gb} GB: weights {p.weights_gb}, gradients {p.gradients_gb}, optimiser {p.optimizer_gb}, "
        f"activations {p.activations_gb}; {verdict}",
        f"a step          {p.tokens_per_step:,} tokens, {p.frames_per_step:,} frames ({p.audio_hours_per_step} h of audio), "
        f"{p.flops_per_step:.3g} FLOP",
        f"time            {p.seconds_per_step} s a step on {p.gpus} {kind} at {mfu:.0%} of peak; {s.steps:,} steps: {p.hours} h "
        f"({p.gpu_hours:,} GPU hours). Estimated, not measured."])


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser("plan", __doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--cluster", required=True, help="COUNTxGPU, such as 64xH100")
    parser.add_argument("--mfu", type=float, default=0.4, help="share of the peak that is reached")
    parser.add_argument("--start", help="model folder, as for train.fit")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="override recipe values")
    return cli.run(parser, run, argv)


def run(args: argparse.Namespace) -> int:
    """Prints the plan; 1 when it does not fit."""
    gpus, kind = cluster(args.cluster)
    if not 0 < args.mfu <= 1:
        raise InputError(f"--mfu {args.mfu}: give a share above 0 and up to 1")
    settings = [*args.set, f"machine.devices={gpus}", "machine.nodes=1"]
    # The shape is the recipe's own: whether the weights are there is the training command's concern.
    settings += [f"start.folder={json.dumps(args.start)}"] if args.start else ["start.needed=false"]
    recipe = load_toml(PlannedRecipe, args.recipe, settings)
    result = plan(recipe, gpus, kind, args.mfu)
    print(json.dumps(asdict(result)) if args.json else report(result, kind, args.mfu, recipe))
    return 0 if result.fits else 1


@dataclass(frozen=True)
class PlannedRecipe(FitRecipe):
    """A recipe that may say "adapters" without the weights at hand."""

    def __post_init__(self) -> None:
        if self.start.folder:
            super().__post_init__()
        self.machine.accumulate(self.train.batch)


if __name__ == "__main__":
    raise SystemExit(main())
