"""Train a Mimi-architecture codec of any size on an utterance bank.

    python -m train.codec train/recipes/codec-tiny.toml --bank BANK --out RUN [--teacher FEATURES] [--phones PHONES]

Follows the Moshi paper's section 3.3 at a small scale: quantisation on a share of the batches, the semantic codebook
distilled from a teacher's features or phone labels, spectral losses, and discriminators where [adversarial] says ``on``. A recipe
names its stage: "whole"; "encoder" (a spectrogram stands in for the waveform decoder, at a third of the cost); "decoder" (encoder
and codebooks frozen, so that codes stay valid for a trained language model). ``--start`` takes what fits from another run.
[machine] names accelerators and processes, as for train.fit. Stops and resumes at any step; RUN/mimi.safetensors is always whole.
"""

from __future__ import annotations

import argparse
import logging
import pickle
import sys
import warnings
import zipfile
from pathlib import Path

import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy

from duplex.errors import CheckpointError, ConfigError
from duplex.overlay import load_toml
from train import cli
from train.codec_data import Crops
from train.codec_model import STAGES, start_from
from train.codec_module import CodecData, CodecKeeper, CodecLog, CodecModule, CodecRecipe
from train.corpus.bank import Bank
from train.keeping import LAST, Ledger, check_space
from train.machines import interruptible, trainer_of


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser("codec", __doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--bank", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, help="folder of train.teach; without it the semantic codebook is not distilled")
    parser.add_argument("--steps", type=int, help="override the recipe")
    parser.add_argument("--until", type=int, help="stop at this step without changing the schedule")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="override recipe values")
    cli.add_threads(parser)
    parser.add_argument("--phones", type=Path, help="folder of train.phones: labels for the semantic codebook")
    parser.add_argument("--start", type=Path, help="folder of another run whose weights to begin with")
    parser.add_argument("--compile", action="store_true", help="compile the convolutions: a minute at first, a third faster then")
    return cli.run(parser, run, argv)


def run(args: argparse.Namespace) -> None:
    """Train until the last step, resuming from ``args.out`` when it holds a state."""
    recipe = load_toml(CodecRecipe, args.recipe, args.set + ([f"train.steps={args.steps}"] if args.steps is not None else []))
    check(recipe, args.recipe)
    if args.until is not None and args.until < 1:
        raise ConfigError(f"--until {args.until}: give the number of a step, 1 or more")
    s, machine, out = recipe.train, recipe.machine, args.out
    crops = Crops(Bank(args.bank), args.teacher, s.system_share, s.lines_only, args.phones, s.stretch)
    for weight, labels, option in ((s.distill, args.teacher, "teacher"), (s.phones, args.phones, "phones")):
        if weight and not labels and s.stage != "decoder":
            print(f"no --{option}: the semantic codebook learns nothing from it", file=sys.stderr)
    if (out / "resume.pt").exists() and not (out / LAST).exists():
        raise CheckpointError(f"{out}: holds a run of an older version; choose another --out, and give this one with --start")
    torch.manual_seed(s.seed)
    module = CodecModule(recipe, crops.feature_dims)
    resumed = (out / LAST).exists()
    if args.start and not resumed:
        start_from(module.codec, args.start)
    if args.compile or machine.compile:  # the plain modules stay what is saved
        mimi = module.codec.mimi
        module.codec.waves = {"encode": torch.compile(mimi.encoder), "decode": torch.compile(mimi.decoder)}
    out.mkdir(parents=True, exist_ok=True)
    check_space(out, *(sum(p.numel() for p in module.parameters() if p.requires_grad or every) for every in (True, False)))
    if resumed:
        check_state(out / LAST, module)
    end = s.steps if args.until is None else min(s.steps, args.until)
    ledger = Ledger(out, f"lower train.lr in {args.recipe}")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers")
    trainer = trainer_of(
        machine, max_steps=end,
        strategy=DDPStrategy(find_unused_parameters=True, broadcast_buffers=False) if machine.processes > 1 else "auto",
        use_distributed_sampler=False, limit_val_batches=0,
        logger=TensorBoardLogger(out, "tensorboard", "") if "tensorboard" in machine.loggers else False,
        callbacks=[ledger, CodecLog(out, end), CodecKeeper(out, s.keep_every, ledger, recipe.codec)],
        enable_model_summary=False, enable_checkpointing=False, enable_progress_bar=False)
    with interruptible():
        trainer.fit(module, CodecData(crops, s), ckpt_path=out / LAST if resumed else None, weights_only=True)


def check(recipe: CodecRecipe, path: Path) -> None:
    """ConfigError for what no codec can be trained with."""
    s, machine = recipe.train, recipe.machine
    if s.stage not in STAGES:
        raise ConfigError(f"{path}: train.stage is {s.stage!r}; use one of {', '.join(STAGES)}")
    for name in ("steps", "batch", "frames", "keep_every", *(() if s.stage == "decoder" else ("quantize_from",))):
        if getattr(s, name) < 1:
            raise ConfigError(f"{path}: train.{name} is {getattr(s, name)}; it must be at least 1")
    if recipe.adversarial.on and s.stage == "encoder":
        raise ConfigError(f"{path}: adversarial.on needs sound, and the encoder's stage makes none; set it to false")
    for name, wanted, mend in (
            ("strategy", machine.strategy == "fsdp", "a codec fits every accelerator; use 'ddp'"),
            ("precision", machine.precision != "32-true", "a codec is trained in 32 bits; use '32-true'"),
            ("micro_batch", bool(machine.micro_batch), "batches of a codec are not divided; lower train.batch"),
            ("gradient_checkpointing", machine.gradient_checkpointing, "a codec has none; set it to false")):
        if wanted:
            raise ConfigError(f"{path}: machine.{name}: {mend}")
    machine.accumulate(s.batch)  # whether the batch divides among the processes


def check_state(path: Path, module: CodecModule) -> None:
    """CheckpointError when the state of a run is damaged or another recipe's."""
    reason = "it is cut short"
    if zipfile.is_zipfile(path):
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            found, wanted, _ = state["state_dict"], module.state_dict(), (state["loops"], state["recent"])
            learnt = [len(group["params"]) for one in state["optimizer_states"] for group in one["param_groups"]]
            reason = next((f"{name} is missing or of another shape" for name in wanted
                           if name not in found or found[name].shape != wanted[name].shape), "")
            reason = reason or next((f"it has {name}, which the recipe has not" for name in found if name not in wanted), "")
            if not reason and learnt != [sum(p.requires_grad for p in part.parameters()) for part in module.learners()]:
                reason = "it is of another stage"
        except (RuntimeError, ValueError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
    if reason:
        raise CheckpointError(f"{path}: it does not fit this recipe or is damaged ({reason}); choose another --out")


if __name__ == "__main__":
    raise SystemExit(main())
