"""Timed words to the inner-monologue row and back."""

from __future__ import annotations

import io
import string

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from duplex.errors import CheckpointError, InputError
from duplex.testing import ByteTokenizer
from duplex.text import EPAD_ID, PAD_ID, RowReader, Tokenizer, Word, row_to_words, words_to_row
from duplex.units import FRAME_SECONDS, seconds_to_frame

BYTES = ByteTokenizer()
CORPUS = ["hello there how are you doing today", "could you tell me about the weather in town",
          "the train leaves at nine and the next one at ten", "well that sounds like a very good plan to me"]


def train_sentencepiece(**options) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(CORPUS * 20), model_writer=model, vocab_size=options.pop("vocab_size", 340),
        unk_id=0, bos_id=1, eos_id=2, pad_id=3, minloglevel=2, hard_vocab_limit=False, **options)
    return model.getvalue()


@pytest.fixture(scope="module")
def pieces(tmp_path_factory) -> Tokenizer:
    path = tmp_path_factory.mktemp("text") / "tokenizer.model"
    path.write_bytes(train_sentencepiece(byte_fallback=True, normalization_rule_name="identity"))
    return Tokenizer.load(path)


# Words as transcripts have them: no white space inside, any script. U+2581 is sentencepiece's own space.
letters = st.characters(exclude_categories=("Z", "C"), exclude_characters="\u2581")
spoken = st.text(letters, min_size=1, max_size=9)
english = st.text(string.ascii_lowercase + "'", min_size=1, max_size=8)


@st.composite
def timed(draw, texts=spoken, longest_gap=60):
    """Words with starts on any millisecond, from talk in one burst to talk with long pauses."""
    start, words = 0.0, []
    for text in draw(st.lists(texts, max_size=12)):
        start += draw(st.integers(0, longest_gap * 80)) / 1000
        words.append(Word(text, round(start, 3), round(start, 3) + 0.1))
    return words


def rows_by_hand(words, tokenizer, n_frames):
    """The rule of the row, written without any cleverness: walk the frames with a queue of tokens."""
    row, queue = [], []
    waiting = sorted(words, key=lambda word: word.start)
    while len(row) < n_frames:
        while waiting and seconds_to_frame(waiting[0].start) <= len(row):
            queue += tokenizer.encode(waiting.pop(0).text)
        row.append(queue.pop(0) if queue else None)
    for frame in range(n_frames):
        if row[frame] is None:
            starts = frame + 1 < n_frames and row[frame + 1] not in (None, tokenizer.epad_id)
            row[frame] = tokenizer.epad_id if starts else tokenizer.pad_id
    return row


@given(timed())
def test_every_word_survives_the_row(words):
    read = row_to_words(words_to_row(words, None, BYTES), BYTES)
    assert [word.text for word in read] == [word.text for word in words]


@given(timed())
def test_words_start_on_their_frame_or_as_soon_as_the_words_before_are_out(words):
    free = 0
    for word, read in zip(words, row_to_words(words_to_row(words, None, BYTES), BYTES), strict=True):
        frame = max(free, seconds_to_frame(word.start))
        assert read.start == pytest.approx(frame * FRAME_SECONDS)
        free = frame + len(BYTES.encode(word.text))


@given(timed())
def test_row_equals_the_rule_written_by_hand(words):
    row = words_to_row(words, None, BYTES)
    assert row.tolist() == rows_by_hand(words, BYTES, len(row))


@given(timed(), st.integers(0, 200))
def test_a_fixed_length_keeps_the_words_that_fit(words, n_frames):
    row, whole = words_to_row(words, n_frames, BYTES), words_to_row(words, None, BYTES)
    assert row.shape == (n_frames,)
    kept = row_to_words(row, BYTES)
    assert [word.text for word in kept] == [word.text for word in words[: len(kept)]]
    spare = [token for token in row if token not in (PAD_ID, EPAD_ID)]
    assert spare == [token for token in whole if token not in (PAD_ID, EPAD_ID)][: len(spare)]
    if n_frames >= len(whole):
        assert len(kept) == len(words)


@given(timed(), st.integers(0, 30))
def test_ends_are_after_starts_and_before_the_next_word(words, tail):
    row = np.append(words_to_row(words, None, BYTES), [PAD_ID] * tail)
    read = row_to_words(row, BYTES)
    for word, following in zip(read, read[1:], strict=False):
        assert word.start < word.end <= following.start
    if read:
        assert read[-1].start < read[-1].end <= len(row) * FRAME_SECONDS + 1e-9


