"""Find words and their times in recordings that come without: both speakers, with Whisper.

    python -m train.annotate DIR [--model FOLDER_OR_NAME] [--language en]

DIR is read as by train.prepare. Each track is transcribed by itself with faster-whisper (pip install 'duplex-speech[asr]'),
and NAME.json is written beside NAME.wav in the moshi-finetune layout. Recordings that have words are left alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torchaudio.functional

from duplex.errors import InputError
from duplex.text import Word
from duplex.units import SAMPLE_RATE
from train import cli
from train.files import replace_file
from train.own.labels import SYSTEM_LABEL, USER_LABEL, read_segments
from train.own.layout import Item, find_items
from train.own.options import add_reading, reading_of
from train.own.recording import Reading, load, main_speaker
from train.own.speech import RATE, runs, speech_mask

Recogniser = Callable[[np.ndarray], list[Word]]
"""float32 [S] at 24 kHz -> words with times in seconds."""
WHISPER_RATE = 16_000


def whisper(model: str = "packaged", language: str | None = "en", threads: int = 1, device: str = "auto") -> Recogniser:
    """Words by faster-whisper. ``model``: a folder, a name that it knows, or "packaged" for the base model in the extra.

    Raises InputError with the install line when a part is missing.
    """
    try:
        from faster_whisper import WhisperModel
    except ModuleNotFoundError:
        raise InputError("faster-whisper is not installed: pip install 'duplex-speech[asr]'") from None
    if model == "packaged":
        from train.teach import packaged_whisper

        model = str(packaged_whisper(Path(tempfile.gettempdir()) / "duplex-whisper-base"))
    try:
        network = WhisperModel(model, device=device, compute_type="auto", cpu_threads=threads)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{model}: not a Whisper model that can be loaded ({str(error).splitlines()[0][:120]}); give the "
                         "folder of a CTranslate2 model") from None

    def recognise(pcm: np.ndarray) -> list[Word]:
        sound = torchaudio.functional.resample(torch.from_numpy(pcm), SAMPLE_RATE, WHISPER_RATE).numpy()
        found, _ = network.transcribe(sound, language=language, word_timestamps=True, vad_filter=True, beam_size=5,
                                      condition_on_previous_text=False)
        return [Word(w.word.strip(), float(w.start), float(w.end)) for part in found for w in part.words or () if w.word.strip()]

    return recognise


def settle(words: Sequence[Word], pcm: np.ndarray) -> list[Word]:
    """Words whose times can be used: in order, one after the other, and not beginning in a silence.

    A recogniser lets a word after a pause begin within the pause, often by half a second; it is moved to where the sound
    begins.
    """
    mask = speech_mask(pcm)
    spans = [(first / RATE, end / RATE) for first, end in runs(mask)]
    seconds, settled, free = len(pcm) / SAMPLE_RATE, [], 0.0
    for word in sorted(words, key=lambda w: (w.start, w.end)):
        start, end = max(word.start, free), min(max(word.end, word.start), seconds)
        heard = next(((a, b) for a, b in spans if b > start), None)
        if heard and start < heard[0] < end:
            start = heard[0]
        if end <= start:
            continue  # what the recogniser made up in silence or said twice
        settled.append(Word(word.text, round(start, 3), round(end, 3)))
        free = end
    return settled


def annotate(item: Item, reading: Reading, recognise: Recogniser) -> Path:
    """Write the words of one recording beside it; InputError when it cannot be read."""
    recording = load(item, replace(reading, need_words=False))
    label = _mono_labels(item, reading) if item.segments else _stereo_labels(item, reading)
    entries = [[w.text, [w.start, w.end], label(side, w)] for side, track in enumerate(recording.pcm)
               for w in settle(recognise(track), track)]
    path = words_path(item)
    text = json.dumps({"alignments": entries}, ensure_ascii=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, lambda part: part.write_text(text, encoding="utf-8"))
    return path


def _stereo_labels(item: Item, reading: Reading) -> Callable[[int, Word], str]:
    """In the file the left channel's speaker has the left label, whichever side is the system's."""
    right = reading.system_is_right(item.audio)
    return lambda side, word: USER_LABEL if side != right else SYSTEM_LABEL


def _mono_labels(item: Item, reading: Reading) -> Callable[[int, Word], str]:
    """The speakers' own labels, so that the words fit whoever is made the system later."""
    segments = read_segments(item.segments)
    system = reading.system or main_speaker(segments)
    others = [s for s in segments if s.speaker != system] or segments

    def label(side: int, word: Word) -> str:
        if side == 0:
            return system
        return max(others, key=lambda s: min(s.end, word.end) - max(s.start, word.start)).speaker

    return label


def words_path(item: Item) -> Path:
    """Where the words of a recording belong: text/NAME.json in the KAME layout, else beside the sound."""
    folder = item.audio.parent
    if folder.name == "audio" and (folder.parent / "text").is_dir():
        return folder.parent / "text" / (item.audio.stem + ".json")
    return item.audio.with_suffix(".json")


def annotate_missing(items: Sequence[Item], reading: Reading, model: str, threads: int = 1, language: str | None = "en") -> int:
    """Annotate every recording without words; returns how many. Unreadable ones are left to whoever reads them next."""
    missing = [item for item in items if item.labels is None and not item.problem]
    if not missing:
        return 0
    recognise = whisper(model, language, threads)
    done = 0
    for number, item in enumerate(missing, 1):
        try:
            annotate(item, reading, recognise)
            done += 1
        except InputError as error:
            print(f"not annotated: {error}", file=sys.stderr)
        print(f"\rannotated {number}/{len(missing)} ", end="", flush=True)
    print()
    return done


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser("annotate", __doc__)
    parser.add_argument("recordings", type=Path)
    parser.add_argument("--model", default="packaged", help="folder of a CTranslate2 Whisper model, a name, or packaged (base)")
    parser.add_argument("--language", default="en", help="language of the recordings, or auto")
    add_reading(parser)
    cli.add_threads(parser)
    return cli.run(parser, run, argv)


def run(args: argparse.Namespace) -> None:
    """Annotates what has no words."""
    items = find_items(args.recordings)
    language = None if args.language == "auto" else args.language
    done = annotate_missing(items, reading_of(args, need_words=False), args.model, args.threads, language)
    print(f"{done} of {len(items)} recordings annotated")


if __name__ == "__main__":
    raise SystemExit(main())
