"""Train a sentencepiece tokenizer with Moshi's special ids on the words of recordings or on plain text.

    python -m train.tokenizer DIALOGUES [--text FILE.txt …] --size 640 --out tokenizer.model
"""

from __future__ import annotations

import argparse
import io
from collections import defaultdict
from pathlib import Path

import sentencepiece

from duplex.errors import InputError
from duplex.text import EPAD_ID, PAD_ID
from train import cli
from train.files import replace_file
from train.own.labels import read_spoken
from train.own.layout import find_items


def train_tokenizer(texts: list[str], size: int, coverage: float = 1.0) -> bytes:
    """A unigram model with byte fallback; ids 0 EPAD (unknown), 1 begin, 2 end, 3 PAD, as in Moshi's tokenizer.

    ``coverage`` is the share of the characters that get pieces; the rest is spelt in bytes. Where the texts do not give
    ``size`` pieces there are fewer. Equal texts give equal bytes. InputError when ``size`` is too small for the characters.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts), model_writer=model, vocab_size=size, model_type="unigram", byte_fallback=True,
            character_coverage=coverage, unk_id=EPAD_ID, bos_id=1, eos_id=2, pad_id=PAD_ID, hard_vocab_limit=False,
            minloglevel=2, num_threads=1, shuffle_input_sentence=False)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1][-160:]
        raise InputError(f"--size {size}: no tokenizer can be trained ({reason}); the 256 bytes and every character need a "
                         "piece each") from None
    return model.getvalue()


def spoken_texts(root: Path) -> list[str]:
    """What is said in the recordings of a folder, one string a speaker and recording. Folders of splits are read as one."""
    folders = [root]
    if root.is_dir() and not (root / "audio").is_dir():
        folders += sorted(path for path in root.rglob("*") if path.is_dir())
    texts = []
    for folder in folders:
        try:
            items = find_items(folder)
        except InputError:
            continue  # a folder that only holds others
        for item in items:
            if item.labels is None:
                continue
            said: dict[str, list[str]] = defaultdict(list)
            for word in read_spoken(item.labels, max_overlap=float("inf")):
                said[word.speaker].append(word.text)
            texts += [" ".join(words) for words in said.values()]
    return texts


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser("tokenizer", __doc__)
    parser.add_argument("dialogues", type=Path, nargs="?", help="folder of recordings with words, or of such folders")
    parser.add_argument("--text", type=Path, nargs="+", default=[], help="plain text, one sentence a line, as well")
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--coverage", type=float, default=1.0, help="share of the characters that get pieces of their own")
    parser.add_argument("--out", type=Path, required=True)
    return cli.run(parser, run, argv)


def run(args: argparse.Namespace) -> None:
    """Writes the tokenizer of the texts."""
    texts = spoken_texts(args.dialogues) if args.dialogues else []
    for path in args.text:
        texts += [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not texts:
        raise InputError(f"{args.dialogues}: no alignment files (*.json); synthesise or annotate dialogues first, or give --text")
    data = train_tokenizer(texts, args.size, args.coverage)
    replace_file(args.out, lambda part: part.write_bytes(data))
    pieces = sentencepiece.SentencePieceProcessor(model_proto=data).vocab_size()
    print(f"{args.out}: {pieces} pieces from {sum(len(t.split()) for t in texts)} words")


if __name__ == "__main__":
    raise SystemExit(main())
