"""From recordings to the tokens of a shard: the work of one process, wherever it runs.

A group of recordings becomes one shard and one report; both depend on the recordings and the settings alone and appear whole,
so that any number of processes or machines may share the groups, be killed, and start again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from duplex.checkpoint import MIMI_NAMES, load_model, open_folder, resolve
from duplex.codec import Codec, MimiCodec
from duplex.errors import ConfigError, InputError
from duplex.jsonfile import parse_json
from duplex.text import Tokenizer, words_to_row
from duplex.units import FRAME_SAMPLES, seconds_to_frame
from train.files import replace_file, trained_codec
from train.own.checks import refusal
from train.own.layout import Item
from train.own.recording import Reading, Recording, derived_events, load, pieces
from train.shards import Encoded, Mark, fingerprint, write_shard


@dataclass(frozen=True)
class Settings:
    """Everything that the bytes of a shard depend on, besides the recordings."""

    codec: Path
    tokenizer: Path
    codebooks: int = 8
    reading: Reading = field(default_factory=Reading)
    seconds: float = 240.0
    """Recordings longer than this are cut at a silence."""
    device: str = "cpu"
    threads: int = 1

    def plan(self) -> dict[str, Any]:
        """What a continued preparation must agree on."""
        return {"codec": fingerprint(codec_weights(self.codec)), "tokenizer": fingerprint(self.tokenizer),
                "codebooks": self.codebooks, "seconds": self.seconds, "reading": asdict(self.reading)}


def codec_weights(source: Path) -> Path:
    """The weight file of a codec: the file itself, a folder of train.codec, or a model folder."""
    if source.is_file():
        return source
    if (source / "mimi.json").exists():
        return source / "mimi.safetensors"
    return open_folder(resolve(str(source))).file("mimi_name", MIMI_NAMES)


def open_codec(source: Path, codebooks: int, device: str = "cpu") -> MimiCodec:
    """The codec of a folder of train.codec, of a model folder ("tiny": the embedded model), or of a published Mimi file."""
    if source.is_file():
        return MimiCodec.from_files(source, None, codebooks, device)
    if (source / "mimi.json").exists():
        return trained_codec(source, codebooks, device)
    codec = load_model(str(source), device).codec
    if codec.n_codebooks != codebooks:
        raise ConfigError(f"{source}: its model uses {codec.n_codebooks} codebooks; give --codebooks {codec.n_codebooks}")
    return codec


@dataclass(frozen=True)
class Report:
    """What became of one group."""

    number: int
    dialogues: int = 0
    frames: int = 0
    words: tuple[int, int] = (0, 0)
    """Of the system, of the user."""
    events: dict[str, int] = field(default_factory=dict)
    rejected: tuple[dict[str, str], ...] = ()

    @classmethod
    def from_json(cls, text: str) -> Report:
        """The report that `to_json` gave; InputError for other text."""
        values = parse_json(text, "the report of a shard", mend="delete it and prepare again")
        try:
            words, rejected = tuple(map(int, values["words"])), tuple(map(dict, values["rejected"]))
            report = cls(**{**values, "words": words, "rejected": rejected})
            if len(report.words) != 2 or not all(type(n) is int for n in (report.number, report.dialogues, report.frames)):
                raise ValueError
        except (TypeError, ValueError, KeyError, OverflowError):
            raise InputError("the report of a shard: not what a preparation wrote; delete it and prepare again") from None
        return report

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True) + "\n"


def shard_path(out: Path, number: int) -> Path:
    """Where a group's shard lies; it is missing when every recording of the group was rejected."""
    return out / f"shard-{number:05d}.safetensors"


def report_path(out: Path, number: int) -> Path:
    """Where a group's report lies. It is written last: a group that has one is finished."""
    return out / "reports" / f"shard-{number:05d}.json"


class Encoder:
    """Codec and tokenizer, loaded once a process."""

    def __init__(self, settings: Settings, codec: Codec | None = None):
        self.settings = settings
        self.codec = codec or open_codec(settings.codec, settings.codebooks, settings.device)
        self.tokenizer = Tokenizer.load(settings.tokenizer)
        self.metadata = {
            "codec": fingerprint(codec_weights(settings.codec)), "tokenizer": fingerprint(settings.tokenizer),
            "codebooks": str(settings.codebooks), "vocabulary": str(self.tokenizer.vocab_size),
            "cardinality": str(self.codec.cardinality)}

    def make(self, out: Path, number: int, items: Sequence[Item]) -> Report:
        """Write the shard and the report of one group, unless they are there already."""
        path = report_path(out, number)
        if path.exists():
            return Report.from_json(path.read_text())
        dialogues, counts, events, rejected = [], [0, 0], Counter(), []
        for item in items:
            try:
                recording = load(item, self.settings.reading)
                reason = refusal(recording)
                if reason:
                    raise InputError(f"{item.audio}: {reason}")
                if item.events is None:
                    recording = replace(recording, events=derived_events(recording))
                encoded = [self.encode(piece) for piece in pieces(recording, self.settings.seconds)]
            except InputError as error:
                rejected.append({"name": item.name, "path": str(item.audio), "reason": str(error)})
                continue
            dialogues += encoded
            counts = [counts[0] + len(recording.system_words), counts[1] + len(recording.user_words)]
            events.update(event["kind"] for event in recording.events)
        if dialogues:
            write_shard(shard_path(out, number), dialogues, self.metadata)
        frames = sum(d.codes.shape[1] for d in dialogues)
        report = Report(number, len(dialogues), frames, tuple(counts), dict(events), tuple(rejected))
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, lambda part: part.write_text(report.to_json()))
        return report

    def encode(self, recording: Recording) -> Encoded:
        """Codes of both channels, both speakers' text and the events of one recording."""
        frames = recording.pcm.shape[1] // FRAME_SAMPLES
        text, user_text = (words_to_row(words, frames, self.tokenizer) for words in
                           (recording.system_words, recording.user_words))
        pcm_21S = torch.from_numpy(recording.pcm[:, None, : frames * FRAME_SAMPLES])
        system, user = self.codec.encode(pcm_21S.to(self.settings.device)).cpu().numpy()
        marks = [Mark(e["kind"], min(seconds_to_frame(e["start"]), frames - 1),
                      min(max(seconds_to_frame(e["end"]), seconds_to_frame(e["start"]) + 1), frames)) for e in recording.events]
        return Encoded(recording.name, np.concatenate([text[None], system, user]), user_text, tuple(marks))


_ENCODERS: dict[Settings, Encoder] = {}


def make_group(settings: Settings, out: Path, number: int, items: Sequence[Item]) -> Report:
    """`Encoder.make` with an encoder that the process keeps."""
    if settings not in _ENCODERS:
        torch.set_num_threads(settings.threads)
        _ENCODERS[settings] = Encoder(settings)
    return _ENCODERS[settings].make(out, number, items)
