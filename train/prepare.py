"""Encode two-channel recordings into training shards.

    python -m train.prepare DIALOGUES --codec CODEC --tokenizer FILE.model --out SHARDS [--workers 2 | --ray auto]

DIALOGUES is a folder of NAME.wav and NAME.json (the moshi-finetune layout), a manifest SET.jsonl, or a folder with audio/ and
text/ (the KAME layout); mono recordings come with NAME.rttm or NAME.segments.json. Unusable recordings are skipped and listed
with their reason in SHARDS/rejected.jsonl; more than 5 % of them makes the exit status 1. Shards appear whole and finished
ones are kept, so a stopped run goes on and ends with the bytes of an unbroken one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from duplex.errors import DuplexError, InputError
from duplex.jsonfile import read_json
from duplex.text import Word
from duplex.units import frames_to_seconds
from train import cli
from train.encode import Report, Settings, make_group, report_path
from train.files import replace_file
from train.own.labels import read_spoken
from train.own.layout import Item, find_items
from train.own.options import add_reading, reading_of
from train.own.recording import Reading
from train.shards import INDEX, PATTERN, write_index

TOLERATED = 0.05
"""Share of rejected recordings from which the exit status is 1."""
PLAN = "plan.json"
Group = tuple[int, list[Item]]


def read_words(path: Path) -> list[Word]:
    """The system's words of an alignment file (label SPEAKER_MAIN, or A); InputError as in `train.own.labels`."""
    return [Word(w.text, w.start, w.end) for w in read_spoken(path) if w.speaker in Reading().left]


def part_of(text: str) -> tuple[int, int]:
    """"1/4" -> (1, 4): which share of the shards to make; InputError for anything else."""
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise InputError(f"--part {text}: give I/N with I from 0 to N - 1, such as 0/2")
    return int(index), int(count)


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser("prepare", __doc__)
    parser.add_argument("dialogues", type=Path, help="folder or manifest of recordings")
    parser.add_argument("--codec", type=Path, required=True,
                        help="folder of train.codec, a model folder, or a published mimi.safetensors")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--codebooks", type=int, default=8)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--per-shard", type=int, default=16, help="recordings in a shard")
    parser.add_argument("--seconds", type=float, default=Settings.seconds, help="cut longer recordings at a silence")
    parser.add_argument("--part", default="0/1", help="I/N: do every N-th shard only (N commands share the work)")
    parser.add_argument("--workers", type=int, default=1, help="processes on this machine")
    parser.add_argument("--ray", metavar="ADDRESS", help="run on Ray: the cluster's address, auto, or local for one of --workers")
    parser.add_argument("--device", default="cpu", help="where the codec runs: cpu or cuda")
    parser.add_argument("--annotate", metavar="MODEL", nargs="?", const="packaged",
                        help="recognise words where none are given, with this Whisper model (a folder or a name)")
    add_reading(parser)
    cli.add_threads(parser)
    return cli.run(parser, run, argv)


def run(args: argparse.Namespace) -> int:
    """Makes the shards that are not there yet; the exit status is 1 when more than 5 % of the recordings are unusable."""
    reading = reading_of(args)
    if args.annotate:
        from train.annotate import annotate_missing

        annotate_missing(find_items(args.dialogues), reading, args.annotate, args.threads)
    items = find_items(args.dialogues)
    settings = Settings(args.codec.absolute() if args.codec.exists() else args.codec, args.tokenizer.absolute(), args.codebooks,
                        reading, args.seconds, args.device, args.threads)
    index, count = part_of(args.part)
    if args.per_shard < 1 or args.seconds < 1:
        raise InputError("--per-shard and --seconds must be at least 1")
    agree(args.out, settings, items, args.per_shard)
    groups = [(n, items[i : i + args.per_shard]) for n, i in enumerate(range(0, len(items), args.per_shard))]
    mine = [group for group in groups if group[0] % count == index]
    todo = [group for group in mine if not report_path(args.out, group[0]).exists()]
    started = time.monotonic()
    try:
        for done, _ in enumerate(_reports(todo, settings, args), 1):
            left = (time.monotonic() - started) / done * (len(todo) - done) / 60
            print(f"\rshard {len(mine) - len(todo) + done}/{len(mine)}, {left:.1f} min left ", end="", flush=True)
    except BrokenProcessPool:
        raise InputError("a worker was killed (is there enough memory?); finished shards are kept, start again") from None
    finally:
        # Whatever ended the run, what is finished is listed; a full disk has its own error already.
        with contextlib.suppress(OSError, DuplexError):
            collect(args.out, len(groups))
    reports = collect(args.out, len(groups))
    print(f"\r{summary(reports, args.out)}")
    done = sum(len(groups[report.number][1]) for report in reports)
    rejected = sum(len(report.rejected) for report in reports)
    if rejected > TOLERATED * done:
        print(f"{rejected} of {done} recordings rejected, more than {TOLERATED:.0%}: see {args.out / 'rejected.jsonl'}",
              file=sys.stderr)
        return 1
    return 0


