"""The folder format of Full-Duplex-Bench: items out, outputs back in, so that its public scorers run on them unmodified.

    {root}/{task}/{id}/input.wav  output.wav  output.json  and the task's annotation
    of v1.5 also input.json, clean_input.wav and .json (without the event), clean_output.wav and .json (what was said to that)
    {root}/synthetic_backchannel/icc_gt_distribution.json    for its backchannel scorer, which reads it from where it is started

Wav files have 16 kHz: the public backchannel scorer takes any output for 16 kHz.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torchaudio.functional

from benchmarks.items import Item
from benchmarks.systems import Response
from duplex.audio import read_audio, to_mono, write_wav
from duplex.errors import InputError
from duplex.metrics.fullduplex import BIN, Chunk
from duplex.text import Word
from duplex.units import SAMPLE_RATE
from train.files import replace_file

RATE = 16_000
V1 = {"pause": "synthetic_pause_handling", "report": "synthetic_backchannel", "turn": "synthetic_turn_taking",
      "interruption": "synthetic_user_interruption"}
V15 = {"interruption": "user_interruption", "backchannel": "user_backchannel", "aside": "talking_to_other",
       "background": "background_speech"}
TOLERANCE = 0.17  # seconds by which an output may be longer or shorter than its input
SPREAD = 0.4
"""Standard deviation, in seconds, of when people nod around the moment that invites it."""


def window(item: Item, version: str) -> float:
    """Seconds of the recording that belong to the item in a version: a pause item of v1 ends with the user's turn, so that the
    answer afterwards does not count as a take-over."""
    return item.marks["turn"][1] if version == "v1" and item.task == "pause" else item.seconds


def annotation(item: Item, version: str) -> dict[str, object]:
    """{file name: content} of an item's annotations."""
    if version == "v1.5":
        event = item.marks["event"]
        return {"metadata.json": {"context_text": item.context, "current_turn_text": item.asked, "timestamps": list(event)}}
    if item.task == "pause":
        return {"pause.json": [{"text": "[PAUSE]", "timestamp": list(item.marks["pause"])}]}
    if item.task == "turn":
        end = item.marks["turn"][1]
        return {"turn_taking.json": [{"text": "[TURN-TAKING]", "timestamp": [end, end + 0.4]}]}
    if item.task == "interruption":
        return {"interrupt.json": [{"context": item.context, "interrupt": item.asked, "timestamp": list(item.marks["event"])}]}
    return {"transcription.json": {"text": item.asked, "chunks": []}}


def people(item: Item) -> list[float]:
    """When people would nod in a report: a share for each bin of 0.2 s, sums to 1."""
    bins = np.arange(int(item.seconds / BIN) + 1) * BIN
    shares = np.full(len(bins), 1e-4)
    for line in item.ideal:
        shares += np.exp(-0.5 * ((bins - line.start) / SPREAD) ** 2)
    return [float(x) for x in shares / shares.sum()]


def chunks(words: Sequence[Word]) -> list[Chunk]:
    """Words as the scorers take them, and as they are written to files: to the millisecond."""
    return [(w.text, round(w.start, 3), round(w.end, 3)) for w in words]


def cleaned(item: Item) -> Item:
    """An item of v1.5 without its event: the reference that its scorers compare with."""
    start = item.marks["event"][0]
    return replace(item, user=item.clean, words=tuple(w for w in item.words if w.start < start),
                   marks={name: span for name, span in item.marks.items() if name != "event"},
                   ideal=tuple(replace(line, stop=None) for line in item.ideal if line.start < start))


def write_items(root: Path, items: Sequence[Item], version: str) -> None:
    """``input.wav`` and annotations of the items of one task, and what its scorer needs besides."""
    names = V1 if version == "v1" else V15
    for item in items:
        folder = root / names[item.task] / str(item.seed)
        folder.mkdir(parents=True, exist_ok=True)
        _wav(folder / "input.wav", item.user, window(item, version))
        if version == "v1.5":
            clean = cleaned(item)
            _wav(folder / "clean_input.wav", clean.user, item.seconds)
            _json(folder / "input.json", transcript(chunks(item.words)))
            _json(folder / "clean_input.json", transcript(chunks(clean.words)))
        for name, content in annotation(item, version).items():
            _json(folder / name, content)
    if items and version == "v1" and items[0].task == "report":
        _json(root / names["report"] / "icc_gt_distribution.json", {str(item.seed): people(item) for item in items})


def write_outputs(root: Path, items: Sequence[Item], responses: Sequence[Response], words: Sequence[Sequence[Word]],
                  version: str) -> None:
    """``output.wav`` and ``output.json`` of each item that has a response; of an interruption in v1, words after it alone."""
    names = V1 if version == "v1" else V15
    for item, response, said in zip(items, responses, words, strict=True):
        if response.error:
            continue
        folder = root / names[item.task] / str(item.seed)
        folder.mkdir(parents=True, exist_ok=True)
        _wav(folder / "output.wav", response.pcm, window(item, version))
        kept = [chunk for chunk in chunks(said) if chunk[1] < window(item, version)]
        if version == "v1" and item.task == "interruption":
            kept = [chunk for chunk in kept if chunk[1] >= item.marks["event"][1]]
        _json(folder / "output.json", transcript(kept))


