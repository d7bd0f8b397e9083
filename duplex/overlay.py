"""Strict construction of frozen dataclasses from mappings and TOML files.

Unknown keys, missing keys and values of the wrong type are refused with one line that names the key and, for
a misspelt one, the nearest known name: a setting that is silently ignored costs a training run.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from duplex.errors import ConfigError
from duplex.jsonfile import read_bytes
from duplex.wording import nearest, show

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

T = TypeVar("T")

LARGEST_TOML = 64 * 1024  # bytes; recipes have some thousand, and the parser is slow


def unknown_key(key: str, known: Iterable[str], source: str) -> ConfigError:
    """The error for `key`, which is none of `known`: names the nearest known key where one resembles it."""
    known = sorted(known)
    near = nearest(str(key), known, 0.5).strip(" ()")
    return ConfigError(f"{source}: unknown key {show(key)}; {near or 'known keys: ' + ', '.join(known)}")


def build(cls: type[T], values: Mapping[str, Any], source: str) -> T:
    """An instance of the dataclass `cls` from `values`; nested dataclasses are built from nested mappings.

    A class that defines `from_dict(values, source)` is built by that. Lists become tuples where the field is
    a tuple. Raises ConfigError for unknown keys, missing keys and values of another type, naming `source`.
    """
    if hasattr(cls, "from_dict"):
        return cls.from_dict(values, source)
    return build_fields(cls, values, source)


def build_fields(cls: type[T], values: Mapping[str, Any], source: str) -> T:
    """As `build`, never calling `cls.from_dict` (which may itself call this)."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{source}: expected a table of settings, got {type(values).__name__}")
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in fields:
            raise unknown_key(key, fields, source)
    for name, field in fields.items():
        no_default = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if no_default and name not in values:
            raise ConfigError(f"{source}: missing key '{name}'; add it")
    return cls(**{key: coerce(value, hints[key], f"{source}: {key}") for key, value in values.items()})


def coerce(value: Any, hint: Any, where: str) -> Any:
    """`value` checked against the type annotation `hint`; integers are accepted where floats are expected."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        for option in args:
            try:
                return coerce(value, option, where)
            except ConfigError as error:
                failure = error
        if len([a for a in args if a is not type(None)]) == 1:
            raise failure
        raise ConfigError(f"{where}: expected {_name(hint)}, got {show(value)}")
    if origin is typing.Literal:
        if value not in args:
            raise ConfigError(f"{where}: must be one of {', '.join(map(repr, args))}, got {show(value)}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where}: expected a list, got {show(value)}")
        kinds = [args[0]] * len(value) if len(args) == 2 and args[1] is Ellipsis else args
        if len(kinds) != len(value):
            raise ConfigError(f"{where}: expected a list of {len(kinds)}, got {len(value)} values")
        return tuple(coerce(v, kind, where) for v, kind in zip(value, kinds, strict=True))
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: expected a table, got {show(value)}")
        return {key: coerce(v, args[1], f"{where}.{show(key)}") for key, v in value.items()}
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else build(hint, value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool) and value.bit_length() < 1_024:
        return float(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if isinstance(value, hint) and not (isinstance(value, bool) and hint is not bool):
        return value
    raise ConfigError(f"{where}: expected {_name(hint)}, got {show(value)}")


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """The table that `text` is. Raises ConfigError naming `where`."""
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # not TOML, a number too long, brackets nested too deep
        lines = str(error).splitlines()
        reason = lines[0][:120] if lines and not isinstance(error, RecursionError) else "nested too deep"
        raise ConfigError(f"{where}: not valid TOML: {reason}") from None


def read_toml(path: Path) -> dict[str, Any]:
    """The table in a TOML file. Raises ConfigError naming the file."""
    try:
        text = read_bytes(path, ConfigError, LARGEST_TOML).decode()
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: cannot read the settings (not a text file)") from None
    return parse_toml(text.replace("\r\n", "\n"), str(path))


def load_toml(cls: type[T], path: str | Path, overrides: Mapping[str, Any] | Iterable[str] = ()) -> T:
    """An instance of the dataclass `cls` from the TOML file at `path`.

    `overrides` are laid over the file: a mapping of dotted keys to values, or strings such as
    `"optimizer.lr=3e-4"` whose right side is read as TOML (or kept as text where it is no TOML value).
    Raises ConfigError naming the file for a missing or malformed file and for every unknown or unfit key.
    """
    path = Path(path)
    values = read_toml(path)
    pairs = overrides.items() if isinstance(overrides, Mapping) else map(parse_override, overrides)
    for key, value in pairs:
        _set_dotted(values, key, value)
    return build(cls, values, str(path))


def parse_override(text: str) -> tuple[str, Any]:
    """`"a.b=1"` as `("a.b", 1)`. Raises ConfigError when there is no `=`."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"override {show(text)}: write it as key=value")
    try:
        return key.strip(), parse_toml(f"x = {value}", "override")["x"]
    except ConfigError:
        return key.strip(), value.strip()


def _set_dotted(values: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ConfigError(f"override {show(key)}: {show(parent)} is a value, not a table")
    values[last] = value


def _name(hint: Any) -> str:
    if hint is type(None):
        return "nothing"
    return getattr(hint, "__name__", None) or str(hint).replace("typing.", "")
