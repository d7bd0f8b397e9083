"""Draw training dialogues as timelines, listen to them, or export them.

    python -m train.inspect SHARD_OR_DIR --n 3 [--codec CODEC] [--tokenizer FILE.model] [--out DIR] [--export] [--play]

Each dialogue becomes a PNG of two waveforms with their words, the events, and the codes. Shards are decoded with --codec and
read with --tokenizer; the embedded model's serve where they fit. Recordings are encoded with --codec, if it is given.
--export writes the sound (left system, right user), the words and the events; --play plays it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from duplex.audio import write_wav
from duplex.checkpoint import TOKENIZER_NAMES, open_folder, resolve
from duplex.codec import Codec
from duplex.errors import DuplexError, InputError
from duplex.text import Tokenizer, row_to_words
from duplex.units import FRAME_SAMPLES, FRAME_SECONDS, SAMPLE_RATE
from train import cli
from train.encode import codec_weights, open_codec
from train.files import replace_file
from train.own.labels import SYSTEM_LABEL, USER_LABEL
from train.own.layout import find_items
from train.own.options import add_reading, reading_of
from train.own.recording import Recording, derived_events, load
from train.picture import Scene, draw
from train.shards import PATTERN, ShardSet, fingerprint


def chosen(total: int, count: int) -> list[int]:
    """``count`` numbers spread evenly over 0..total - 1."""
    count = min(count, total)
    return [(2 * n + 1) * total // (2 * count) for n in range(count)]


def scenes_of_shards(shards: ShardSet, numbers: list[int], codec: Codec | None, tokenizer: Tokenizer | None) -> Iterator[Scene]:
    """Dialogues of shards; without codec no sound, without tokenizer no words."""
    parts = (("no codec: no sound", codec), ("no tokenizer: no words", tokenizer))
    note = ", ".join(text for text, part in parts if part is None)
    for number in numbers:
        codes = shards.dialogue(number).numpy()
        books = (len(codes) - 1) // 2
        pcm = None
        if codec is not None:
            with torch.no_grad():
                pcm = codec.decode(torch.from_numpy(np.stack([codes[1 : 1 + books], codes[1 + books :]])))[:, 0].numpy()
        rows = (codes[0], shards.user_text(number))
        words = tuple(() if tokenizer is None or row is None else tuple(row_to_words(np.asarray(row).tolist(), tokenizer))
                      for row in rows)
        events = [{"kind": m.kind, "start": m.first * FRAME_SECONDS, "end": m.end * FRAME_SECONDS} for m in shards.marks(number)]
        yield Scene(shards.name(number), codes.shape[1] * FRAME_SECONDS, pcm, words, events, codes[1:], note)


def scene_of_recording(recording: Recording, codec: Codec | None) -> Scene:
    """A recording, with its codes when there is a codec."""
    codes, note = None, ""
    events = recording.events
    if not events:
        events, note = derived_events(recording), "events told from the sound"
    if codec is not None:
        frames = recording.pcm.shape[1] // FRAME_SAMPLES
        with torch.no_grad():
            codes = codec.encode(torch.from_numpy(recording.pcm[:, None, : frames * FRAME_SAMPLES])).flatten(0, 1).numpy()
    return Scene(recording.name, recording.seconds, recording.pcm, (recording.system_words, recording.user_words), events, codes,
                 note)


def cut(scene: Scene, start: float, seconds: float) -> Scene:
    """The part of a scene from ``start`` on, at most ``seconds`` long, times counted from its own beginning."""
    start = round(start / FRAME_SECONDS) * FRAME_SECONDS
    stop = min(scene.seconds, start + seconds)
    if start >= scene.seconds:
        raise InputError(f"--start {start:g}: {scene.name} has {scene.seconds:.1f} s")
    if start == 0 and stop == scene.seconds:
        return scene
    a, b = round(start * SAMPLE_RATE), round(stop * SAMPLE_RATE)
    words = tuple([type(w)(w.text, w.start - start, w.end - start) for w in side if start <= w.start < stop]
                  for side in scene.words)
    events = [{**e, "start": max(e["start"], start) - start, "end": min(e["end"], stop) - start} for e in scene.events
              if e["start"] < stop and e["end"] > start]
    first, last = round(start / FRAME_SECONDS), round(stop / FRAME_SECONDS)
    pcm, codes = (None if scene.pcm is None else scene.pcm[:, a:b]), (None if scene.codes is None else scene.codes[:, first:last])
    note = f"from {start:.1f} s of {scene.seconds:.1f} s" + (f", {scene.note}" if scene.note else "")
    return Scene(scene.name, stop - start, pcm, words, events, codes, note)


def export(scene: Scene, stem: Path) -> None:
    """Sound, words and events of a scene in the layout that train.prepare reads."""
    words = [[w.text, [round(w.start, 3), round(w.end, 3)], label]
             for label, side in zip((SYSTEM_LABEL, USER_LABEL), scene.words, strict=True) for w in side]
    text = json.dumps({"alignments": words}, ensure_ascii=False)
    replace_file(stem.with_suffix(".json"), lambda part: part.write_text(text, encoding="utf-8"))
    lines = "".join(json.dumps({**e, "start": round(e["start"], 3), "end": round(e["end"], 3)}) + "\n" for e in scene.events)
    replace_file(stem.with_suffix(".events.jsonl"), lambda part: part.write_text(lines))
    if scene.pcm is not None:
        write_wav(stem.with_suffix(".wav"), scene.pcm)


def play(scene: Scene) -> None:
    """Play a scene: system left, user right. InputError without sound, sounddevice or a device."""
    if scene.pcm is None:
        raise InputError(f"{scene.name}: there is no sound to play; give --codec")
    try:
        import sounddevice
    except (ModuleNotFoundError, OSError):
        raise InputError("nothing can be played here: pip install sounddevice, and on Debian apt-get install libportaudio2; "
                         "or use --export") from None
    try:
        sounddevice.play(scene.pcm.T, SAMPLE_RATE, blocking=True)
    except sounddevice.PortAudioError as error:
        raise InputError(f"no sound device plays ({str(error).splitlines()[0]}); use --export") from None


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser("inspect", __doc__)
    parser.add_argument("source", type=Path, help="folder of shards, one shard, or recordings as train.prepare reads them")
    parser.add_argument("--n", type=int, default=3, help="how many, spread over the set")
    parser.add_argument("--name", nargs="+", default=[], help="these dialogues instead")
    parser.add_argument("--start", type=float, default=0.0, help="second of the dialogue to begin at")
    parser.add_argument("--seconds", type=float, default=60.0, help="how much of each")
    parser.add_argument("--out", type=Path, default=Path("out/inspect"))
    parser.add_argument("--codec", type=Path, help="as for train.prepare")
    parser.add_argument("--codebooks", type=int, default=8)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--export", action="store_true", help="write sound, words and events as well")
    parser.add_argument("--play", action="store_true")
    add_reading(parser)
    cli.add_threads(parser)
    return cli.run(parser, run, argv)


def run(args: argparse.Namespace) -> int:
    """Draws the dialogues; the exit status is 1 when one of them could not be read."""
    if args.n < 1 or args.seconds <= 0 or args.start < 0:
        raise InputError("--n must be at least 1, --seconds more than 0, --start not negative")
    failed = 0
    args.out.mkdir(parents=True, exist_ok=True)
    for scene in _scenes(args):
        if isinstance(scene, str):
            print(scene, file=sys.stderr)
            failed += 1
            continue
        scene = cut(scene, args.start, args.seconds)
        stem = args.out / "".join(c if c.isalnum() or c in "-_.@" else "_" for c in scene.name)
        path = stem.with_name(stem.name + ".png")
        replace_file(path, lambda part, scene=scene: draw(scene, part))
        print(f"{path}: {scene.seconds:.1f} s, {len(scene.words[0])} + {len(scene.words[1])} words, {len(scene.events)} events"
              + (f" ({scene.note})" if scene.note else ""))
        if args.export:
            export(scene, stem.with_name(stem.name + ".any"))  # the ending is replaced; a name may have dots of its own
        if args.play:
            play(scene)
    return int(failed > 0)


def _scenes(args: argparse.Namespace) -> Iterator[Scene | str]:
    if args.source.suffix == ".safetensors" or next(args.source.glob(PATTERN), None):
        shards = ShardSet(args.source)
        numbers = chosen(len(shards), args.n)
        if args.name:
            names = [shards.name(n) for n in range(len(shards))]
            numbers = [names.index(name) for name in _known(args.name, names, args.source)]
        yield from scenes_of_shards(shards, numbers, *_tools(args, shards.metadata))
        return
    items = find_items(args.source)
    picked = [items[n] for n in chosen(len(items), args.n)]
    if args.name:
        _known(args.name, [item.name for item in items], args.source)
        picked = [item for item in items if item.name in args.name]
    codec = open_codec(args.codec, args.codebooks) if args.codec else None
    reading = reading_of(args, need_words=False)
    for item in picked:
        try:
            yield scene_of_recording(load(item, reading), codec)
        except InputError as error:
            yield f"unusable: {error}"


def _known(wanted: list[str], names: list[str], source: Path) -> list[str]:
    for name in wanted:
        if name not in names:
            raise InputError(f"{source}: no dialogue named {name!r}; the first is {names[0]!r}")
    return wanted


def _tools(args: argparse.Namespace, metadata: dict[str, str]) -> tuple[Codec | None, Tokenizer | None]:
    """Codec and tokenizer of shards: those given, else the embedded model's where the shards were made with them."""
    books = int(metadata["codebooks"])
    embedded = Path("tiny")
    codec_path, tokenizer_path = args.codec, args.tokenizer
    try:
        folder = resolve("tiny")
        if codec_path is None and fingerprint(codec_weights(embedded)) == metadata["codec"]:
            codec_path = embedded
        file = open_folder(folder).file("tokenizer_name", TOKENIZER_NAMES)
        if tokenizer_path is None and fingerprint(file) == metadata["tokenizer"]:
            tokenizer_path = file
    except DuplexError:
        pass  # no embedded model: then only what is given
    codec = open_codec(codec_path, books) if codec_path else None
    if codec is not None and str(codec.cardinality) != metadata["cardinality"]:
        raise InputError(f"{codec_path}: has {codec.cardinality} entries a book, the shards were made with "
                         f"{metadata['cardinality']}; give the codec that made them")
    tokenizer = Tokenizer.load(tokenizer_path) if tokenizer_path else None
    if tokenizer is not None and fingerprint(tokenizer_path) != metadata["tokenizer"]:
        raise InputError(f"{tokenizer_path}: is not the tokenizer that the shards were made with; give that one")
    return codec, tokenizer


if __name__ == "__main__":
    raise SystemExit(main())
