"""A deeper model that says what it said before: new layers begin as copies that add nothing (Wu et al. 2024).

    python -m train.grow FOLDER [--layers 8] [--depth-layers 4] --out DEEPER

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

_LAYER = re.compile(r"(transformer|depformer)\.layers\.(\d+)\.(.*)")
_ADDS = re.compile(r"(self_attn\.out_projs\.\d+|gating\.(\d+\.)?linear_out|linear2)\.weight")
"""What a layer adds to the stream passes through these (without biases, as in all checkpoints of this family)."""


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser("grow", __doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, help="of the temporal transformer, more than it has")
    parser.add_argument("--depth-layers", type=int, help="of the depth transformer, more than it has")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--half", action="store_true", help="store the weights as 16-bit floats")
    return cli.run(parser, run, argv)


def sources(before: int, after: int) -> list[tuple[int, bool]]:
    """For each of ``after`` layers: which of the ``before`` old ones it comes from, and whether it is the old one itself."""
    found = [place * before // after for place in range(after)]
    return [(old, place == 0 or found[place - 1] != old) for place, old in enumerate(found)]


def deeper(model: DuplexLM, layers: int | None = None, depth_layers: int | None = None) -> DuplexLM:
    """The same function with more layers in either transformer (None: as many); ConfigError where they would be no more."""
    config = model.config
    wanted = {"transformer": ("--layers", config.num_layers, layers),
              "depformer": ("--depth-layers", int(config.depformer_num_layers), depth_layers)}
    if layers is None and depth_layers is None:
        raise ConfigError("nothing to grow: give --layers, --depth-layers or both")
    places = {}
    for part, (option, have, want) in wanted.items():
        if want is not None and (want <= have or not config.dep_q and part == "depformer"):
            raise ConfigError(f"{option} {want}: the model has {have} already; give a larger number" if want <= have else
                              f"{option}: the model has no depth transformer; leave it out")
        places[part] = sources(have, want or have)
    old = model.state_dict()
    grown = DuplexLM(dataclasses.replace(config, num_layers=len(places["transformer"]),
                                         depformer_num_layers=len(places["depformer"])))

    def weight(name: str) -> Tensor:
        found = _LAYER.fullmatch(name)
        if not found:
            return old[name]
        source, itself = places[found[1]][int(found[2])]
        value = old[f"{found[1]}.layers.{source}.{found[3]}"]
        return value if itself or not _ADDS.fullmatch(found[3]) else torch.zeros_like(value)

    grown.load_state_dict({name: weight(name) for name in grown.state_dict()})
    return grown.eval()


def run(args: argparse.Namespace) -> None:
    """Writes the model folder, whole or not at all."""
    model = load_model(args.folder)
    grown = deeper(model.lm, args.layers, args.depth_layers)
    described = {key: value for key, value in model.meta.items() if key in FOLDER_KEYS and not key.endswith("_name")}
    save_lm(grown, args.out, described, codec=model.codec, tokenizer=args.folder / TOKENIZER_NAME,
            own=model.meta.get(OWN_NAME), dtype=torch.float16 if args.half else None)
    counts = [sum(p.numel() for p in lm.parameters()) / 1e6 for lm in (model.lm, grown)]
    before, after = model.config, grown.config
    print(f"{args.out}: {after.num_layers} layers in place of {before.num_layers}, {after.depformer_num_layers} of the depth "
          f"transformer in place of {before.depformer_num_layers}, {counts[1]:.1f} M parameters in place of {counts[0]:.1f} M")


if __name__ == "__main__":
    raise SystemExit(main())