def write_clean_outputs(root: Path, items: Sequence[Item], responses: Sequence[Response],
                        words: Sequence[Sequence[Word]]) -> None:
    """``clean_output.wav`` and ``clean_output.json``: responses to the items of a task of v1.5 without their events."""
    for item, response, said in zip(items, responses, words, strict=True):
        if not response.error:
            folder = root / V15[item.task] / str(item.seed)
            folder.mkdir(parents=True, exist_ok=True)
            _wav(folder / "clean_output.wav", response.pcm, item.seconds)
            _json(folder / "clean_output.json", transcript(chunks(said)))


def transcript(said: Sequence[Chunk]) -> dict[str, object]:
    """Words as the files of that benchmark have them."""
    return {"text": " ".join(text for text, _, _ in said),
            "chunks": [{"text": text, "timestamp": [start, end]} for text, start, end in said]}


def _wav(path: Path, pcm: np.ndarray, seconds: float) -> None:
    pcm = pcm[: round(seconds * SAMPLE_RATE)]
    write_wav(path, torchaudio.functional.resample(torch.from_numpy(pcm), SAMPLE_RATE, RATE).numpy(), RATE)


def _json(path: Path, content: object) -> None:
    replace_file(path, lambda part: part.write_text(json.dumps(content), encoding="utf-8"))


class FolderSystem:
    """Finished outputs of any system: ``output.wav`` as long as its input, and ``output.json`` for the words, if there is one."""

    def __init__(self, folder: str | Path, name: str | None = None):
        self.folder = Path(folder)
        self.name = name or self.folder.name
        if not self.folder.is_dir():
            raise InputError(f"{folder}: no such folder; give one with {{task}}/{{id}}/output.wav in it")
        self.has_text = next(self.folder.glob("*/*/output.json"), None) is not None

    def respond(self, items: Sequence[Item]) -> list[Response]:
        return [self._read(item) for item in items]

    def _place(self, item: Item) -> tuple[str, Path]:
        """(version, folder) of an item's output; the whole conversation of v1.5 where there are both."""
        places = [(version, self.folder / names[item.task] / str(item.seed)) for version, names in (("v1.5", V15), ("v1", V1))
                  if item.task in names]
        return next((place for place in places if (place[1] / "output.wav").exists()), places[0])

    def _read(self, item: Item) -> Response:
        version, folder = self._place(item)
        try:
            pcm = to_mono(read_audio(folder / "output.wav"))
            check_annotations(item, version, folder)
            words = read_chunks(folder / "output.json") if self.has_text else ()
        except InputError as error:
            return Response(np.zeros(len(item.user), np.float32), error=str(error))
        off = len(pcm) / SAMPLE_RATE - window(item, version)
        if abs(off) > TOLERANCE:
            kind = "longer" if off > 0 else "shorter"
            wrong = (f"{folder / 'output.wav'}: {abs(off):.2f} s {kind} than its input; write it as long as the input, at the "
                     "rate that its header says")
            return Response(np.zeros(len(item.user), np.float32), error=wrong)
        return Response(fitted(pcm, len(item.user)), words)


def check_annotations(item: Item, version: str, folder: Path) -> None:
    """Raises InputError unless an item's annotations lie in a folder and are the item's: else the output answers another one."""
    for name, content in annotation(item, version).items():
        path = folder / name
        if not path.is_file():
            raise InputError(f"{path}: no annotation; put outputs beside the items that --write-items wrote")
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            raise InputError(f"{path}: is no JSON; write the items again") from None
        if found != json.loads(json.dumps(content)):
            raise InputError(f"{path}: belongs to another item; give the --items and --seed that the items were written with")


def fitted(pcm: np.ndarray, samples: int) -> np.ndarray:
    """Sound cut or padded with silence to a length."""
    return np.pad(pcm[:samples], (0, max(0, samples - len(pcm)))).astype(np.float32)


def read_chunks(path: Path) -> tuple[Word, ...]:
    """Words of an ``output.json`` of Full-Duplex-Bench; InputError when it is none. An end that is missing is the start."""
    try:
        chunks = json.loads(path.read_text(encoding="utf-8"))["chunks"]
        times = [(c["text"].strip(), *c["timestamp"]) for c in chunks]
        return tuple(Word(text, float(start), float(start if end is None else end)) for text, start, end in times)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = getattr(error, "strerror", None) or 'it must hold {"chunks": [{"text", "timestamp": [start, end]}]}'
        raise InputError(f"{path}: cannot be read ({reason}); write it again") from None
