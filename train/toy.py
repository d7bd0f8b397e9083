"""The whole way of a training run in a minute or two: conversations of tones, a recipe, a run, and a word with what came out.

    python -m train.toy --out out/toy

The user hums a low tone, and a third of a second after it has ended the system says "hello there", which sounds like a high tone.
The codec hears nothing but tones and has nothing to learn. A stopped run goes on where it was; `notebooks/train_a_toy.ipynb`
takes the same steps one by one.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from duplex.checkpoint import LoadedModel
from duplex.config import SamplingConfig
from duplex.overlay import load_toml
from duplex.session import Session
from duplex.simulate import simulate
from duplex.testing import fake_loaded_model, tone
from duplex.text import Word, words_to_row
from duplex.units import FRAME_SAMPLES, FRAME_SECONDS, SAMPLE_RATE, frames_to_samples
from train import cli
from train.data import DialogueData, ShardSource
from train.fit import check_resume, fit
from train.recipe import FitRecipe
from train.shards import Encoded, Mark, ShardSet, write_shard

RECIPE = Path(__file__).parent / "recipes" / "toy.toml"
FRAMES, GAP = 150, 4
QUESTIONS = ((27, 50), (85, 112))
"""Between which frames the user begins to hum."""
HUMS = (3.0, 8.0)
"""Seconds at which the user of the last conversation hums."""


def conversation(rng: np.random.Generator, model: LoadedModel) -> tuple[np.ndarray, tuple[Mark, ...]]:
    """Codes int64 [1 + 2K, 150] of two questions and their answers, and where the questions are."""
    system, user = np.zeros((2, frames_to_samples(FRAMES)), np.float32)
    words, marks = [], []
    for first, last in QUESTIONS:
        question, asked = int(rng.integers(first, last)), int(rng.integers(6, 14))
        answer = question + asked + GAP
        for track, start, length, hertz in ((user, question, asked, 100.0), (system, answer, 12, 200.0)):
            samples = tone(length * FRAME_SECONDS, hertz)
            track[start * FRAME_SAMPLES :][: len(samples)] = samples
        at = answer * FRAME_SECONDS
        words += [Word("hello", at, at + 0.4), Word("there", at + 0.64, at + 0.9)]
        marks.append(Mark("user_turn", question, question + asked))
    codes = model.codec.encode(torch.from_numpy(np.stack([system, user])[:, None])).numpy()
    return np.concatenate([words_to_row(words, FRAMES, model.tokenizer)[None], *codes]), tuple(marks)


def write_shards(folder: Path, model: LoadedModel, dialogues: int = 64, held: int = 8) -> None:
    """SHARDS/train and SHARDS/test of so many conversations each; equal ones every time."""
    about = {"codec": "tones", "tokenizer": "bytes", "codebooks": str(model.codec.n_codebooks),
             "vocabulary": str(model.tokenizer.vocab_size), "cardinality": str(model.codec.cardinality)}
    for seed, (split, count) in enumerate((("train", dialogues), ("test", held))):
        (folder / split).mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(seed)
        made = [Encoded(f"{split}-{n}", codes, np.full(FRAMES, model.tokenizer.pad_id), marks)
                for n, (codes, marks) in enumerate(conversation(rng, model) for _ in range(count))]
        write_shard(folder / split / "shard-00000.safetensors", made, about)


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser("toy", __doc__)
    parser.add_argument("--out", type=Path, default=Path("out/toy"))
    parser.add_argument("--steps", type=int, help="fewer than the recipe's 250, for a quick look")
    return cli.run(parser, run, argv)


def run(args: argparse.Namespace) -> None:
    """Makes the conversations, trains, and hums at the model."""
    torch.set_num_threads(1)
    begun = time.monotonic()
    recipe = load_toml(FitRecipe, RECIPE, {} if args.steps is None else {"train.steps": args.steps})
    model, train = fake_loaded_model(config=recipe.model), recipe.train
    check_resume(args.out / "run", recipe)
    write_shards(args.out / "shards", model)
    source = ShardSource(ShardSet(args.out / "shards" / "train"), train.frames, train.seed)
    data = DialogueData(source, ShardSet(args.out / "shards" / "test"), train.frames, train.batch)
    module = fit(recipe, data, args.out / "run")
    steps = [json.loads(line) for line in (args.out / "run" / "ledger.jsonl").read_text().splitlines()]
    weights = sum(p.numel() for p in module.model.parameters()) / 1e6
    print(f"\n{weights:.2f} M parameters, loss {steps[0]['loss']:.2f} at first and {steps[-1]['loss']:.2g} after "
          f"{len(steps)} steps, "
          f"{time.monotonic() - begun:.0f} s")
    user_pcm = np.zeros(12 * SAMPLE_RATE, np.float32)
    for second in HUMS:
        hum = tone(0.8, 100.0)
        user_pcm[round(second * SAMPLE_RATE) :][: len(hum)] = hum
    heard = simulate(Session(replace(model, lm=module.model.eval()), SamplingConfig(greedy=True)), user_pcm)
    print(f"the user hums at {' s and '.join(format(second, 'g') for second in HUMS)} s for 0.8 s; the system says",
          ", ".join(f"{word.text!r} at {word.start:.2f} s" for word in heard.words) or "nothing")


if __name__ == "__main__":
    raise SystemExit(main())