def _reports(todo: Sequence[Group], settings: Settings, args: argparse.Namespace) -> Iterator[Report]:
    out = args.out.absolute()
    if args.ray:
        from train.on_ray import reports_on_ray

        yield from reports_on_ray(todo, settings, out, args.ray, args.workers)
    elif args.workers > 1 and len(todo) > 1:
        with ProcessPoolExecutor(args.workers) as pool:
            futures = [pool.submit(make_group, settings, out, number, items) for number, items in todo]
            try:
                for future in as_completed(futures):
                    yield future.result()
            finally:
                pool.shutdown(cancel_futures=True)
    else:
        for number, items in todo:
            yield make_group(settings, out, number, items)


def agree(out: Path, settings: Settings, items: Sequence[Item], per_shard: int) -> None:
    """Note what the shards of ``out`` are made of; InputError when it holds shards of something else."""
    names = [[item.name, item.audio.stat().st_size if item.audio.is_file() else None] for item in items]
    plan = settings.plan() | {"per_shard": per_shard, "recordings": names}
    text = json.dumps(plan, sort_keys=True) + "\n"
    path = out / PLAN
    if path.exists():
        before = read_json(path, mend="delete it with its shards and prepare again")
        if not isinstance(before, dict):
            raise InputError(f"{path}: not the plan of a preparation; delete it with its shards and prepare again")
        changed = [key for key in plan if json.loads(text)[key] != before.get(key)]
        if changed:
            raise InputError(f"{out}: holds shards made with other {', '.join(changed)}; prepare into an empty folder")
        return
    if next(out.glob(PATTERN), None):
        raise InputError(f"{out}: holds shards of another preparation; prepare into an empty folder")
    out.mkdir(parents=True, exist_ok=True)
    replace_file(path, lambda part: part.write_text(text), shared=True)


def collect(out: Path, groups: int) -> list[Report]:
    """The reports of the finished groups; writes rejected.jsonl and, when all groups are finished, the index of the shards."""
    paths = [report_path(out, number) for number in range(groups)]
    reports = [Report.from_json(path.read_text()) for path in paths if path.exists()]
    text = "".join(json.dumps(entry) + "\n" for report in reports for entry in report.rejected)
    replace_file(out / "rejected.jsonl", lambda part: part.write_text(text), shared=True)
    if len(reports) == groups and not (out / INDEX).exists() and any(report.dialogues for report in reports):
        write_index(out)
    return reports


def summary(reports: Sequence[Report], out: Path) -> str:
    """What was made, in a few lines."""
    frames, words = sum(r.frames for r in reports), [sum(r.words[side] for r in reports) for side in (0, 1)]
    events = sum((Counter(r.events) for r in reports), Counter())
    rejected = sum(len(r.rejected) for r in reports)
    lines = [f"{sum(r.dialogues > 0 for r in reports)} shards in {out}: {sum(r.dialogues for r in reports)} dialogues, "
             f"{frames_to_seconds(frames) / 3600:.2f} h, {words[0]} words of the system, {words[1]} of the user; "
             f"{rejected} recordings rejected"]
    lines += [f"  {kind}: {count}" for kind, count in sorted(events.items())]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
