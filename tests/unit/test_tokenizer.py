"""Training a tokenizer, and swapping the one of a checkpoint: shared pieces keep their embeddings and their logits."""

import io
import json

import pytest
import sentencepiece
import torch
from own_recordings import converse

from duplex.checkpoint import load_model
from duplex.errors import ConfigError
from train import swap_tokenizer, tokenizer
from train.swap_tokenizer import load_pieces, resized, sources

OTHER = ["hallo wie geht es dir", "hello there how are you today", "der zug kommt um neun", "the train is late", "vielen dank"]


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "new.model"
    path.write_bytes(tokenizer.train_tokenizer(OTHER * 20, 340))
    return path


@pytest.fixture(scope="module")
def swapped(saved, other, tmp_path_factory):
    out = tmp_path_factory.mktemp("swapped") / "model"
    assert swap_tokenizer.main([str(saved), "--tokenizer", str(other), "--out", str(out)]) == 0
    return out


def processors(saved, other):
    return load_pieces(saved / "tokenizer.model"), load_pieces(other)


def test_shared_pieces_keep_their_logits(saved, other, swapped):
    old, new = processors(saved, other)
    shared = [(old.PieceToId(new.IdToPiece(n)), n) for n in range(new.vocab_size()) if n > 3
              and old.IdToPiece(old.PieceToId(new.IdToPiece(n))) == new.IdToPiece(n)]
    pairs = [(0, 0), (3, 3), *shared]
    assert len(shared) >= 10 and new.vocab_size() > old.vocab_size()
    before, after = load_model(saved), load_model(swapped)
    assert after.config.text_card == after.tokenizer.vocab_size == new.vocab_size()
    generator = torch.Generator().manual_seed(0)
    pick = torch.randint(0, len(pairs), (2, 1, 30), generator=generator)
    audio = torch.randint(0, before.config.card, (2, before.config.n_q, 30), generator=generator)
    tokens = torch.tensor(pairs)
    with torch.no_grad():
        one = before.lm(torch.cat([tokens[pick][..., 0], audio], 1))
        two = after.lm(torch.cat([tokens[pick][..., 1], audio], 1))
    assert torch.allclose(one.text_logits[..., tokens[:, 0]], two.text_logits[..., tokens[:, 1]], atol=1e-5, equal_nan=True)
    assert torch.allclose(one.logits, two.logits, atol=1e-5, equal_nan=True)


def test_new_pieces_are_means_of_what_spells_them(saved, other, swapped):
    old, new = processors(saved, other)
    table_old, table_new = load_model(saved).lm.text_emb.weight, load_model(swapped).lm.text_emb.weight
    assert torch.equal(table_old[-1], table_new[-1])  # "before the first frame" stays the last row
    checked = 0
    for token in range(4, new.vocab_size()):
        piece = new.IdToPiece(token)
        spelling = [t for t in old.EncodeAsIds(piece.replace("\u2581", " ").strip()) if not old.IsUnknown(t)]
        if old.IdToPiece(old.PieceToId(piece)) != piece and piece.startswith("\u2581") and len(spelling) > 1:
            assert torch.allclose(table_new[token], table_old[spelling].mean(0), atol=1e-6)
            checked += 1
    assert checked >= 2


def test_there_and_back_again_is_the_same_model(saved, swapped, tmp_path):
    """Every piece of the small vocabulary that the large one shares comes home unchanged."""
    arguments = [str(swapped), "--tokenizer", str(saved / "tokenizer.model"), "--out", str(tmp_path / "back")]
    assert swap_tokenizer.main(arguments) == 0
    old, new = processors(saved, swapped / "tokenizer.model")
    one, two = load_model(saved).lm.state_dict(), load_model(tmp_path / "back").lm.state_dict()
    shared = [t for t in range(old.vocab_size()) if new.IdToPiece(new.PieceToId(old.IdToPiece(t))) == old.IdToPiece(t)]
    for name in one:
        rows = shared if name in (*swap_tokenizer.EMBEDDINGS, *swap_tokenizer.HEADS) else slice(None)
        assert torch.equal(one[name][rows], two[name][rows]), name


def test_a_tokenizer_without_the_special_ids_is_refused(saved, tmp_path, capsys):
    plain = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(OTHER * 20), model_writer=plain, vocab_size=60,
                                             hard_vocab_limit=False, minloglevel=2)
    (tmp_path / "plain.model").write_bytes(plain.getvalue())
    old, new = processors(saved, tmp_path / "plain.model")
    with pytest.raises(ConfigError, match="at id 3, where the model has PAD"):
        sources(old, new, 3, 0)
    arguments = [str(saved), "--tokenizer", str(tmp_path / "plain.model"), "--out", str(tmp_path / "out")]
    assert swap_tokenizer.main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not (tmp_path / "out").exists()


def test_rows_are_resized_in_their_own_type():
    table = torch.arange(8.0).reshape(4, 2).half()
    new = resized(table, [[0], [2], [0, 2]], 1)
    assert new.dtype == torch.float16 and new.tolist() == [[0, 1], [4, 5], [2, 3], [6, 7]]


def test_the_tokenizer_learns_what_both_speakers_say(tmp_path, capsys):
    conversation = converse(2, 12.0)
    conversation.write(tmp_path / "set" / "train", "a")
    arguments = [str(tmp_path / "set"), "--size", "300", "--out", str(tmp_path / "t.model")]
    assert tokenizer.main(arguments) == 0
    first = (tmp_path / "t.model").read_bytes()
    assert tokenizer.main(arguments) == 0 and (tmp_path / "t.model").read_bytes() == first
    processor = load_pieces(tmp_path / "t.model")
    assert [processor.IdToPiece(n) for n in range(4)] == ["<unk>", "<s>", "</s>", "<pad>"]
    for word in (*conversation.system, *conversation.user):
        assert processor.decode(processor.encode(word.text)) == word.text
    letters = {letter for w in (*conversation.system, *conversation.user) for letter in w.text}
    assert letters <= {processor.IdToPiece(n) for n in range(processor.vocab_size())}
    (tmp_path / "t.txt").write_text("\u00fcber den fluss\n" * 9)
    assert tokenizer.main([*arguments, "--text", str(tmp_path / "t.txt")]) == 0
    assert "\u00fc" in json.dumps([load_pieces(tmp_path / "t.model").IdToPiece(n) for n in range(300)], ensure_ascii=False)


def test_too_small_a_vocabulary_is_one_line(tmp_path, capsys):
    (tmp_path / "t.txt").write_text("hello there\n" * 9)
    assert tokenizer.main(["--text", str(tmp_path / "t.txt"), "--size", "40", "--out", str(tmp_path / "t.model")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: --size 40") and err.count("\n") == 1 and not (tmp_path / "t.model").exists()
