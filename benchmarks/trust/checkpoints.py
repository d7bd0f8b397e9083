"""Weight files and archives of strangers: one typed error each, before memory is taken for what they promise."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.trust import Options, Promise
from duplex.archive import unpack
from duplex.checkpoint import load_model, resolve
from duplex.errors import DuplexError, InputError

AREA = "checkpoints"
ROOT = Path(__file__).resolve().parents[2]
MUTATIONS, SHORT_MUTATIONS = 2_000, 60
ARCHIVES, SHORT_ARCHIVES = 10_000, 300
LIMIT_MB = 4.0
"""Growth of the process while a bad file is refused: the buffers of the check, and what the allocator keeps."""

# The process that is measured: it loads the good folder once, so that everything is imported, then the bad ones.
_CHILD = """
import ctypes, gc, json, sys
from pathlib import Path
from duplex.checkpoint import load_model
from duplex.errors import DuplexError

def memory(name):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024

load_model(sys.argv[1])
for folder in sys.argv[2:]:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what the last load left to the allocator would hide what this one takes
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins again at what is held now
    before = memory("VmRSS")
    try:
        load_model(folder)
        said = None
    except DuplexError as error:
        said = f"{type(error).__name__}: {error}"
    print(json.dumps([folder, memory("VmHWM") - before, said]), flush=True)
"""


def run(options: Options) -> Iterator[Promise]:
    """Bad files with the memory that refusing them takes; mutated files; archives."""
    with tempfile.TemporaryDirectory(prefix="duplex-") as made:
        yield refused(Path(made), resolve(options.model))
        yield mutated(Path(made), resolve(options.model), SHORT_MUTATIONS if options.short else MUTATIONS, options.seed)
        yield archives(Path(made), SHORT_ARCHIVES if options.short else ARCHIVES, options.seed)


def _header(data: bytes) -> tuple[dict, bytes]:
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def _joined(header: dict, body: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def _wrong_shape(data: bytes) -> bytes:
    header, body = _header(data)
    name = max((n for n in header if n != "__metadata__"), key=lambda n: len(header[n]["shape"]))
    header[name]["shape"] = list(reversed(header[name]["shape"]))
    if header[name]["shape"] == list(reversed(header[name]["shape"])):
        header[name]["shape"] = [1, *header[name]["shape"]]
    return _joined(header, body)


def _nan(data: bytes) -> bytes:
    """The last value of the file: everything before it is right."""
    header, body = _header(data)
    last = max((entry for name, entry in header.items() if name != "__metadata__"), key=lambda entry: entry["data_offsets"][1])
    value = {"F32": np.float32(np.nan).tobytes(), "F16": np.float16(np.nan).tobytes(), "BF16": b"\xc0\x7f"}[last["dtype"]]
    return _joined(header, body[: -len(value)] + value)


def _promising(data: bytes) -> bytes:
    """A header that describes 2^40 values with no bytes behind them."""
    header, body = _header(data)
    header["more.weight"] = {"dtype": "F32", "shape": [1 << 20, 1 << 20], "data_offsets": [len(body), len(body) + (1 << 42)]}
    return _joined(header, body)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "truncated in its header": lambda data: data[:50],
    "truncated in its last tensor": lambda data: data[:-5],
    "a header of 90 MB that is not there": lambda data: (90_000_000).to_bytes(8, "little") + data[8:],
    "a header of 2^62 bytes": lambda data: (1 << 62).to_bytes(8, "little") + data[8:],
    "a header of brackets": lambda data: (1 << 20).to_bytes(8, "little") + b"[" * (1 << 20),
    "a tensor of 4 TB": _promising,
    "a wrong shape": _wrong_shape,
    "NaN in the last value": _nan,
    "bytes after the end": lambda data: data + bytes(100),
    "a pickle": lambda data: b"\x80\x02}q\x00" + data[:1_000],
}


def _folders(made: Path, good: Path) -> dict[Path, str]:
    """A folder for every way in which a weight file, and the name of one, can be bad."""
    config = json.loads((good / "config.json").read_text())
    found: dict[Path, str] = {}
    for key in ("moshi_name", "mimi_name"):
        for name, damage in DAMAGE.items():
            folder = _copy(good, made / f"bad-{len(found)}")
            _put(folder / config[key], damage((good / config[key]).read_bytes()))
            found[folder] = f"{key}: {name}"
    for key in ("moshi_name", "mimi_name", "tokenizer_name", "lora_name"):
        for name in ("../bad-0/config.json", "/etc/passwd", "a/../../x", "x\0y"):
            folder = _copy(good, made / f"bad-{len(found)}")
            _put(folder / "config.json", json.dumps(config | {key: name}).encode())
            found[folder] = f"{key} is {name!r}"
    return found


def _copy(good: Path, folder: Path) -> Path:
    """A folder with links to the good files, to be replaced by `_put`."""
    folder.mkdir()
    for path in good.iterdir():
        if path.is_file():
            (folder / path.name).symlink_to(path.resolve())
    return folder


def _put(path: Path, data: bytes) -> None:
    path.unlink()  # a link is not written through
    path.write_bytes(data)


def refused(made: Path, good: Path) -> Promise:
    """Every bad folder is refused with one line, and the process does not grow by the model's size."""
    folders = _folders(made, good)
    bad: list[str] = []
    peaks: dict[str, float] = {}
    size = sum(path.stat().st_size for path in good.glob("*.safetensors")) / (1 << 20)
    command = [sys.executable, "-c", _CHILD, str(good), *map(str, folders)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    for line in done.stdout.splitlines():
        folder, grown, said = json.loads(line)
        what = folders[Path(folder)]
        peaks[what] = grown
        if said is None or len(said.splitlines()) != 1:
            bad.append(f"{what}: {said or 'loaded'}")
        elif grown > LIMIT_MB:
            bad.append(f"{what}: {grown:.1f} MB")
    if len(peaks) < len(folders):
        bad.append(f"the process ended early: {(done.stderr.strip().splitlines() or ['no reason'])[-1][:200]}")
    largest = max(peaks, key=lambda what: peaks[what], default="")
    for folder in folders:
        shutil.rmtree(folder)
    return Promise(AREA, "truncated, oversized, wrongly shaped, NaN and path-escaping files end in one typed error before memory "
                   "is taken", f"one line, growth ≤ {LIMIT_MB:g} MB", "; ".join(bad[:3]) or
                   f"{len(folders)} bad folders, peak growth {peaks[largest]:.1f} MB ({largest}; the good model: {size:.0f} MB)",
                   not bad, "a process that has loaded the good folder loads the bad ones; its peak resident memory is reset "
                   "before each (Linux)")


def mutated(made: Path, good: Path, count: int, seed: int) -> Promise:
    """Folders whose weight files are changed anywhere: an equal model, another finite one, or one typed error."""
    rng = random.Random(seed)
    folder = _copy(good, made / "mutated")
    config = json.loads((good / "config.json").read_text())
    whole = {key: (good / config[key]).read_bytes() for key in ("moshi_name", "mimi_name")}
    loaded, bad = 0, []
    for _ in range(count):
        key = rng.choice(list(whole))
        data = bytearray(whole[key])
        header = 8 + int.from_bytes(data[:8], "little")
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(header if rng.random() < 0.8 else len(data))] = rng.randrange(256)
        if rng.random() < 0.2:
            del data[rng.randrange(len(data)) :]
        path = folder / config[key]
        _put(path, bytes(data))
        try:
            load_model(folder)
            loaded += 1
        except DuplexError as error:
            if len(str(error).splitlines()) != 1:
                bad.append(f"not one line: {str(error)[:100]!r}")
        except Exception as error:  # noqa: BLE001
            bad.append(f"{type(error).__name__}: {error}"[:200])
        _put(path, whole[key])
    shutil.rmtree(folder)
    return Promise(AREA, "mutated checkpoints load or end in one typed error", "0 others", "; ".join(bad[:3]) or
                   f"0 of {count:,} ({loaded:,} still load: a weight changed within its bits)", not bad,
                   "one to three bytes of a weight file changed, four in five of them in the header; one in five cut")


