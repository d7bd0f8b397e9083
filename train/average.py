"""The mean of two models that began alike: half way between them is often better than either (Wortsman et al. 2022).

    python -m train.average FIRST SECOND --out FOLDER [--share 0.5]

FIRST and SECOND are model folders of one shape with the same codec and tokenizer; everything but the language model's weights is
FIRST's. Models that were not trained from a common ancestor have no mean that speaks.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from duplex.checkpoint import load_model
from duplex.config import FOLDER_KEYS
from duplex.errors import ConfigError
from duplex.saving import MIMI_NAME, OWN_NAME, TOKENIZER_NAME, save_lm
from train import cli
from train.same_codes import same_codes
from train.shards import fingerprint


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser("average", __doc__)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--share", type=float, default=0.5, help="of the second, between 0 and 1")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--half", action="store_true", help="store the weights as 16-bit floats")
    return cli.run(parser, run, argv)


@torch.no_grad()
def run(args: argparse.Namespace) -> None:
    """Writes the model folder, whole or not at all."""
    if not 0 <= args.share <= 1:
        raise ConfigError(f"--share {args.share:g}: use a number between 0 and 1")
    first, second = load_model(args.first), load_model(args.second)
    if first.config != second.config:
        raise ConfigError(f"{args.second}: is of another shape than {args.first}; average models of one recipe")
    tokenizers = [args.first / TOKENIZER_NAME, args.second / TOKENIZER_NAME]
    if all(path.is_file() for path in tokenizers) and len({fingerprint(path) for path in tokenizers}) > 1:
        raise ConfigError(f"{args.second}: has another tokenizer than {args.first}; average models of one corpus")
    if not same_codes(*(folder / MIMI_NAME for folder in (args.first, args.second))):
        raise ConfigError(f"{args.second}: its codec gives other codes than that of {args.first}; average models of one corpus")
    other = second.lm.state_dict()
    for name, weight in first.lm.state_dict().items():
        if weight.is_floating_point():
            weight.lerp_(other[name].to(weight), args.share)
    described = {key: value for key, value in first.meta.items() if key in FOLDER_KEYS and not key.endswith("_name")}
    save_lm(first.lm, args.out, described, codec=first.codec, tokenizer=tokenizers[0], own=first.meta.get(OWN_NAME),
            dtype=torch.float16 if args.half else None)
    print(f"{args.out}: {100 * (1 - args.share):g} % of {args.first}, {100 * args.share:g} % of {args.second}")


if __name__ == "__main__":
    raise SystemExit(main())
