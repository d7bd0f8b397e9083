"""Strict dataclasses from mappings and TOML files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from duplex.errors import ConfigError
from duplex.overlay import build, load_toml, parse_override


@dataclass(frozen=True)
class Inner:
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)


@dataclass(frozen=True)
class Outer:
    steps: int
    name: str = "run"
    warm: bool = True
    limit: int | None = None
    kind: Literal["a", "b"] = "a"
    delays: tuple[int, ...] = (0,)
    folder: Path = Path(".")
    inner: Inner = field(default_factory=Inner)


@pytest.fixture
def toml(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "run.toml"
        path.write_text(text)
        return path

    return write


def test_a_file_fills_the_fields_and_their_defaults(toml):
    path = toml('steps = 5\ndelays = [0, 1]\nfolder = "out"\n[inner]\nlr = 1\n')
    assert load_toml(Outer, path) == Outer(5, delays=(0, 1), folder=Path("out"), inner=Inner(lr=1.0))


def test_overrides_are_laid_over_the_file(toml):
    path = toml("steps = 5\n[inner]\nlr = 0.5\n")
    by_text = load_toml(Outer, path, ["steps=7", "inner.betas=[0.5, 0.6]", "name=long words", "limit=3"])
    assert by_text == Outer(7, name="long words", limit=3, inner=Inner(0.5, (0.5, 0.6)))
    assert load_toml(Outer, path, {"inner.lr": 2.0}).inner.lr == 2.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stepz = 5", ["run.toml", "'stepz'", "did you mean 'steps'"]),
        ("steps = 5\n[inner]\nl_r = 1", ["inner", "'l_r'", "did you mean 'lr'"]),
        ("steps = 5\nqqqqqq = 1", ["'qqqqqq'", "known keys"]),
        ("name = 'x'", ["missing key 'steps'"]),
        ("steps = 'five'", ["steps", "expected int", "'five'"]),
        ("steps = true", ["steps", "expected int"]),
        ("steps = 1.5", ["steps", "expected int"]),
        ("steps = 1\nlimit = 'x'", ["limit"]),
        ("steps = 1\nwarm = 1", ["warm", "expected bool"]),
        ("steps = 1\nkind = 'c'", ["kind", "'a', 'b'"]),
        ("steps = 1\ndelays = 3", ["delays", "list"]),
        ("steps = 1\ndelays = ['x']", ["delays", "expected int"]),
        ("steps = 1\n[inner]\nbetas = [1]", ["betas", "list of 2"]),
        ("steps = 1\ninner = 4", ["inner", "table"]),
        ("steps = ", ["not valid TOML"]),
    ],
)
def test_what_does_not_fit_is_named_in_one_line(toml, text, words):
    with pytest.raises(ConfigError) as caught:
        load_toml(Outer, toml(text))
    message = str(caught.value)
    assert "\n" not in message and "run.toml" in message
    for word in words:
        assert word in message


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(ConfigError, match="nothing.toml: cannot be read"):
        load_toml(Outer, tmp_path / "nothing.toml")
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not a text file"):
        load_toml(Outer, tmp_path / "x.toml")


def test_overrides_that_make_no_sense(toml):
    with pytest.raises(ConfigError, match="key=value"):
        parse_override("steps")
    with pytest.raises(ConfigError, match="is a value, not a table"):
        load_toml(Outer, toml("steps = 1"), ["steps.more=1"])
    assert parse_override("a.b = [1, 2]") == ("a.b", [1, 2])


def test_a_class_with_from_dict_is_built_by_it():
    class Own:
        @classmethod
        def from_dict(cls, values, source):
            return source, dict(values)

    assert build(Own, {"x": 1}, "here") == ("here", {"x": 1})