@given(timed(), st.integers(0, 60))
def test_a_reader_cut_and_continued_gives_the_same(words, cut):
    row = [int(token) for token in words_to_row(words, None, BYTES)]
    reader = RowReader(BYTES)
    first = [reader.push(token) for token in row[:cut]]
    copy, kept = reader.clone(), RowReader.from_dict(BYTES, reader.to_dict())
    for token in row[cut:]:
        reader.push(token)  # must not disturb the copies
    for continued in (copy, kept):
        rest = [continued.push(token) for token in row[cut:]]
        found = [word for _, ended in first + rest for word in ended] + list(continued.flush())
        assert found == row_to_words(row, BYTES)


@given(timed())
def test_words_are_told_when_they_end_and_never_before(words):
    row = np.append(words_to_row(words, None, BYTES), [PAD_ID] * 40)
    reader = RowReader(BYTES)
    for frame, token in enumerate(row):
        for word in reader.push(int(token))[1]:
            # Known at the end of the frame, or at the start of the next word, which then is the word's end.
            assert (frame - 1) * FRAME_SECONDS <= word.end - 1e-9 <= (frame + 1) * FRAME_SECONDS
    assert reader.flush() == ()


@given(st.lists(st.integers(0, BYTES.vocab_size - 1), max_size=60))
def test_streamed_text_never_holds_half_a_character(row):
    reader = RowReader(BYTES)
    shown = [reader.push(token)[0] for token in row]
    shown.append(reader.push(PAD_ID)[0])
    joined = "".join(shown)
    joined.encode()  # no lone surrogates
    # A PAD cuts a character off; without one, what is shown is what the bytes say.
    if not {0, 1, 2, 3} & set(row):
        assert joined == bytes(token - 4 for token in row).decode(errors="replace")


def test_a_character_appears_with_its_last_byte():
    reader = RowReader(BYTES)
    assert [reader.push(token)[0] for token in BYTES.encode("\u00fc\u20ac\U0001f600")] == [
        " ", "", "\u00fc", "", "", "\u20ac", "", "", "", "\U0001f600"]


def test_the_picture_in_the_documentation():
    tokens = {" hello": [10, 11], " you": [20]}

    class TwoWords(ByteTokenizer):
        def encode(self, text):
            return tokens[f" {text}"]

        def piece_bytes(self, token):
            return {10: b" hel", 11: b"lo", 20: b" you"}.get(token, b"")

    row = words_to_row([Word("hello", 0.16, 0.4), Word("you", 0.56, 0.7)], 9, TwoWords())
    assert row.tolist() == [PAD_ID, EPAD_ID, 10, 11, PAD_ID, PAD_ID, EPAD_ID, 20, PAD_ID]
    read = row_to_words(row, TwoWords())
    assert [(word.text, word.start) for word in read] == [("hello", 0.16), ("you", 0.56)]


@given(words=timed(english))
def test_sentencepiece_words_survive(pieces, words):
    read = row_to_words(words_to_row(words, None, pieces), pieces)
    assert [word.text for word in read] == [word.text for word in words]


@given(text=spoken)
def test_byte_fallback_spells_any_script(pieces, text):
    ids = pieces.encode(text)
    assert pieces.decode(ids) == text
    reader = RowReader(pieces)
    assert "".join(reader.push(token)[0] for token in ids) == f" {text}"


@settings(max_examples=30)
@given(text=st.text(max_size=20))
def test_encode_never_gives_pad_or_epad(pieces, text):
    assert not {PAD_ID, EPAD_ID} & set(pieces.encode(text))


def test_characters_without_an_id_are_left_out_rather_than_becoming_epad(tmp_path):
    path = tmp_path / "latin.model"
    path.write_bytes(train_sentencepiece(vocab_size=60))
    tokenizer = Tokenizer.load(path)
    assert tokenizer.decode(tokenizer.encode("the \u6f22 train")).split() == ["the", "train"]


@pytest.mark.parametrize("content", [b"", b"not a model", bytes(100), None])
def test_a_bad_tokenizer_file_is_named(tmp_path, content):
    path = tmp_path / "tokenizer.model"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match="tokenizer.model") as caught:
        Tokenizer.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("token", [-1, -2, 10_000])
def test_a_token_outside_the_vocabulary_is_an_input_error(pieces, token):
    for tokenizer in (pieces, BYTES):
        with pytest.raises(InputError, match="outside the vocabulary"):
            RowReader(tokenizer).push(token)


@pytest.mark.parametrize("start", [-0.1, float("nan"), float("inf")])
def test_a_word_cannot_start_before_zero_or_nowhere(start):
    with pytest.raises(InputError, match="hello"):
        words_to_row([Word("hello", start, 1.0)], None, BYTES)
