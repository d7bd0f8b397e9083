"""Archives of strangers (tar, zip) unpacked inside their folder only: everything is checked before anything is written.

Refused are absolute and climbing names, links and devices, names twice, and more files or bytes than were allowed for; the
contents go to a folder of another name first, so that a failure leaves nothing.
"""

from __future__ import annotations

import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from duplex.errors import InputError
from duplex.wording import show

ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MAX_BYTES = 100 << 30
MAX_FILES = 100_000
_PIECE = 1 << 20


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    open: Callable[[], IO[bytes]]


def unpack(archive: str | Path, folder: str | Path, max_bytes: int = MAX_BYTES, max_files: int = MAX_FILES) -> list[Path]:
    """Unpacks a tar or zip file into `folder`, which must not exist yet; gives the files.

    Raises InputError for an archive that is damaged, larger than allowed, or that names anything but plain files and folders
    below its own. Nothing is left behind then.
    """
    archive, folder = Path(archive), Path(folder)
    if folder.exists():
        raise InputError(f"{folder}: is there already; give the name of a new folder")
    if not folder.absolute().parent.is_dir():
        raise InputError(f"{folder}: there is no such folder to make it in")
    part = None
    try:
        opened = zipfile.ZipFile(archive) if zipfile.is_zipfile(archive) else tarfile.open(archive)
        with opened:
            of_kind = _zip if isinstance(opened, zipfile.ZipFile) else _tar
            members = of_kind(archive, opened, max_files)  # type: ignore[arg-type]
            _check(archive, members, max_bytes)
            part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.absolute().parent))
            for member in members:
                _write(archive, member, part / member.name)
        part.chmod(0o755)
        part.rename(folder)
    except (OSError, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError,
            OverflowError, ImportError) as error:
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or show(str(error) or type(error).__name__, 100)
        raise InputError(f"{archive}: cannot be unpacked ({reason}); download it again") from None
    except BaseException as error:
        if type(error).__name__ != "LZMAError":  # its module may be missing
            raise
        raise InputError(f"{archive}: cannot be unpacked (damaged); download it again") from None
    finally:
        if part is not None and part.exists():
            shutil.rmtree(part)
    return [folder / member.name for member in members]


def _limited(archive: Path, count: int, max_files: int) -> None:
    if count > max_files:
        raise InputError(f"{archive}: more than {max_files} files; it is not what it should be")


def _zip(archive: Path, opened: zipfile.ZipFile, max_files: int) -> list[_Member]:
    _limited(archive, len(opened.infolist()), max_files)
    found = []
    for info in opened.infolist():
        kind = info.external_attr >> 28  # the file type of Unix, where the archive was made there
        if kind not in (0, 4, 8):
            raise InputError(f"{archive}: {show(info.filename)} is a link or a device, which is not unpacked")
        _plain(archive, info.filename.rstrip("/"))
        if not info.is_dir():
            found.append(_Member(info.filename, info.file_size, lambda info=info: opened.open(info)))  # type: ignore[misc]
    return found


def _tar(archive: Path, opened: tarfile.TarFile, max_files: int) -> list[_Member]:
    return list(_tar_members(archive, opened, max_files))


def _tar_members(archive: Path, opened: tarfile.TarFile, max_files: int) -> Iterator[_Member]:
    for count, info in enumerate(opened, 1):
        _limited(archive, count, max_files)
        if not (info.isreg() or info.isdir()) or info.issparse():
            raise InputError(f"{archive}: {show(info.name)} is a link or a device, which is not unpacked")
        name = info.name.removeprefix("./").rstrip("/")
        if name not in ("", "."):
            _plain(archive, name)
            if info.isreg():
                yield _Member(name, info.size, lambda info=info: opened.extractfile(info))  # type: ignore[misc,return-value]


def _plain(archive: Path, name: str) -> None:
    """Raises InputError unless `name` is that of something below the archive's own folder, on any system."""
    parts = name.split("/")
    good = name.isprintable() and not set(name) & set("\\:") and len(name) < 1_024
    if not good or any(part in ("", ".", "..") or len(part) > 255 for part in parts):
        raise InputError(f"{archive}: {show(name)} does not lie inside the archive's folder; nothing was unpacked")


def _check(archive: Path, members: list[_Member], max_bytes: int) -> None:
    names = [member.name.casefold() for member in members]
    if len(set(names)) < len(names):
        raise InputError(f"{archive}: a name occurs twice; nothing was unpacked")
    total = sum(member.size for member in members)
    if total > max_bytes or any(member.size < 0 for member in members):
        raise InputError(f"{archive}: {total} bytes unpacked, more than the {max_bytes} allowed; nothing was unpacked")


def _write(archive: Path, member: _Member, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    left = member.size
    with member.open() as source, path.open("xb") as target:
        while piece := source.read(min(_PIECE, left + 1)):
            left -= len(piece)
            if left < 0:
                raise InputError(f"{archive}: {show(member.name)} is larger than the archive says; nothing was unpacked")
            target.write(piece)
    if left:
        raise InputError(f"{archive}: {show(member.name)} is shorter than the archive says; download it again")
