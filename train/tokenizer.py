"""Train a sentencepiece tokenizer with Moshi's special ids on the texts of a corpus.

    python -m train.tokenizer DIALOGUES --size 640 --out tokenizer.model
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import sentencepiece

from duplex.errors import InputError
from duplex.text import EPAD_ID, PAD_ID
from train import cli
from train.files import replace_file
from train.prepare import read_words


def train_tokenizer(texts: list[str], size: int) -> bytes:
    """A unigram model with byte fallback; ids 0 EPAD (unknown), 1 begin, 2 end, 3 PAD, as in Moshi's tokenizer."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, vocab_size=size, model_type="unigram", byte_fallback=True,
        character_coverage=1.0, unk_id=EPAD_ID, bos_id=1, eos_id=2, pad_id=PAD_ID, hard_vocab_limit=False,
        minloglevel=2, num_threads=1, shuffle_input_sentence=False)
    return model.getvalue()


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser("tokenizer", __doc__)
    parser.add_argument("dialogues", type=Path)
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--out", type=Path, required=True)
    return cli.run(parser, run, argv)


def run(args: argparse.Namespace) -> None:
    """Writes the tokenizer of a folder's dialogues."""
    texts = [" ".join(word.text for word in read_words(path)) for path in sorted(args.dialogues.rglob("*.json"))]
    if not texts:
        raise InputError(f"{args.dialogues}: no alignment files (*.json); synthesise or annotate dialogues first")
    replace_file(args.out, lambda part: part.write_bytes(train_tokenizer(texts, args.size)))


if __name__ == "__main__":
    raise SystemExit(main())
