"""Model files from the Hugging Face hub, with one-line errors where there is no network or no such model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from duplex.errors import CheckpointError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def fetch(repo: str, names: Sequence[str], revision: str | None = None) -> Path:
    """The local folder of the snapshot of `repo` ("org/name"), with at least those of `names` that it has.

    Files that were fetched before are used without a network. Raises CheckpointError when the hub cannot be
    reached or does not have the model.
    """
    from huggingface_hub import snapshot_download  # slow to import, and needed for hub ids alone

    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(names)))
    except (OSError, ValueError) as error:  # the hub's own errors derive from these
        reason = type(error).__name__
        raise CheckpointError(
            f"{repo}: no such folder here, and the hub did not give it ({reason}); download it where "
            "there is a network and give the path of the local folder") from None


def fetch_file(address: str) -> Path:
    """The local path of a file given as "hf://org/name/path/in/repo"."""
    parts = address.removeprefix("hf://").split("/")
    repo, path = "/".join(parts[:2]), parts[2:]
    if not path or not HUB_ID.fullmatch(repo) or any(part in ("", ".", "..") for part in path):
        raise CheckpointError(f"{address!r}: not a hub address; write hf://org/name/file")
    file = fetch(repo, ["/".join(path)]).joinpath(*path)
    if not file.is_file():
        raise CheckpointError(f"{address}: the hub has no such file; check the name")
    return file
