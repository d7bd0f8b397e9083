"""Files that the training commands share: written whole or not at all, and the folder of a trained codec."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from duplex.jsonfile import read_configuration

if TYPE_CHECKING:
    from duplex.codec import MimiCodec, MimiConfig


def replace_file(path: Path, write: Callable[[Path], object], shared: bool = False) -> None:
    """Call ``write`` with a temporary name beside ``path``, then rename: a reader never sees half a file.

    What was written of a file that could not be finished (a full disk) is removed; what a kill leaves is overwritten next time.
    ``shared``: other processes may be writing the same file now.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part" if shared else path.name + ".part")
    try:
        write(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def trained_codec(folder: Path, n_codebooks: int, device: str = "cpu") -> MimiCodec:
    """The codec of a folder of train.codec (mimi.safetensors and mimi.json), using its first ``n_codebooks``."""
    from duplex.codec import MimiCodec  # here: most commands write files and need no codec

    return MimiCodec.from_files(folder / "mimi.safetensors", codec_config(folder), n_codebooks, device)


def codec_config(folder: Path) -> MimiConfig:
    """The sizes of the codec in a folder of train.codec. Raises ConfigError for a mimi.json that is missing or none."""
    from duplex.codec import MimiConfig

    sizes = folder / "mimi.json"
    return MimiConfig.from_dict(read_configuration(sizes), str(sizes))
