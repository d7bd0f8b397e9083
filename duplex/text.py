"""The inner monologue: timed words to a row of one text token per frame, and back (arXiv:2410.00037, 3.4.4).

A word's tokens start on the frame in which the word starts. The frames until the next word hold PAD, and the
frame before the next word holds EPAD wherever that frame is free:

    time   0    1    2    3    4    5    6    7          tokens of "hello": _hel lo; of "you": _you
    row   PAD EPAD _hel  lo  PAD  PAD EPAD _you          words: hello @ 2, you @ 7

A word with more tokens than frames before the next word pushes the next word on, and words spoken faster than
one token per frame queue up: none is lost. A new word is recognised by the space at the front of its first
token (sentencepiece writes it as U+2581) or by a PAD or EPAD before it.
"""

from __future__ import annotations

import codecs
import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import sentencepiece

from duplex.errors import CheckpointError, InputError
from duplex.jsonfile import parse_json, read_bytes, seconds
from duplex.units import frames_to_seconds, seconds_to_frame
from duplex.wording import show

PAD_ID = 3
"""Moshi's id for "no new text on this frame"."""
EPAD_ID = 0
"""Moshi's id for "a word starts on the next frame"."""

_SPACE = "\u2581"  # sentencepiece's visible space
# The row says when a word starts, never when it ends. These two give the end that is shown: English is spoken
# at about 15 characters a second, 1.2 a frame, and even "a" takes a little while.
_FRAMES_PER_CHARACTER = 0.75
_FRAMES_PER_WORD = 1


@dataclass(frozen=True)
class Word:
    """One spoken word: `text` without spaces around it, `start` and `end` in seconds."""

    text: str
    start: float
    end: float

    def to_dict(self) -> dict[str, str | float]:
        return {"word": self.text, "start": round(self.start, 3), "end": round(self.end, 3)}


class TextTokenizer(Protocol):
    """What the loop needs of a tokenizer; `Tokenizer` and `testing.ByteTokenizer` fulfil it."""

    pad_id: int
    epad_id: int
    vocab_size: int

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without PAD, EPAD or control ids; the first token of a word carries the space."""

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`; PAD, EPAD and control ids are skipped."""

    def piece(self, token: int) -> str:
        """Printable form of one id, for logs and debugging."""

    def piece_bytes(self, token: int) -> bytes:
        """UTF-8 bytes that one id adds to the text (a byte-fallback id: one), b"" for control ids."""