def archives(made: Path, count: int, seed: int) -> Promise:
    """Archives with members of every kind: nothing appears outside of their folder, and nothing at all after an error."""
    import io
    import tarfile

    rng, cage = random.Random(seed), made / "cage"
    names = ("a", "b/c", "../x", "/duplex-x", "b/../../x", "d/../e", "link", "link/x", "..", "", "x\0y", "a\\b", "A")
    bad, unpacked = [], 0
    for number in range(count):
        (cage / "inner").mkdir(parents=True)
        archive = made / "archive.tar"
        with tarfile.open(archive, "w:gz" if number % 2 else "w") as tar:
            for _ in range(rng.randint(1, 3)):
                info = tarfile.TarInfo(rng.choice(names))
                info.type = rng.choice((*[tarfile.REGTYPE] * 3, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE))
                info.linkname, info.size = rng.choice(("../..", "/etc", "a")), 3 if info.type == tarfile.REGTYPE else 0
                tar.addfile(info, io.BytesIO(b"abc"))
        if rng.random() < 0.3:
            data = bytearray(archive.read_bytes())
            data[rng.randrange(len(data))] = rng.randrange(256)
            archive.write_bytes(data)
        try:
            unpack(archive, cage / "inner" / "out")
            unpacked += 1
        except InputError as error:
            if len(str(error).splitlines()) != 1 or any((cage / "inner").iterdir()):
                bad.append(str(error))
        outside = [path for path in cage.rglob("*") if path.is_symlink() or not str(path).startswith(str(cage / "inner"))]
        if outside or sorted(path.name for path in made.iterdir()) != ["archive.tar", "cage"]:
            bad.append(f"outside of the folder: {outside[:2]}")
        shutil.rmtree(cage)
    return Promise(AREA, "archives unpack inside their folder only", "0 files outside, 0 left after an error",
                   "; ".join(bad[:3]) or f"0 of {count:,} archives ({unpacked:,} unpacked)", not bad,
                   "seeded tar files with climbing and absolute names, links, doubles and changed bytes; zip files in the tests")
