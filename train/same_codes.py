"""Whether two codecs give the same codes: what turns codes back into sound may have been trained on since."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from duplex.jsonfile import read_configuration
from duplex.safefile import Header, TensorReader, read_header

DECODER = ("upsample", "decoder_transformer", "decoder")
"""The parts of a codec that turn codes into sound; all others have a say in what the codes are."""
TUNED = "tuned.json"
"""In the folder of a codec that learnt to be understood by a model (stage "hearing"): what codes that model knew before."""


def _hearing(header: Header) -> set[str]:
    return {name for name in header.tensors if name.split(".")[0] not in DECODER}


def same_codes(a: Path, b: Path) -> bool:
    """Whether two codecs' safetensors files give the same codes; one may have more codebooks than the other."""
    first, second = read_header(a), read_header(b)
    one, other = _hearing(first), _hearing(second)
    if any(not name.startswith("quantizer.") for name in one ^ other):
        return False
    with TensorReader(first) as mine, TensorReader(second) as theirs:
        return all(torch.equal(mine.read(name), theirs.read(name)) for name in sorted(one & other))


def codes_fingerprint(codec: Path) -> str:
    """First 16 hex digits of a SHA-256 over all weights of a safetensors file that codes depend on."""
    header, total = read_header(codec), hashlib.sha256()
    with TensorReader(header) as reader:
        for name in sorted(_hearing(header)):
            total.update(name.encode() + reader.read(name).contiguous().numpy().tobytes())
    return total.hexdigest()[:16]


def tuned_for(folder: Path, codec: Path) -> bool:
    """Whether the codec in ``folder`` was made of ``codec``, to be understood by the language model that knows its codes."""
    return (folder / TUNED).is_file() and read_configuration(folder / TUNED).get("codes") == codes_fingerprint(codec)
