"""Promises of the trainer: killed at random points it goes on as if nothing had happened; a full disk spoils nothing.

A small model (`train/recipes/toy.toml`) is trained on counting rows. Every run is a process of its own.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.trust import SECTIONS, Options, Promise
from train.shards import write_shard
from train.trust import SAVING, difference, killed_again_and_again, last_step

AREA = SECTIONS["training"]
RECIPE = Path(__file__).resolve().parents[2] / "train" / "recipes" / "toy.toml"
SETTINGS = ["train.batch=2", "train.frames=40", "train.keep_every=2", "train.validate_every=50", "train.token_dropout=0.1",
            "machine.accelerator=cpu", "watch.every=0"]
STEPS_A_KILL = 7  # three checkpoints a kill, and a step to spare
ROWS, CARD, WORDS, PAD = 5, 64, 260, 3


def corpus(folder: Path, seed: int) -> Path:
    """Shards of dialogues whose codes count up, with a run of words now and then."""
    rng = np.random.default_rng(seed)
    metadata = {"codec": "counting", "tokenizer": "counting", "codebooks": "2", "vocabulary": str(WORDS),
                "cardinality": str(CARD)}
    for split, count in (("train", 8), ("test", 2)):
        (folder / split).mkdir(parents=True, exist_ok=True)
        made = []
        for _ in range(count):
            codes = (np.arange(150)[None] + rng.integers(0, CARD, (ROWS, 1))) % CARD
            codes[0] = PAD
            codes[0, 45:140] = np.where(np.arange(95) % 30 < 6, rng.integers(4, WORDS, 95), PAD)
            made.append(codes)
        write_shard(folder / split / "shard-00000.safetensors", made, metadata)
    return folder


def run(options: Options) -> Iterator[Promise]:
    """Kills, then full disks."""
    folder = options.out / "training"
    shutil.rmtree(folder, ignore_errors=True)
    kills = 6 if options.short else 20
    arguments = [str(RECIPE), "--shards", str(corpus(folder / "shards", options.seed)),
                 "--set", *SETTINGS, f"train.steps={STEPS_A_KILL * kills}", f"train.seed={options.seed}"]
    yield killed(arguments, folder, kills, options.seed)
    yield from full_disks(arguments, folder)


def killed(arguments: list[str], folder: Path, kills: int, seed: int) -> Promise:
    """kill -9 at random points, half of them inside a save."""
    where = Counter(killed_again_and_again(arguments, folder, kills, seed))
    found = difference(folder / "whole", folder / "killed")
    points = ", ".join(f"{count} {moment}" for moment, count in where.items())
    measured = f"{where.total()} kills ({points}) over {last_step(folder / 'whole')} steps: {found or 'no bit differs'}"
    return Promise(AREA, "kill -9 at random points, saves included: resumes from the last complete state, the sequence unchanged",
                   f"{kills} of {kills}, losses, samples and weights equal to the last bit", measured,
                   found is None and where.total() == kills and where[SAVING] > 0,
                   "a toy's run in a process of its own, killed and started again, beside one that was left alone "
                   "(`python -m train.trust`)")


def full_disks(arguments: list[str], folder: Path) -> Iterator[Promise]:
    """A full disk, in a file system of a few megabytes."""
    name, limit = "full disk: a clear stop, nothing corrupted", "one line, status 2; the checkpoint whole, the resumed run equal"
    how = "a file system of its own (tmpfs in a namespace), filled while the run stands still after its first checkpoint"
    command = ["unshare", "-Urm", sys.executable, "-m", "benchmarks.trust.disk", "--folder", str(folder / "disk"),
               "--whole", str(folder / "whole"), *arguments]
    may = shutil.which("unshare") and subprocess.run(["unshare", "-Urm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"],
                                                     capture_output=True).returncode == 0
    if not may:
        yield Promise(AREA, name, limit, "", None, "needs Linux with user namespaces, to make a small file system")
        return
    done = subprocess.run(command, capture_output=True, text=True, cwd=RECIPE.parents[2])
    cases = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    for case in cases:
        yield Promise(AREA, f"{name} ({case['case']})", limit, case["wrong"] or f"as promised: \"{case['said']}\"",
                      not case["wrong"], how)
    if done.returncode:
        yield Promise(AREA, name, limit, f"the trial failed: {done.stderr.strip().splitlines()[-1:]}", False, how)
