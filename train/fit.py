"""Train a duplex language model on tokenised dialogues.

    python -m train.fit RECIPE.toml --shards SHARDS --out RUN [--set train.lr=3e-4 …]
    python -m train.fit … --coded CODED --dialogues DIALOGUES.toml --tokenizer FILE.model

SHARDS holds train/ and test/. With --coded, most training dialogues are composed in token space.
RUN keeps last.ckpt, config.json and CSV logs; python -m train.export makes a model folder of it. Starting again with the
same RUN resumes. A checkpoint is a pickle: resume only from runs of your own.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger

from duplex.config import LMConfig
from duplex.errors import ConfigError
from duplex.overlay import load_toml
from duplex.text import Tokenizer
from train import cli
from train.coded import CodedBank, ComposedSource
from train.data import DialogueData, MixedSource, ShardSource
from train.module import DuplexModule, FitSettings
from train.shards import ShardSet
from train.synthesize import DialogueRecipe


@dataclass(frozen=True)
class FitRecipe:
    """A language-model recipe: the model and how to train it."""

    model: LMConfig
    train: FitSettings = field(default_factory=FitSettings)


def check_corpus(config: LMConfig, metadata: dict[str, str], source: str) -> None:
    """Raises ConfigError when the shards do not fit the model."""
    wanted = {"cardinality": config.card, "vocabulary": config.text_card, "codebooks": config.dep_q}
    for name, value in wanted.items():
        if int(metadata[name]) != value:
            raise ConfigError(f"{source}: the shards have {name} {metadata[name]} but the recipe's model has {value}; "
                              "change the recipe or prepare the corpus again")


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser("fit", __doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--coded", type=Path, help="bank of encoded clips: compose dialogues instead of reading SHARDS/train")
    parser.add_argument("--real-share", type=float, default=0.3, help="with --coded: share of samples from SHARDS/train")
    parser.add_argument("--dialogues", type=Path, help="with --coded: recipe of the dialogues")
    parser.add_argument("--tokenizer", type=Path, help="with --coded: the tokenizer of the text row")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="override recipe values")
    cli.add_threads(parser)
    parser.add_argument("--minutes", type=float, help="stop after this long, keeping a checkpoint")
    return cli.run(parser, run, argv)


def run(args: argparse.Namespace) -> None:
    """Checks recipe and corpus against each other, then trains."""
    recipe = load_toml(FitRecipe, args.recipe, args.set)
    s = recipe.train
    validation = ShardSet(args.shards / "test")

    def shards() -> ShardSource:
        return ShardSource(ShardSet(args.shards / "train"), s.frames, s.seed)

    if args.coded:
        if not (args.dialogues and args.tokenizer):
            raise ConfigError("--coded needs --dialogues RECIPE.toml and --tokenizer FILE.model as well")
        dialogues, tokenizer = load_toml(DialogueRecipe, args.dialogues), Tokenizer.load(args.tokenizer)
        source = ComposedSource(CodedBank(args.coded), tokenizer, dialogues, s.frames, s.seed)
        if source.metadata["codec"] != validation.metadata["codec"]:
            raise ConfigError(f"{args.coded}: made with another codec than {args.shards}; encode one of them again")
        if args.real_share:
            source = MixedSource(source, shards(), args.real_share, s.seed)
    else:
        source = shards()
    check_corpus(recipe.model, source.metadata, str(args.recipe))
    data = DialogueData(source, validation, s.frames, s.batch)
    fit(recipe, data, args.out, args.minutes)


def fit(recipe: FitRecipe, data: DialogueData, out: Path, minutes: float | None = None) -> DuplexModule:
    """Train to the recipe's last step, resuming from ``out``/last.ckpt when it is there; returns the module."""
    s = recipe.train
    L.seed_everything(s.seed, verbose=False)
    out.mkdir(parents=True, exist_ok=True)
    module = DuplexModule(recipe.model, s)
    keep = ModelCheckpoint(out, save_last=True, save_top_k=0, every_n_train_steps=s.keep_every)
    trainer = L.Trainer(
        max_steps=s.steps, max_time={"minutes": minutes} if minutes else None, accelerator="auto", devices=1,
        gradient_clip_val=s.clip, val_check_interval=s.validate_every, check_val_every_n_epoch=None, num_sanity_val_steps=0,
        log_every_n_steps=20, logger=CSVLogger(out, "logs", ""), callbacks=[keep, TQDMProgressBar(refresh_rate=20)],
        enable_model_summary=False)
    last = out / "last.ckpt"
    trainer.fit(module, data, ckpt_path=last if last.exists() else None, weights_only=False)
    trainer.save_checkpoint(last)
    (out / "config.json").write_text(json.dumps(recipe.model.to_dict(), indent=1))
    return module


if __name__ == "__main__":
    raise SystemExit(main())
