"""Where a run's samples come from, by its command line; checked to fit the recipe and each other before anything is built."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

import torch

from duplex.checkpoint import MIMI_NAMES, open_folder
from duplex.config import LMConfig
from duplex.errors import CheckpointError, ConfigError
from duplex.overlay import load_toml
from duplex.streams import StreamLayout
from duplex.text import Tokenizer
from train.coded import CodedBank, ComposedSource
from train.data import DialogueData, MixedSource, ShardSource, Source
from train.files import trained_codec
from train.recipe import FitRecipe
from train.same_codes import same_codes, tuned_for
from train.shards import ShardSet, fingerprint
from train.stages import SoundSource, StageSource, TextSource
from train.synthesize import DialogueRecipe
from train.users_alone import ListeningSource


def check_corpus(config: LMConfig, metadata: dict[str, str], source: str) -> None:
    """Raises ConfigError when the shards do not fit the model."""
    wanted = {"cardinality": config.card, "vocabulary": config.text_card, "codebooks": StreamLayout.from_config(config).n_system}
    for name, value in wanted.items():
        if name in metadata and int(metadata[name]) != value:
            raise ConfigError(f"{source}: the shards have {name} {metadata[name]} but the recipe's model has {value}; "
                              "change the recipe or prepare the corpus again")


def data_of(args: argparse.Namespace, recipe: FitRecipe) -> DialogueData:
    """The stage's data, checked to fit the recipe."""
    s, config, name = recipe.train, recipe.model, str(args.recipe)
    text = text_test = None
    if recipe.data.kind == "text" or recipe.data.text_share:
        if not args.text:
            raise ConfigError(f"{name}: data.kind or data.text_share asks for text; give its shards with --text")
        text, text_test = (TextSource(ShardSet(args.text / split), config, s.frames, s.seed) for split in ("train", "test"))
        check_corpus(config, {"vocabulary": text.metadata["vocabulary"]}, str(args.text))
    if recipe.data.kind == "text":
        check_tools(args, recipe, text.metadata, str(args.text))
        return DialogueData(text, text_test, s.frames, s.batch, seed=s.seed)
    if not args.shards:
        raise ConfigError("--shards SHARDS is needed: its test/ is what the run is validated on")
    if s.heard and not args.coded:
        raise ConfigError("train.heard: the words that the user says come with --coded alone; give it, or set train.heard and "
                          "train.listen to 0")
    validation = ShardSet(args.shards / ("train" if recipe.data.first else "test"))
    source = source_of(args, recipe, validation)
    check_corpus(config, source.metadata, name)
    for key in ("codec", "tokenizer"):
        a, b = source.metadata.get(key), validation.metadata.get(key)
        if a and b and a != b:
            raise ConfigError(f"{args.shards}: its test/ was made with another {key} than the training data; prepare one of "
                              "them again")
    if text is not None and text.metadata.get("tokenizer") not in (None, source.metadata.get("tokenizer")):
        raise ConfigError(f"{args.text}: made with another tokenizer than {args.shards}; prepare one of them again")
    check_tools(args, recipe, validation.metadata, str(args.shards))
    staged = StageSource(source, config, recipe.data, s.seed, s.heard > 0)
    held = StageSource(WholeDialogues(validation, s.frames, recipe.data.first), config,
                       dataclasses.replace(recipe.data, swap_share=0.0, text_mask=0.0, text_shift=0.0), s.seed)
    staged.sample(0), held.sample(0)  # wrong rows are named before anything is built
    return DialogueData(staged, held, s.frames, s.batch, text=text, text_share=recipe.data.text_share, seed=s.seed,
                        watched=validation)


