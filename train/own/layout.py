"""Where the recordings of a set and their labels lie: which files belong together, in every layout that is read.

- A folder of ``NAME.wav`` (or flac, ogg, mp3) with ``NAME.json`` beside each: the moshi-finetune layout, which
  ``train.synthesize`` writes as well, with ``NAME.events.jsonl``.
- A manifest ``SET.jsonl`` of ``{"path", "duration"}`` lines, paths being relative to it; or the folder that it lies in.
- A folder with ``audio/NAME.wav`` and ``text/NAME.json``: the KAME layout.

A mono recording comes with ``NAME.rttm`` or ``NAME.segments.json``.
"""

from __future__ import annotations

import gzip
import io
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

from duplex.errors import InputError
from duplex.jsonfile import parse_json, seconds
from duplex.wording import show

AUDIO = (".wav", ".flac", ".ogg", ".opus", ".mp3")
LARGEST_MANIFEST = 1 << 26
"""Bytes, unpacked: a million recordings. A packed file may promise any number."""
MAX_BAD_LINES = 500
"""After so many the file is taken for something else."""
_NOT_MANIFESTS = (".events.jsonl", "rejected.jsonl", "report.jsonl")


@dataclass(frozen=True)
class Item:
    """One recording and what belongs to it. ``problem`` says why there is none where one was promised."""

    name: str
    """Path below the set's root without its ending: unique in the set."""
    audio: Path
    labels: Path | None = None
    segments: Path | None = None
    events: Path | None = None
    duration: float | None = None
    """Seconds that the manifest promises."""
    problem: str | None = None


def find_items(root: str | Path) -> list[Item]:
    """The recordings of a folder or manifest in order of name; InputError when there are none."""
    root = Path(root)
    if root.is_file():
        items = _manifest(root)
    elif (root / "audio").is_dir() and (root / "text").is_dir():
        items = _kame(root)
    elif root.is_dir():
        items = _folder(root) or [item for path in _manifests(root) for item in _manifest(path)]
    else:
        raise InputError(f"{root}: no such folder or manifest; check the path")
    if not items:
        raise InputError(f"{root}: no recordings; give the folder of one split, or a manifest of "
                         '{"path", "duration"} lines')
    twice = {item.name: item for item in items}
    if len(twice) < len(items):
        raise InputError(f"{root}: a recording is named twice; remove one of the entries")
    return sorted(items, key=lambda item: item.name)


def beside(audio: Path) -> dict[str, Path | None]:
    """The label files that belong to a recording, None where there is none."""
    def there(*endings: str) -> Path | None:
        return next((path for path in (audio.with_suffix(ending) for ending in endings) if path.exists()), None)

    return {"labels": there(".json"), "segments": there(".rttm", ".segments.json"), "events": there(".events.jsonl")}


def _folder(root: Path) -> list[Item]:
    found = (path for path in root.iterdir() if path.suffix.lower() in AUDIO)
    audio = [path for path in found if not path.name.endswith(".part" + path.suffix) and not path.name.startswith(".")]
    return [Item(path.stem, path, **beside(path)) for path in audio]


def _kame(root: Path) -> list[Item]:
    audio = {path.stem: path for path in (root / "audio").iterdir() if path.suffix.lower() in AUDIO}
    text = {path.stem: path for path in (root / "text").glob("*.json")}
    items = []
    for name in sorted(audio.keys() | text.keys()):
        if name not in audio:
            items.append(Item(name, text[name], problem=f"{text[name]}: its recording audio/{name}.wav is missing"))
            continue
        items.append(Item(name, audio[name], **{**beside(audio[name]), "labels": text.get(name)}))
    return items


def _manifests(root: Path) -> list[Path]:
    found = [path for path in root.iterdir() if path.name.endswith((".jsonl", ".jsonl.gz"))]
    return sorted(path for path in found if not path.name.endswith(_NOT_MANIFESTS))


def _manifest(path: Path) -> list[Item]:
    opener = gzip.open if path.suffix == ".gz" else open
    items: list[Item] = []
    try:
        with opener(path, "rb") as file:
            raw = file.read(LARGEST_MANIFEST + 1)
        if len(raw) > LARGEST_MANIFEST:
            raise InputError(f"{path}: more than {LARGEST_MANIFEST >> 20} MiB of manifest; split it")
        raw.decode()
    except (OSError, UnicodeDecodeError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read as a manifest ({error}); give a folder or lines of JSON") from None
    bad = 0
    for number, line in enumerate(io.BytesIO(raw), 1):
        if line.isspace():
            continue
        try:
            items.append(_entry(path.parent, parse_json(line, "the line")))
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            bad += 1
            if bad > MAX_BAD_LINES:
                raise InputError(f"{path}: more than {MAX_BAD_LINES} lines are no {{'path', 'duration'}} entries; "
                                 "give a manifest") from None
            problem = f"{path}: line {number} is no {{'path', 'duration'}} entry ({show(str(error), 120)})"
            items.append(Item(f"{path.stem}:{number}", path, problem=problem))
    return items


def _entry(folder: Path, entry: dict) -> Item:
    """One line of a manifest. Raises ValueError, KeyError, TypeError, AttributeError or OSError for what is none."""
    relative, duration = Path(entry["path"]), entry.get("duration")
    str(relative).encode()  # half a character is no part of a file's name
    if "\0" in str(relative):
        raise ValueError("a path with NUL")
    duration = None if duration is None else seconds(duration)
    if duration is not None and not 0 <= duration < math.inf:
        raise ValueError("a duration that cannot be")
    audio = folder / relative
    return Item(relative.with_suffix("").as_posix(), audio, duration=duration, **beside(audio))
