"""Give a model another tokenizer: another language or vocabulary, with the weights that it has.

    python -m train.swap_tokenizer MODEL --tokenizer NEW.model --out FOLDER

Pieces that both tokenizers have keep their embeddings and their rows of the text head, so that their logits stay what they
were; a new piece starts as the mean of the old pieces that spell it. Everything else of the model is kept. The text of
training shards must be prepared again with the new tokenizer.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import sentencepiece
import torch
from torch import Tensor

from duplex.checkpoint import load_model
from duplex.config import FOLDER_KEYS, LMConfig
from duplex.errors import CheckpointError, ConfigError
from duplex.model.lm import DuplexLM
from duplex.saving import OWN_NAME, save_lm
from duplex.text import Tokenizer
from train import cli

EMBEDDINGS = ("text_emb.weight", "depformer_text_emb.weight")
"""Tables with one row a piece and one more for "before the first frame"."""
HEADS = ("text_linear.weight", "text_linear.bias")
Sources = list[list[int]]
"""For each new piece the old pieces whose mean it is."""


def load_pieces(path: Path) -> sentencepiece.SentencePieceProcessor:
    """A sentencepiece model; CheckpointError when the file is none."""
    Tokenizer.load(path)  # says what is wrong with it
    return sentencepiece.SentencePieceProcessor(str(path))


def sources(old: sentencepiece.SentencePieceProcessor, new: sentencepiece.SentencePieceProcessor, pad_id: int,
            epad_id: int) -> Sources:
    """The old pieces that each new one is made of: itself if there, else those that spell it; all of them if none do.

    Raises ConfigError when the new tokenizer has text where the model has PAD or EPAD.
    """
    for name, token in (("PAD", pad_id), ("EPAD", epad_id)):
        plain = token < new.vocab_size() and not (new.IsControl(token) or new.IsUnknown(token) or new.IsUnused(token))
        if token >= new.vocab_size() or plain:
            what = new.IdToPiece(token) if token < new.vocab_size() else "nothing"
            raise ConfigError(f"the new tokenizer has {what!r} at id {token}, where the model has {name}; train it with "
                              "python -m train.tokenizer, which keeps the special ids")
    special = {pad_id, epad_id}
    known = {old.IdToPiece(token): token for token in range(old.vocab_size()) if token not in special}
    everything = [t for t in range(old.vocab_size()) if not (old.IsControl(t) or old.IsUnknown(t) or old.IsByte(t))]
    result: Sources = []
    for token in range(new.vocab_size()):
        piece = new.IdToPiece(token)
        if token in special:
            result.append([token])
        elif piece in known:
            result.append([known[piece]])
        else:
            result.append(_spelling(old, piece) or everything)
    return result


def _spelling(old: sentencepiece.SentencePieceProcessor, piece: str) -> list[int]:
    text = piece.replace("\u2581", " ")
    tokens = old.EncodeAsIds(text.strip())
    if text[:1] != " " and tokens and old.IdToPiece(tokens[0]) == "\u2581":
        tokens = tokens[1:]  # the old tokenizer's mark of a word that this piece does not begin
    return [t for t in tokens if not old.IsUnknown(t)]


def resized(table: Tensor, made_of: Sources, extra: int) -> Tensor:
    """Rows of the new table: means of old rows, in float32, then the last ``extra`` rows as they were."""
    wide = table.float()
    rows = [wide[tokens[0]] if len(tokens) == 1 else wide[tokens].mean(0) for tokens in made_of]
    return torch.cat([torch.stack(rows), wide[len(wide) - extra :]]).to(table.dtype)


def swap(model: DuplexLM, made_of: Sources) -> DuplexLM:
    """A model like ``model`` over the new vocabulary. Raises ConfigError for one whose text tables are of another kind."""
    c = model.config
    if c.demux_second_stream:
        raise ConfigError("a model with two text streams in one table cannot be given another tokenizer; use another model")
    state = dict(model.state_dict())
    old, size = c.text_card, len(made_of)
    for name in EMBEDDINGS:
        if name in state:
            if len(state[name]) != old + 1:
                raise CheckpointError(f"{name} has {len(state[name])} rows, not the {old + 1} of its vocabulary; copy the "
                                      "checkpoint again")
            state[name] = resized(state[name], made_of, 1)
    for name in HEADS:
        if name in state:
            if len(state[name]) != old:
                raise ConfigError(f"the text head has {len(state[name])} rows for {old} pieces; such a model keeps its tokenizer")
            state[name] = resized(state[name], made_of, 0)
    changes = {"text_card": size} | ({"text_card_out": size} if c.text_card_out else {})
    config: LMConfig = dataclasses.replace(c, **changes)
    twin = DuplexLM(config).to(next(model.parameters()).dtype)
    twin.load_state_dict(state)
    return twin.eval()


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser("swap_tokenizer", __doc__)
    parser.add_argument("model", help='folder, hub id, or "tiny"')
    parser.add_argument("--tokenizer", type=Path, required=True, help="sentencepiece model with PAD and EPAD at the model's ids")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--half", action="store_true", help="store the language model as 16-bit floats")
    return cli.run(parser, run, argv)


def run(args: argparse.Namespace) -> None:
    """Writes the model folder, whole or not at all."""
    loaded = load_model(args.model)
    c = loaded.config
    new = load_pieces(args.tokenizer)
    old = load_pieces(_tokenizer_file(loaded.folder))
    made_of = sources(old, new, c.existing_text_padding_id, c.existing_text_end_padding_id)
    kept = sum(len(tokens) == 1 and old.IdToPiece(tokens[0]) == new.IdToPiece(n) for n, tokens in enumerate(made_of))
    described = {key: value for key, value in loaded.meta.items() if key in FOLDER_KEYS and not key.endswith("_name")
                 and key != "mimi_config"}
    save_lm(swap(loaded.lm, made_of), args.out, described, codec=loaded.codec, tokenizer=args.tokenizer,
            own=loaded.meta.get(OWN_NAME), dtype=torch.float16 if args.half else None)
    print(f"{args.out}: {new.vocab_size()} pieces, {kept} kept from the {old.vocab_size()} of {args.model}, "
          f"{new.vocab_size() - kept} new")


def _tokenizer_file(folder: Path) -> Path:
    from duplex.checkpoint import TOKENIZER_NAMES, open_folder

    return open_folder(folder).file("tokenizer_name", TOKENIZER_NAMES)


if __name__ == "__main__":
    raise SystemExit(main())
