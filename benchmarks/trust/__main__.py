"""Try the promises of a service and write the report: JSON, a page, a Markdown table.

    python -m benchmarks.trust                              # the long forms: about four hours, two of them a soak
    python -m benchmarks.trust --short                      # the short ones
    python -m benchmarks.trust --only faults access         # some sections; the others keep their lines in the report
    python -m benchmarks.trust --merge a/trust.json b/trust.json    # reports made elsewhere: the newest of each section

The exit status is 1 when a promise is broken.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from benchmarks import record
from benchmarks.trust import SECTIONS, Options, Promise, report
from duplex.errors import InputError
from infer import cli

DEFAULT_OUT = "out/trust"


def parser() -> cli.Parser:
    parser = cli.Parser("benchmarks.trust", "Try the promises of a service under load, faults and bad input.")
    parser.add_argument("--short", action="store_true", help="the short forms: minutes in place of hours")
    parser.add_argument("--only", nargs="+", choices=tuple(SECTIONS), metavar="SECTION",
                        help=f"some of: {', '.join(SECTIONS)}; the others keep their lines in the report")
    parser.add_argument("--merge", nargs="+", metavar="FILE", help="run nothing; put these reports into the one in --out")
    parser.add_argument("--out", default=DEFAULT_OUT, metavar="FOLDER", help="where the report goes")
    parser.add_argument("--model", default="tiny", metavar="MODEL", help="the model behind the server")
    parser.add_argument("--minutes", type=cli.number(0.01, 24 * 60), metavar="M", help="length of a section's longest run")
    parser.add_argument("--soak", nargs="+", default=[], metavar="FILE",
                        help="judge records that benchmarks.trust.soak made before, in place of new ones")
    parser.add_argument("--seed", type=cli.at_least(0), default=0)
    return parser


def section(name: str, options: Options) -> list[Promise]:
    """The lines of one section; one that ends in an error is a broken promise, and the others go on."""
    area, lines = SECTIONS[name], []
    try:
        module = importlib.import_module(f"benchmarks.trust.{name}")
        for line in module.run(options):
            lines.append(line)
            print(f"  {report.verdict(line.met).strip('*'):12}  {line.promise}: {line.measured or line.how} (limit {line.limit})",
                  flush=True)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("benchmarks."):
            raise
        lines.append(Promise(area, "the whole section", "", "", None, f"{error.name} is not installed"))
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        lines.append(Promise(area, "the section runs to its end", "no error", f"{type(error).__name__}: {error}"[:300], False,
                             "it ended in this error; what came before stands above"))
    return lines


def run(args: argparse.Namespace) -> int:
    """Runs the sections one after another; gives the exit status."""
    out, soaks = Path(args.out), tuple(map(Path, args.soak))
    for soak in soaks:
        if not soak.is_file():
            raise InputError(f"--soak {soak}: no such file; give a record that benchmarks.trust.soak wrote")
    out.mkdir(parents=True, exist_ok=True)
    if args.merge:
        result = report.joined([record.read(file) for file in args.merge] + [had for had in [report.read(out)] if had])
        report.write(out, result)
        print(f"wrote {out / report.FILE} and {out / 'index.html'}: {len(report.broken(result))} promises broken")
        return 1 if report.broken(result) else 0
    options = Options(args.short, out, args.model, args.minutes, args.seed, soaks)
    report.read(out)  # complains now about a file that is something else, not after hours
    result: dict | None = None
    for name in args.only or SECTIONS:
        print(SECTIONS[name], flush=True)
        begun = time.monotonic()
        lines = section(name, options)
        # Read again: another section may have been run meanwhile.
        result = report.merged(report.read(out), SECTIONS[name], lines, command=_command(args, name), seed=args.seed,
                               short=args.short, seconds=time.monotonic() - begun)
        report.write(out, result)
    assert result is not None
    mine = [line for line in report.broken(result) if line.area in {SECTIONS[name] for name in args.only or SECTIONS}]
    print(f"wrote {out / report.FILE} and {out / 'index.html'}: {len(mine)} promises broken")
    return 1 if mine else 0


def _command(args: argparse.Namespace, name: str) -> str:
    """The command that measures this section again, without folders of this machine."""
    parts = ["python -m benchmarks.trust", *(["--short"] if args.short else []), f"--only {name}"]
    parts += [f"--model {Path(args.model).name}"] if args.model != "tiny" else []
    parts += [f"--minutes {args.minutes:g}"] if args.minutes is not None else []
    parts += [f"--soak {' '.join(Path(soak).name for soak in args.soak)}"] if args.soak and name == "sessions" else []
    return " ".join(parts)


def main(argv: Sequence[str] | None = None) -> int:
    status: list[int] = []
    return cli.run(parser(), lambda args: status.append(run(args)), argv) or status[0]


if __name__ == "__main__":
    sys.exit(main())