def check_tools(args: argparse.Namespace, recipe: FitRecipe, metadata: dict[str, str], source: str) -> None:
    """Raises ConfigError where the corpus was made with another codec than --codec, or another codec or tokenizer than --start
    has."""
    if args.codec and "codec" in metadata and metadata["codec"] != fingerprint(args.codec / "mimi.safetensors"):
        raise ConfigError(f"{source}: made with another codec than {args.codec}; give the one that it was prepared with")
    if not recipe.start.folder:
        return
    codec, tokenizer = (_named(recipe.start.folder, *names) for names in (("mimi_name", MIMI_NAMES), ("tokenizer_name", ())))
    if codec and "codec" in metadata and metadata["codec"] != fingerprint(codec):
        if not args.codec:
            print(f"{source}: not checked to hold the codes of {codec}; give --codec FOLDER of the one that it was prepared with",
                  file=sys.stderr)
        elif not (same_codes(args.codec / "mimi.safetensors", codec) or tuned_for(args.codec, codec)):
            raise ConfigError(f"{source}: its codes are not those of {codec}, whose model is to go on learning; prepare it again "
                              "with that one")
    if tokenizer and "tokenizer" in metadata:
        if metadata["tokenizer"] != fingerprint(tokenizer):
            raise ConfigError(f"{source}: made with another tokenizer than {tokenizer}; prepare it again with that one, or give "
                              "the weights the other's (python -m train.swap_tokenizer)")


def _named(folder: str, key: str, names: tuple[str, ...]) -> Path | None:
    """A file of a model folder; None in a folder of weights alone."""
    try:
        return open_folder(folder).file(key, names)
    except CheckpointError:
        return None


class WholeDialogues:
    """The first frames of dialogues, in order; of the first ``count`` ones alone where that is not 0."""

    def __init__(self, shards: ShardSet, frames: int, count: int = 0):
        self.shards, self.frames, self.metadata = shards, frames, shards.metadata
        self.count = min(count or len(shards), len(shards))

    def sample(self, position: int) -> torch.Tensor:
        return self.shards.dialogue(position % self.count)[:, : self.frames]


def source_of(args: argparse.Namespace, recipe: FitRecipe, validation: ShardSet) -> Source:
    """Where training samples come from: encoded dialogues, clips composed in token space, or sound."""
    s = recipe.train

    def shards() -> ShardSource:
        return ShardSource(ShardSet(args.shards / "train"), s.frames, s.seed, recipe.data.first)

    def needs(option: str, *others: str) -> None:
        missing = [f"--{other}" for other in others if not getattr(args, other)]
        if missing:
            raise ConfigError(f"--{option} needs {' and '.join(missing)} as well")

    if recipe.data.first and (args.coded or args.sound):
        raise ConfigError("data.first: counts the dialogues of --shards; leave --coded and --sound out")
    if args.coded and (args.sound or recipe.data.augment):
        raise ConfigError("--coded: composes codes, whose sound cannot be augmented; leave it out, or --sound and data.augment")
    if args.coded:
        needs("coded", "dialogues", "tokenizer")
        dialogues, tokenizer = load_toml(DialogueRecipe, args.dialogues), Tokenizer.load(args.tokenizer)
        bank = CodedBank(args.coded)
        source: Source = ComposedSource(bank, tokenizer, dialogues, s.frames, s.seed, s.heard > 0)
        if source.metadata["codec"] != validation.metadata["codec"]:
            raise ConfigError(f"{args.coded}: made with another codec than {args.shards}; encode one of them again")
        source.metadata = source.metadata | {"tokenizer": fingerprint(args.tokenizer)}
        if s.listen:
            source = MixedSource(source, ListeningSource(bank, tokenizer, s.frames, s.seed), s.listen, s.seed + 1)
        return MixedSource(source, shards(), args.real_share, s.seed) if args.real_share else source
    if args.sound or recipe.data.augment:
        if not args.sound:
            raise ConfigError("data.augment: the user's sound is augmented before the codec; give dialogues with --sound")
        needs("sound", "codec", "tokenizer")
        codec = trained_codec(args.codec, StreamLayout.from_config(recipe.model).n_system)
        if torch.cuda.is_available() and recipe.machine.accelerator != "cpu":
            codec.mimi.to("cuda")
        tokenizer = Tokenizer.load(args.tokenizer)
        made_with = {"codec": fingerprint(args.codec / "mimi.safetensors"), "tokenizer": fingerprint(args.tokenizer),
                     "cardinality": str(codec.cardinality), "vocabulary": str(tokenizer.vocab_size)}
        augment = recipe.augment if recipe.data.augment else None
        return SoundSource(Path(args.sound), codec, tokenizer, s.frames, s.seed, augment, made_with)
    return shards()
