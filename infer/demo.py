"""The demonstration: the embedded model converses with a recorded user that comes with the product.

    python -m infer.demo --out out/demo

The same as `infer.simulate` on that recording, whose words are known, so that the report shows both sides.
"""

from __future__ import annotations

import importlib.resources
import sys
from collections.abc import Sequence
from pathlib import Path

from infer import cli, simulate


def main(argv: Sequence[str] | None = None) -> int:
    recording = Path(str(importlib.resources.files("duplex"))) / "assets" / "demo"
    parser = cli.Parser("infer.demo", "A conversation with a recorded user on the embedded model.")
    parser.add_argument("--out", default="out/demo", metavar="DIR", help="folder for the results")
    cli.add_model_options(parser)
    parser.set_defaults(**{**simulate.DEFAULTS, "user": [str(recording / "user.wav")],
                           "user_words": str(recording / "user.json")})
    return cli.run(parser, simulate.run, argv)


if __name__ == "__main__":
    sys.exit(main())
