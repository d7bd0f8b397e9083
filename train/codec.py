"""Train a Mimi-architecture codec of any size on an utterance bank.

    python -m train.codec train/recipes/codec-tiny.toml --bank BANK --out RUN [--teacher FEATURES] [--phones PHONES]

Follows the Moshi paper's section 3.3 at a small scale: quantisation on a share of the batches, the semantic codebook
distilled from a teacher's features or phone labels, spectral losses, and discriminators where [adversarial] says ``on``. A recipe
names its stage: "whole"; "encoder" (a spectrogram stands in for the waveform decoder, at a third of the cost); "decoder" (encoder
and codebooks frozen, so that codes stay valid for a trained language model); "hearing" (the encoder learns to be understood by
the language model of a folder, ``--model``, that stays as it is). ``--start`` takes what fits from another run.
[machine] names accelerators and processes, as for train.fit. Stops and resumes at any step; RUN/mimi.safetensors is always whole.
"""

from __future__ import annotations

import argparse
import json
import logging
import pickle
import sys
import warnings
import zipfile
from pathlib import Path

import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy

from duplex.checkpoint import MIMI_NAMES, LoadedModel, load_model, open_folder
from duplex.errors import CheckpointError, ConfigError
from duplex.overlay import load_toml
from duplex.units import SAMPLE_RATE
from train import cli
from train.codec_data import Crops
from train.codec_model import STAGES, CodecTraining, start_from
from train.codec_module import CodecData, CodecKeeper, CodecLog, CodecModule, CodecRecipe
from train.coded import START_UP
from train.corpus.bank import Bank
from train.files import replace_file
from train.keeping import LAST, Ledger, alone, check_space
from train.machines import interruptible, trainer_of
from train.reading import Reader
from train.same_codes import TUNED, codes_fingerprint
from train.word_crops import WordCrops

QUIET_SECONDS = 4


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
    parser.add_argument("--model", help='stage "hearing": "tiny" or a model folder, whose language model reads the codes')
    parser.add_argument("--compile", action="store_true", help="compile the convolutions: a minute at first, a third faster then")
    return cli.run(parser, run, argv)


def run(args: argparse.Namespace) -> None:
    """Train until the last step, resuming from ``args.out`` when it holds a state."""
    recipe = load_toml(CodecRecipe, args.recipe, args.set + ([f"train.steps={args.steps}"] if args.steps is not None else []))
    check(recipe, args.recipe)
    if args.until is not None and args.until < 1:
        raise ConfigError(f"--until {args.until}: give the number of a step, 1 or more")
    s, machine, out = recipe.train, recipe.machine, args.out
    crops, loaded = crops_of(args, s)
    if (out / "resume.pt").exists() and not (out / LAST).exists():
        raise CheckpointError(f"{out}: holds a run of an older version; choose another --out, and give this one with --start")
    torch.manual_seed(s.seed)
    module = CodecModule(recipe, crops.feature_dims, reader_of(loaded, recipe, args.recipe) if loaded else None)
    resumed = (out / LAST).exists()
    if args.start and not resumed:
        start_from(module.codec, args.start)
    elif loaded and not resumed:
        module.codec.take(loaded.codec.mimi.state_dict())
    if args.compile or machine.compile:  # the plain modules stay what is saved
        mimi = module.codec.mimi
        module.codec.waves = {"encode": torch.compile(mimi.encoder), "decode": torch.compile(mimi.decoder)}
    with alone(out):
        check_space(out, *(sum(p.numel() for p in module.parameters() if p.requires_grad or every) for every in (True, False)))
        if loaded:
            known = codes_fingerprint(open_folder(loaded.folder).file("mimi_name", MIMI_NAMES))
            replace_file(out / TUNED, lambda part: part.write_text(json.dumps({"codes": known})))
        if resumed:
            check_state(out / LAST, module)
        end = s.steps if args.until is None else min(s.steps, args.until)
        ledger = Ledger(out, f"lower train.lr in {args.recipe}")
        logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
        warnings.filterwarnings("ignore", message=".*does not have many workers")
        warnings.filterwarnings("ignore", message=".*in eval mode at the start")  # what a stage freezes is meant to be
        trainer = trainer_of(
            machine, max_steps=end,
            strategy=DDPStrategy(find_unused_parameters=True, broadcast_buffers=False) if machine.processes > 1 else "auto",
            use_distributed_sampler=False, limit_val_batches=0,
            logger=TensorBoardLogger(out, "tensorboard", "") if "tensorboard" in machine.loggers else False,
            callbacks=[ledger, CodecLog(out, end), CodecKeeper(out, s.keep_every, ledger, recipe.codec)],
            enable_model_summary=False, enable_checkpointing=False, enable_progress_bar=False)
        with interruptible():
            trainer.fit(module, CodecData(crops, s), ckpt_path=out / LAST if resumed else None, weights_only=True)


def crops_of(args: argparse.Namespace, settings: CodecTraining) -> tuple[Crops, LoadedModel | None]:
    """The crops that a stage learns from, and the model that reads their codes where there is one."""
    bank = Bank(args.bank)
    if (args.model is None) != (settings.stage != "hearing"):
        raise ConfigError(f'{args.recipe}: stage "hearing" and --model belong together; the stage is "{settings.stage}", '
                          f"and --model {'is missing' if args.model is None else 'is ' + args.model}")
    if args.model is not None:
        loaded = load_model(args.model, dtype=torch.float32)
        return WordCrops(bank, loaded.tokenizer, settings.system_share, settings.stretch), loaded
    for weight, labels, option in ((settings.distill, args.teacher, "teacher"), (settings.phones, args.phones, "phones")):
        if weight and not labels and settings.stage != "decoder":
            print(f"no --{option}: the semantic codebook learns nothing from it", file=sys.stderr)
    return Crops(bank, args.teacher, settings.system_share, settings.lines_only, args.phones, settings.stretch), None


def reader_of(loaded: LoadedModel, recipe: CodecRecipe, path: Path) -> Reader:
    """The model as a reader of the recipe's codec; ConfigError where the folder's codec is of other sizes."""
    sizes = recipe.codec
    found = (loaded.codec.n_codebooks, loaded.codec.cardinality)
    if found != (sizes.n_codebooks, sizes.cardinality):
        raise ConfigError(f"{path}: [codec] has {sizes.n_codebooks} codebooks of {sizes.cardinality} entries, the model's codec "
                          f"{found[0]} of {found[1]}; take the sizes of the model's mimi_config.json")
    sound = torch.zeros(1, 1, QUIET_SECONDS * SAMPLE_RATE)
    return Reader(loaded.lm, loaded.codec.encode(sound)[0, :, START_UP:], sizes.cardinality)


def check(recipe: CodecRecipe, path: Path) -> None:
    """ConfigError for what no codec can be trained with."""
    s, machine = recipe.train, recipe.machine
    if s.stage not in STAGES:
        raise ConfigError(f"{path}: train.stage is {s.stage!r}; use one of {', '.join(STAGES)}")
    for name in ("steps", "batch", "frames", "keep_every", *(("quantize_from",) if s.stage in ("whole", "encoder") else ())):
        if getattr(s, name) < 1:
            raise ConfigError(f"{path}: train.{name} is {getattr(s, name)}; it must be at least 1")
    if recipe.adversarial.on and s.stage in ("encoder", "hearing"):
        raise ConfigError(f"{path}: adversarial.on needs sound, and the stage {s.stage!r} makes none; set it to false")
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
