"""How many words the listening head of a training run gets wrong, put on record: `train.hear` as a result.

    python -m benchmarks.heard --run RUN --bank BANK --codec CODEC --tokenizer FILE.model --json docs/results/heard.json

It needs the run and the bank that the model was trained from, and is therefore no part of `make bench`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from benchmarks import record
from train import cli, hear


def run(args: argparse.Namespace) -> None:
    """Measures, prints the table, writes."""
    result = record.stamp("heard", args.seed, rows=hear.measure(args))
    result["command"] = f"python -m benchmarks.heard --run RUN --bank BANK --codec CODEC --tokenizer TOKENIZER " \
                        f"--clips {args.clips}"
    print(table(result))
    record.write(args.json, result)
    print(json.dumps(result))


def table(result: dict) -> str:
    """The result as a Markdown table."""
    lines = ["| voices | clips | words | words wrong |", "|---|---:|---:|---:|"]
    return "\n".join(lines + [f"| {name} | {row['clips']} | {row['words']} | {100 * row['wer']:.0f} % |"
                              for name, row in sorted(result["rows"].items())])


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser("benchmarks.heard", "Count the words that a run's listening head gets wrong.")
    hear.add_options(parser)
    parser.add_argument("--json", metavar="FILE", help="also write the result there")
    return cli.run(parser, run, argv)


if __name__ == "__main__":
    sys.exit(main())
