"""Train a stage of a duplex language model.

    python -m train.fit RECIPE.toml --shards SHARDS --out RUN [--set train.lr=3e-4 …]
    python -m train.fit RECIPE.toml --shards SHARDS --out RUN --start FOLDER          from a model folder, whole or with LoRA
    python -m train.fit RECIPE.toml --text TEXT --out RUN                             text alone (or mixed into SHARDS)
    python -m train.fit RECIPE.toml --sound DIALOGUES --codec CODEC --tokenizer FILE.model --shards SHARDS --out RUN
    python -m train.fit … --coded CODED --dialogues DIALOGUES.toml --tokenizer FILE.model

SHARDS and TEXT hold train/ and test/. With --coded, most training dialogues are composed in token space; with --sound, they are
augmented and encoded while training. RUN keeps last.ckpt, config.json, ledger.jsonl and logs; python -m train.export makes a
model folder of it. Starting again with the same RUN resumes exactly.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import warnings
import zipfile
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy

from duplex.config import LMConfig
from duplex.errors import CheckpointError
from duplex.jsonfile import read_configuration
from duplex.overlay import load_toml
from duplex.streams import StreamLayout
from train import cli
from train.data import DialogueData
from train.files import replace_file, trained_codec
from train.keeping import MADE_WITH, Keeper, Ledger, alone, check_space, resume_point
from train.listening import embed_as_sounds
from train.machines import interruptible, trainer_of
from train.module import DuplexModule
from train.recipe import FitRecipe
from train.same_codes import codes_fingerprint
from train.sources import data_of
from train.watch import Watcher, watch_items


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser("fit", __doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--shards", type=Path, help="folder with train/ and test/ of python -m train.prepare")
    parser.add_argument("--start", help="model folder in Kyutai's format to begin with")
    parser.add_argument("--text", type=Path, help="folder with train/ and test/ of python -m train.text")
    parser.add_argument("--sound", type=Path, help="folder of two-channel dialogues to augment and encode while training")
    parser.add_argument("--codec", type=Path, help="the codec's folder: fresh embeddings start from its vectors; --sound encodes")
    parser.add_argument("--coded", type=Path, help="bank of encoded clips: compose dialogues instead of reading SHARDS/train")
    parser.add_argument("--real-share", type=float, default=0.3, help="with --coded: share of samples from SHARDS/train")
    parser.add_argument("--dialogues", type=Path, help="with --coded: recipe of the dialogues")
    parser.add_argument("--tokenizer", type=Path, help="with --coded or --sound: the tokenizer of the text row")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="override recipe values")
    cli.add_threads(parser)
    parser.add_argument("--minutes", type=float, help="stop after this long, keeping a checkpoint")
    return cli.run(parser, run, argv)


def run(args: argparse.Namespace) -> None:
    """Checks recipe, corpus and disk against each other, then trains."""
    overrides = args.set + ([f"start.folder={json.dumps(args.start)}"] if args.start else [])
    recipe = load_toml(FitRecipe, args.recipe, overrides)
    data = data_of(args, recipe)
    with alone(args.out):
        fit(recipe, data, args.out, args.minutes, codec=args.codec)


def strategy_of(recipe: FitRecipe) -> str | Strategy:
    """Lightning's strategy for the recipe."""
    machine = recipe.machine
    if machine.strategy == "fsdp":
        return ModelParallelStrategy(data_parallel_size=machine.processes, tensor_parallel_size=1)
    if machine.strategy == "ddp" or machine.processes > 1:
        return DDPStrategy(find_unused_parameters=recipe.model.extra_heads_num_heads > 0)
    return "auto"


def loggers_of(recipe: FitRecipe, out: Path) -> list[Logger]:
    """The loggers of the recipe."""
    made = {"csv": lambda: CSVLogger(out, "logs", ""), "tensorboard": lambda: TensorBoardLogger(out, "tensorboard", "")}
    return [made[kind]() for kind in recipe.machine.loggers]


def keep_curves(out: Path) -> None:
    """Renames the curves of the run's earlier part: the logger begins a new file."""
    old = out / "logs" / "metrics.csv"
    if old.exists():
        old.rename(old.with_name(f"metrics-{sum(1 for _ in old.parent.glob('metrics*.csv'))}.csv"))


