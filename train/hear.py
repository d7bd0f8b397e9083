"""How well a run hears: the words that its listening head finds in clips of new and of known voices.

    python -m train.hear --run RUN --bank BANK --codec CODEC --tokenizer FILE.model [--clips 200] [--json FILE]

A model whose answers are wrong has either not heard the question or not known the answer. The head that is trained beside the
language model (`train.heard`, see `train.listening`) tells the two apart. Clips are encoded anew, anywhere in a frame, with faint
noise, between silences; the system is silent. Word error rate: a piece that comes twice running counts once, as the head sees
every frame by itself; so do words.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from duplex.codec import MimiCodec
from duplex.errors import CheckpointError
from duplex.metrics.words import errors, spoken_words
from duplex.model.lm import DuplexLM
from duplex.streams import StreamLayout
from duplex.text import TextTokenizer, Tokenizer
from train import cli
from train.coded import START_UP, Job, encode_stream, noise
from train.corpus.bank import Bank, Clip
from train.corpus.casting import anybody
from train.corpus.exchange import split_key
from train.corpus.speakers import HELD_OUT
from train.export import trained_model
from train.files import replace_file, trained_codec
from train.keeping import resume_point
from train.listening import Listener, beside_silence

LEVEL = 1
"""Noise level of `train.coded`."""
TOGETHER = 8
"""Clips that are encoded in one go: about 20 s."""
LATE = 4
"""Frames after a clip's start before which no word of it is named: what is heard comes 0.48 s late."""


def listener_of(run: Path) -> tuple[DuplexLM, Listener]:
    """The newest model of RUN with its head; CheckpointError where it was trained without one."""
    model = trained_model(run)
    state = torch.load(resume_point(run), weights_only=True, map_location="cpu")["state_dict"]
    head = {name.removeprefix("listener."): value for name, value in state.items() if name.startswith("listener.")}
    if not head:
        raise CheckpointError(f"{run}: was trained without a listening head; train with --set train.heard=2")
    listener = Listener(model)
    listener.load_state_dict(head)
    return model.eval(), listener


def without_repeats(items: list) -> list:
    return [item for n, item in enumerate(items) if n == 0 or item != items[n - 1]]


@torch.no_grad()
def heard_in(codes: np.ndarray, silence: np.ndarray, model: DuplexLM, listener: Listener) -> list[int]:
    """The head's choice in each of T frames of the user's codes int16 [K, T], beside a silent system."""
    user, quiet = (torch.from_numpy(rows.astype(np.int64)) for rows in (codes, silence[:, START_UP:]))
    rows = beside_silence(model, user[None], quiet)
    model(rows, depth_index=torch.zeros(0, dtype=torch.long))
    return listener.head(listener.hidden)[0].argmax(-1).tolist()


def clips_of(bank: Bank, count: int, seed: int) -> dict[str, list[Clip]]:
    """``count`` clips of held-out and of known speakers each, without sounds and mumbling."""
    spoken = [c for c in bank.clips if c.role == "user" and not split_key(c.text)[1] and not anybody(c.text)]
    rng = np.random.default_rng(seed)
    groups = {"new voices": [c for c in spoken if c.speaker in HELD_OUT],
              "known voices": [c for c in spoken if c.speaker not in HELD_OUT]}
    return {name: [clips[i] for i in rng.permutation(len(clips))[:count]] for name, clips in groups.items()}


def recognised(bank: Bank, clips: list[Clip], codec: MimiCodec, model: DuplexLM, listener: Listener, tokenizer: TextTokenizer,
               seed: int) -> Iterator[tuple[Clip, list[str]]]:
    """Each clip with the words that the head found in it."""
    silence = codec.encode(torch.from_numpy(noise(np.random.default_rng(seed), 0, 24_000 * 4))[None, None])[0].numpy()
    for first in range(0, len(clips), TOGETHER):
        job = Job("user", LEVEL, clips[first : first + TOGETHER])
        codes, places = encode_stream(bank, codec, job, (seed, 7, first))
        found = heard_in(codes, silence, model, listener)
        for clip, (_, _, start, frames) in zip(job.clips, places, strict=True):
            pieces = without_repeats([i for i in found[start + LATE : start + frames + 1] if tokenizer.piece_bytes(i)])
            yield clip, without_repeats(spoken_words(tokenizer.decode(pieces)))


def add_options(parser: cli.Parser) -> None:
    """What `measure` is told."""
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--bank", type=Path, required=True)
    parser.add_argument("--codec", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=200, help="clips of each group")
    parser.add_argument("--seed", type=int, default=0)
    cli.add_threads(parser)


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser("hear", __doc__)
    add_options(parser)
    parser.add_argument("--json", type=Path, help="write the figures there")
    return cli.run(parser, run, argv)


def measure(args: argparse.Namespace) -> dict[str, dict]:
    """{group, or group and engine: {"wer", "words", "clips"}}; the words are those that were said."""
    model, listener = listener_of(args.run)
    codec = trained_codec(args.codec, StreamLayout.from_config(model.config).n_user)
    bank, tokenizer = Bank(args.bank), Tokenizer.load(args.tokenizer)
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for group, clips in clips_of(bank, args.clips, args.seed).items():
        for clip, words in recognised(bank, clips, codec, model, listener, tokenizer, args.seed):
            wanted = without_repeats(spoken_words(clip.text))
            for name in (group, f"{group}, {clip.engine}"):
                counts[name] = [a + b for a, b in zip(counts[name], (errors(wanted, words), len(wanted), 1), strict=True)]
    return {name: {"wer": wrong / count, "words": count, "clips": clips} for name, (wrong, count, clips) in counts.items()}


def run(args: argparse.Namespace) -> None:
    """Prints the word error rate of each group and engine."""
    found = measure(args)
    for name, row in found.items():
        print(f"{name:28} {100 * row['wer']:5.1f} % of {row['words']} words wrong ({row['clips']} clips)")
    if args.json:
        replace_file(args.json, lambda path: path.write_text(json.dumps(found, indent=1)))


if __name__ == "__main__":
    raise SystemExit(main())
