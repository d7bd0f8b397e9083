"""Archives unpack inside their folder only, or not at all."""

import io
import random
import re
import tarfile
import zipfile
from pathlib import Path

import pytest

from duplex.archive import unpack
from duplex.errors import InputError
from infer.unpack import main


def tar(path, *members, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = content
                archive.addfile(info)
    return path


def zipped(path, *members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content, *attributes in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = attributes[0] if attributes else 0
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return path


@pytest.mark.parametrize("make", [tar, zipped])
def test_plain_archives_are_unpacked(tmp_path, make):
    archive = make(tmp_path / "a", ("model/config.json", b"{}"), ("card.md", b"# A model"))
    files = unpack(archive, tmp_path / "out")
    assert sorted(p.relative_to(tmp_path / "out").as_posix() for p in files) == ["card.md", "model/config.json"]
    assert (tmp_path / "out" / "card.md").read_bytes() == b"# A model"


def refused(archive, folder, *words, **limits):
    before = sorted(folder.parent.rglob("*"))
    with pytest.raises(InputError) as caught:
        unpack(archive, folder, **limits)
    assert len(str(caught.value).splitlines()) == 1 and all(word in str(caught.value) for word in words)
    assert sorted(folder.parent.rglob("*")) == before  # nothing is left, inside or outside


NAMES = ["../x", "a/../../x", "/etc/x", "a//b", "..", "a/./b", "C:\\x", "..\\x", "a\nb", "x" * 300]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_leave_the_folder(tmp_path, name):
    (tmp_path / "in").mkdir()
    for make in (tar, zipped):
        archive = make(tmp_path / make.__name__, ("good", b"1"), (name, b"2"))
        refused(archive, tmp_path / "in" / "out", "inside the archive's folder")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices(tmp_path, kind):
    archive = tar(tmp_path / "a.tgz", ("x", (kind, "../../etc/passwd")), ("x/y", b"1"))
    refused(archive, tmp_path / "out", "link or a device")


def test_a_link_in_a_zip(tmp_path):
    refused(zipped(tmp_path / "a.zip", ("x", b"../../etc", 0o120777 << 16)), tmp_path / "out", "link or a device")


def test_too_much(tmp_path):
    bomb = zipped(tmp_path / "a.zip", ("zeros", bytes(1_000_000)))
    assert bomb.stat().st_size < 5_000
    refused(bomb, tmp_path / "out", "more than the 1000 allowed", max_bytes=1_000)
    refused(tar(tmp_path / "b.tgz", *((str(n), b"") for n in range(9))), tmp_path / "out", "more than 8 files", max_files=8)
    refused(tar(tmp_path / "c.tgz", ("a", b"1"), ("A", b"2")), tmp_path / "out", "twice")


def test_what_is_there_is_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="is there already"):
        unpack(tar(tmp_path / "a", ("x", b"1")), tmp_path / "out")


@pytest.mark.parametrize("make", [tar, zipped])
def test_damaged_archives_leave_nothing(tmp_path, make):
    """Cut anywhere and changed anywhere: every file as it was, or an error and nothing written."""
    rng = random.Random(0)
    whole = make(tmp_path / "a", ("d/x", bytes(range(256)) * 8), ("y", b"yes")).read_bytes()
    (tmp_path / "in").mkdir()
    for number in range(150):
        data = bytearray(whole[: rng.randrange(len(whole))] if number % 2 else whole)
        for _ in range(rng.randint(1, 4) if data else 0):
            data[rng.randrange(len(data))] = rng.randrange(256)
        (tmp_path / "bad").write_bytes(data)
        try:
            files = unpack(tmp_path / "bad", tmp_path / "in" / "out")
        except InputError as error:
            assert len(str(error).splitlines()) == 1 and list((tmp_path / "in").iterdir()) == []
        else:
            assert all((tmp_path / "in" / "out") in path.parents and path.is_file() for path in files)
            for path in sorted((tmp_path / "in").rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "bad", "in"]


def test_the_command(tmp_path, capsys):
    assert main([str(tar(tmp_path / "a.tgz", ("x", b"1"))), str(tmp_path / "out")]) == 0
    assert "1 files" in capsys.readouterr().out
    assert main([str(tmp_path / "none.tgz"), str(tmp_path / "new")]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_nothing_else_unpacks_archives():
    """One place that unpacks: `duplex.archive` (the trials of it make archives)."""
    root = Path(__file__).parents[2]
    pattern = re.compile(r"\btarfile\b|unpack_archive|\.extract(?:all|file)?\(")
    found = {path.relative_to(root).as_posix() for package in ("duplex", "train", "infer", "benchmarks")
             for path in (root / package).rglob("*.py") if pattern.search(path.read_text(encoding="utf-8"))}
    assert found == {"duplex/archive.py", "benchmarks/trust/checkpoints.py"}