class Tokenizer:
    """A sentencepiece model with Moshi's two special ids."""

    def __init__(self, processor: sentencepiece.SentencePieceProcessor, pad_id: int = PAD_ID,
                 epad_id: int = EPAD_ID):
        self.pad_id = pad_id
        self.epad_id = epad_id
        self.vocab_size: int = processor.vocab_size()
        self._processor = processor
        self._bytes = tuple(self._bytes_of(token) for token in range(self.vocab_size))

    @classmethod
    def load(cls, path: str | Path, pad_id: int = PAD_ID, epad_id: int = EPAD_ID) -> Tokenizer:
        """Reads a sentencepiece model file; CheckpointError when it is missing or is no such model."""
        path = Path(path)
        try:
            data = path.read_bytes()
        except OSError as error:
            reason = error.strerror or error
            raise CheckpointError(f"{path}: cannot be read ({reason}); check the path") from None
        processor = sentencepiece.SentencePieceProcessor()
        try:
            loaded = bool(data) and processor.LoadFromSerializedProto(data)
        except RuntimeError:
            loaded = False
        if not loaded:
            raise CheckpointError(f"{path}: not a sentencepiece model; copy the checkpoint's tokenizer again")
        return cls(processor, pad_id, epad_id)

    def _bytes_of(self, token: int) -> bytes:
        model = self._processor
        special = token in (self.pad_id, self.epad_id)
        if special or model.IsControl(token) or model.IsUnknown(token) or model.IsUnused(token):
            return b""
        piece: str = model.IdToPiece(token)
        if model.IsByte(token):
            return bytes([int(piece[3:5], 16)])  # written <0xE3>
        return piece.replace(_SPACE, " ").encode()

    def encode(self, text: str) -> list[int]:
        """Ids of `text`. Characters that the model has no id for are left out: the unknown id is EPAD."""
        return [token for token in self._processor.EncodeAsIds(text) if self._bytes[token]]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids` without the leading space; ids that carry no text are skipped."""
        return b"".join(map(self.piece_bytes, ids)).decode(errors="replace").removeprefix(" ")

    def piece(self, token: int) -> str:
        """Sentencepiece's own name of the id, for example `\u2581hel` or `<0xE3>`."""
        return self._processor.IdToPiece(self._checked(token))

    def piece_bytes(self, token: int) -> bytes:
        """UTF-8 bytes that the id adds to the text, b"" for PAD, EPAD and control ids."""
        return self._bytes[self._checked(token)]

    def _checked(self, token: int) -> int:
        if not 0 <= token < self.vocab_size:
            raise InputError(f"text token {token} is outside the vocabulary of {self.vocab_size}; "
                             "use the tokenizer of this model")
        return token


def words_to_row(words: Iterable[Word], n_frames: int | None, tokenizer: TextTokenizer) -> np.ndarray:
    """Lays timed words out as the text row int64 [T].

    `n_frames` is T; None makes the row just long enough for every word. A word that does not fit in whole
    before the end of the row is left out, and so are the words after it: half a word would teach half words.
    Words are taken in the order of their starts. InputError for a start that is negative or not finite.
    """
    placed: list[tuple[int, list[int]]] = []
    free = 0
    for word in sorted(words, key=lambda word: word.start):
        if not (np.isfinite(word.start) and word.start >= 0):
            raise InputError(f"word {word.text!r} starts at {word.start} s; word times count from 0 s")
        tokens = tokenizer.encode(word.text)
        if not tokens:
            continue
        start = max(free, seconds_to_frame(word.start))
        if n_frames is not None and start + len(tokens) > n_frames:
            break
        placed.append((start, tokens))
        free = start + len(tokens)
    row = np.full(free if n_frames is None else n_frames, tokenizer.pad_id, dtype=np.int64)
    free = 0
    for start, tokens in placed:
        if start > free:
            row[start - 1] = tokenizer.epad_id
        free = start + len(tokens)
        row[start:free] = tokens
    return row


def row_to_words(row: Sequence[int] | np.ndarray, tokenizer: TextTokenizer) -> list[Word]:
    """Words of a text row [T], with the time of their first token in seconds and an estimated end."""
    reader = RowReader(tokenizer)
    words: list[Word] = []
    for token in row:
        words += reader.push(int(token))[1]
    return words + list(reader.flush())


def read_words(path: str | Path) -> list[Word]:
    """Timed words from a JSON file `{"words": [[word, start, end], ...]}`, in seconds, in order of their starts.

    Raises InputError when the file is missing, is no such file, or has a time that is negative or not finite.
    """
    path = Path(path)
    shape = 'it must hold {"words": [[word, start, end], ...]} with times in seconds'
    try:
        entries = parse_json(read_bytes(path), f"{path}: not a file of timed words", mend=shape)["words"]
        words = [Word(text.strip(), seconds(start), seconds(end)) for text, start, end in entries]
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError):
        raise InputError(f"{path}: not a file of timed words; {shape}") from None
    for word in words:
        if not (word.text and 0 <= word.start <= word.end < math.inf):
            raise InputError(f"{path}: word {show(word.text)} from {word.start} to {word.end} s cannot be; {shape}")
    return sorted(words, key=lambda word: word.start)


class RowReader:
    """Reads a text row one frame at a time: the one definition of how tokens become text and words.

    `push` gives the text to show at once, always whole characters, and the words that ended on this frame. A
    word ends with the next word's start or, since the row has no ends, after the time that words of its length
    take to say.
    """

    def __init__(self, tokenizer: TextTokenizer, frame: int = 0):
        self.tokenizer = tokenizer
        self.frame = frame
        """Number of the frame whose token comes next."""
        self._word = b""  # bytes of the open word
        self._start = 0  # its first frame
        self._tokens = 0  # frames it has taken, one token each
        self._writing = False  # was the last token part of the open word?
        self._pending = b""  # first bytes of a character that is not complete yet

    def push(self, token: int) -> tuple[str, tuple[Word, ...]]:
        """Takes the token of the next frame; returns (text to show, words that ended)."""
        data = self.tokenizer.piece_bytes(token)
        words: tuple[Word, ...] = ()
        if data:
            if data.startswith(b" ") or not self._writing:
                words = self.flush()
                self._start = self.frame
            self._word += data
            self._tokens += 1
        self._writing = bool(data)
        self.frame += 1
        if not data and self._stop() <= self.frame:
            words = self.flush()
        return self._show(data), words

    def flush(self) -> tuple[Word, ...]:
        """Ends the open word, if there is one, now or at its estimated end if that was earlier."""
        text = self._word.decode(errors="replace").strip()
        stop = min(self._stop(), self.frame)
        self._word, self._tokens = b"", 0
        return (Word(text, frames_to_seconds(self._start), frames_to_seconds(stop)),) if text else ()

    def clone(self) -> RowReader:
        return copy.copy(self)  # every field is immutable or shared on purpose (the tokenizer)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the tokenizer, as values that JSON can hold."""
        return {"frame": self.frame, "word": list(self._word), "start": self._start, "tokens": self._tokens,
                "writing": self._writing, "pending": list(self._pending)}

    @classmethod
    def from_dict(cls, tokenizer: TextTokenizer, values: dict[str, Any]) -> RowReader:
        reader = cls(tokenizer, values["frame"])
        reader._word, reader._pending = bytes(values["word"]), bytes(values["pending"])
        reader._start, reader._tokens, reader._writing = values["start"], values["tokens"], values["writing"]
        return reader

    def _stop(self) -> int:
        """First frame after the open word, by the estimate."""
        characters = len(self._word.decode(errors="replace").strip())
        return self._start + max(self._tokens, _FRAMES_PER_WORD + round(_FRAMES_PER_CHARACTER * characters))

    def _show(self, data: bytes) -> str:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        # A token without text ends the word, so bytes that wait for the rest of a character never get it.
        text = decoder.decode(self._pending + data, final=not data)
        self._pending = decoder.getstate()[0]
        return text