def fit(recipe: FitRecipe, data: DialogueData, out: Path, minutes: float | None = None, steps: int | None = None,
        codec: Path | None = None) -> DuplexModule:
    """Train to the recipe's last step, resuming from the checkpoint in ``out`` when there is one; returns the module.

    ``steps`` stops earlier, with the schedule of the whole recipe. ``codec`` is a codec's folder whose vectors fresh
    embeddings start from.
    """
    s, machine = recipe.train, recipe.machine
    if machine.gradient_checkpointing and not recipe.model.gradient_checkpointing:
        recipe = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, gradient_checkpointing=True))
    L.seed_everything(s.seed, verbose=False)
    out.mkdir(parents=True, exist_ok=True)
    check_resume(out, recipe)
    made_with = check_made_with(out, made_with_now(recipe, data, codec))
    module = DuplexModule(recipe.model, s, recipe)
    if codec and not recipe.start.folder and module.sharded:
        print("embeddings start at random, not from the codec's vectors: the parameters are sharded", file=sys.stderr)
    elif codec and not recipe.start.folder:
        embed_as_sounds(module.model, trained_codec(codec, StreamLayout.from_config(recipe.model).n_system), s.seed)
    counts = [sum(p.numel() for p in ps) for ps in (module.parameters(), filter(lambda p: p.requires_grad, module.parameters()))]
    check_space(out, *counts)
    resume = resume_point(out)
    ledger = Ledger(out)
    callbacks: list[L.Callback] = [ledger, Keeper(out, s.keep_every, ledger), TQDMProgressBar(refresh_rate=20)]
    if recipe.watch.every and data.watched is not None:
        callbacks.insert(1, Watcher(out, recipe.watch, watch_items(data.watched, recipe.model, recipe.watch)))
    trainer = trainer_of(
        machine, max_steps=min(s.steps, steps or s.steps), max_time={"minutes": minutes} if minutes else None,
        strategy=strategy_of(recipe), accumulate_grad_batches=machine.accumulate(s.batch), use_distributed_sampler=False,
        gradient_clip_val=s.clip, val_check_interval=s.validate_every * machine.accumulate(s.batch),
        check_val_every_n_epoch=None, num_sanity_val_steps=0, log_every_n_steps=20, logger=loggers_of(recipe, out),
        callbacks=callbacks, enable_model_summary=False, enable_checkpointing=False)
    if trainer.is_global_zero:
        text = json.dumps(saved_config(recipe), indent=1)
        replace_file(out / "config.json", lambda part: part.write_text(text))
        replace_file(out / MADE_WITH, lambda part: part.write_text(json.dumps(made_with, indent=1)))
        keep_curves(out)
    warnings.filterwarnings("ignore", message=".*overridden `on_before_batch_transfer`")  # meant so: the module draws
    try:
        with interruptible():
            trainer.fit(module, data, ckpt_path=resume, weights_only=True)  # numbers alone: no code is run
    except BaseException:
        print(flush=True)  # ends the line of the progress bar: what is wrong gets one of its own
        raise
    return module


def made_with_now(recipe: FitRecipe, data: DialogueData, codec: Path | None) -> dict[str, str | int]:
    """What decides which samples a run sees, and what they mean: fingerprints of tokenizer and codec, seed and batch."""
    known = data.source.metadata
    found: dict[str, str | int] = {key: known[key] for key in ("tokenizer", "codec") if key in known}
    if codec:
        found["codes"] = codes_fingerprint(codec / "mimi.safetensors")
    learns = "depth" if recipe.start.depth_only else "all"
    return found | {"seed": recipe.train.seed, "batch": recipe.train.batch, "learns": learns}


def check_made_with(out: Path, now: dict[str, str | int]) -> dict[str, str | int]:
    """What the run in ``out`` was made with, completed by ``now``; CheckpointError where it would go on with something else."""
    begun = resume_point(out) is not None and (out / MADE_WITH).exists()
    before = read_configuration(out / MADE_WITH) if begun else {}
    same_sound = "codes" in before and before["codes"] == now.get("codes")  # the codec's file may have a newer decoder
    for key, what in (("tokenizer", "from the tokens of another tokenizer"), ("codes", "from the codes of another codec"),
                      ("codec", "from the codes of another codec"), ("seed", "from samples of another train.seed"),
                      ("batch", "from samples of another train.batch"), ("learns", "another part of the model")):
        if before.get(key, now.get(key)) != now.get(key, before.get(key)) and not (key == "codec" and same_sound):
            raise CheckpointError(f"{out}: the run there learnt {what} ({before[key]}, now {now[key]}); go on with those, "
                                  "or export it and give the folder with --start and another --out")
    return before | now


def saved_config(recipe: FitRecipe) -> dict:
    """config.json of a run: the model, with the adapters that it trains."""
    start = recipe.start
    config = dataclasses.replace(recipe.model, lora=start.lora_rank > 0)
    if start.lora_rank:
        config = dataclasses.replace(config, lora_rank=start.lora_rank, lora_scaling=start.lora_scaling)
    return config.to_dict()


def check_resume(out: Path, recipe: FitRecipe) -> None:
    """Raises CheckpointError when the checkpoint in ``out`` is cut short, of another form, or of a model of another shape."""
    last = resume_point(out)
    if last is not None and last.is_dir() != (recipe.machine.strategy == "fsdp"):
        kind = "with" if last.is_dir() else "without"
        raise CheckpointError(f"{out}: holds a run {kind} machine.strategy 'fsdp'; go on as it began, or export it and give the "
                              "folder with --start")
    if last is not None and last.is_file() and not zipfile.is_zipfile(last):
        raise CheckpointError(f"{last}: is cut short or no checkpoint; put a whole one there, or delete it to begin again")
    if last is None or not (out / "config.json").exists():
        return
    before, now = LMConfig.from_json(out / "config.json").to_dict(), saved_config(recipe)
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key) and key != "gradient_checkpointing":
            raise CheckpointError(f"{out}: holds a run whose {key} is {before.get(key)}, the recipe's is {now.get(key)}; "
                                  "give another --out or the run's own recipe")


if __name__ == "__main__":
    raise SystemExit(main())
