"""A deeper model that says what it said before: new temporal layers begin as copies that add nothing (Wu et al. 2024).

    python -m train.grow FOLDER --layers 8 --out DEEPER

FOLDER is a model folder. New layers are spread evenly behind the old ones; each starts with the weights of the layer before it,
the projections by which it adds to the stream at zero, so that the first step of training begins where the small model ended
("block expansion", arXiv:2401.02415). Train on with `python -m train.fit … --start DEEPER --set model.num_layers=8`.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from pathlib import Path

import torch
from torch import Tensor

from duplex.checkpoint import load_model
from duplex.config import FOLDER_KEYS
from duplex.errors import ConfigError
from duplex.model.lm import DuplexLM
from duplex.saving import OWN_NAME, TOKENIZER_NAME, save_lm
from train import cli

_LAYER = re.compile(r"transformer\.layers\.(\d+)\.(.*)")
_ADDS = re.compile(r"(self_attn\.out_projs\.\d+|gating\.linear_out|linear2)\.weight")
"""What a layer adds to the stream passes through these (without biases, as in all checkpoints of this family)."""


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser("grow", __doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, required=True, help="of the temporal transformer, more than it has")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--half", action="store_true", help="store the weights as 16-bit floats")
    return cli.run(parser, run, argv)


def sources(before: int, after: int) -> list[tuple[int, bool]]:
    """For each of ``after`` layers: which of the ``before`` old ones it comes from, and whether it is the old one itself."""
    found = [place * before // after for place in range(after)]
    return [(old, place == 0 or found[place - 1] != old) for place, old in enumerate(found)]


def deeper(model: DuplexLM, layers: int) -> DuplexLM:
    """The same function with more temporal layers; ConfigError where they would be no more."""
    config = model.config
    if layers <= config.num_layers:
        raise ConfigError(f"--layers {layers}: the model has {config.num_layers} already; give a larger number")
    old = model.state_dict()
    grown = DuplexLM(dataclasses.replace(config, num_layers=layers))
    places = sources(config.num_layers, layers)

    def weight(name: str) -> Tensor:
        found = _LAYER.fullmatch(name)
        if not found:
            return old[name]
        source, itself = places[int(found[1])]
        value = old[f"transformer.layers.{source}.{found[2]}"]
        return value if itself or not _ADDS.fullmatch(found[2]) else torch.zeros_like(value)

    grown.load_state_dict({name: weight(name) for name in grown.state_dict()})
    return grown.eval()


def run(args: argparse.Namespace) -> None:
    """Writes the model folder, whole or not at all."""
    model = load_model(args.folder)
    grown = deeper(model.lm, args.layers)
    described = {key: value for key, value in model.meta.items() if key in FOLDER_KEYS and not key.endswith("_name")}
    save_lm(grown, args.out, described, codec=model.codec, tokenizer=args.folder / TOKENIZER_NAME,
            own=model.meta.get(OWN_NAME), dtype=torch.float16 if args.half else None)
    counts = [sum(p.numel() for p in lm.parameters()) / 1e6 for lm in (model.lm, grown)]
    print(f"{args.out}: {args.layers} layers in place of {model.config.num_layers}, {counts[1]:.1f} M parameters in place of "
          f"{counts[0]:.1f} M")


if __name__ == "__main__":
    raise SystemExit(main())
