"""Checkpoints that survive a kill at any moment, and the ledger of losses and samples that proves it.

A checkpoint is written under another name, forced to the disk and renamed: ``last.ckpt`` is always a whole one. The ledger
(``ledger.jsonl``, one line a step) is cut back to the checkpoint on resuming, so that it reads as if nothing had happened.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from duplex.errors import CheckpointError, ConfigError
from train.files import replace_file
from train.together import mean_of_all

LAST, POINTER, LEDGER = "last.ckpt", "last.txt", "ledger.jsonl"
MADE_WITH = "made_with.json"
"""Fingerprints of the tokenizer that the corpus of a run was made with and of all that its codes depend on."""
_DRAIN = 50  # steps between looks at the losses: each look makes an accelerator wait


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Makes the folder of a run and holds it; ConfigError while another run does. A killed run holds nothing."""
    out.mkdir(parents=True, exist_ok=True)
    with open(out / ".lock", "w") as lock:
        if rank_zero_only.rank == 0:  # the other processes of a run share its folder
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(f"{out}: another process trains there; stop that one, wait for it, or give another --out"
                                  ) from None
        yield


def resume_point(out: Path) -> Path | None:
    """The newest whole checkpoint of a run: a file, or the folder of a distributed one; None when there is none."""
    if (out / POINTER).exists():
        folder = out / (out / POINTER).read_text().strip()
        if not folder.is_dir():
            raise CheckpointError(f"{out / POINTER}: names {folder.name}, which is not there; put it back or start a new --out")
        return folder
    return out / LAST if (out / LAST).exists() else None


def check_space(out: Path, parameters: int, trained: int) -> None:
    """Raises ConfigError when the disk has no room for two checkpoints (weights and two moments, in float32)."""
    needed = 2 * 4 * (parameters + 2 * trained)
    free = shutil.disk_usage(out).free
    if free < needed:
        unit, size = ("GB", 1e9) if needed >= 1e9 else ("MB", 1e6)
        raise ConfigError(f"{out}: {free / size:.2f} {unit} are free, two checkpoints need {needed / size:.2f} {unit}; "
                          "free some space or choose another --out")


class Keeper(L.Callback):
    """Saves every so many steps and at the end of the run, whole or not at all; the newest one is kept."""

    def __init__(self, out: Path, every: int, ledger: Ledger):
        self.out, self.every, self.ledger = out, every, ledger
        self.saved = -1

    def on_train_start(self, trainer: L.Trainer, *_: Any) -> None:
        """What the run goes on from is on the disk already."""
        self.saved = trainer.global_step

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Saves at multiples of ``every`` optimiser steps."""
        if trainer.global_step % self.every == 0 and trainer.global_step != self.saved:
            self.save(trainer)

    def on_train_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Saves the last step."""
        if trainer.global_step != self.saved:
            self.save(trainer)

    def save(self, trainer: L.Trainer) -> None:
        """One checkpoint of the present step; a loss that is not finite is never saved. ConfigError when the disk is full."""
        self.ledger.drain(force=True)
        step, part = trainer.global_step, self.out / (LAST + ".part")
        try:
            if trainer.strategy.__class__.__name__ == "ModelParallelStrategy":
                self._save_shares(trainer, step)
            else:
                trainer.save_checkpoint(part)
                if trainer.is_global_zero:
                    _to_disk(part)
                    os.replace(part, self.out / LAST)
                trainer.strategy.barrier()
        except (OSError, RuntimeError, CheckpointException) as error:
            part.unlink(missing_ok=True)
            reason = unwritable(error)
            if reason is None:
                raise
            raise ConfigError(f"{self.out}: the checkpoint of step {step} cannot be written ({reason}); the one before it is "
                              "whole: free some space and start again") from None
        self.saved = step

    def _save_shares(self, trainer: L.Trainer, step: int) -> None:
        """A distributed checkpoint is a folder; a file that is replaced in one go says which one counts."""
        folder = self.out / f"step-{step:08d}"
        if trainer.is_global_zero and folder.exists():
            shutil.rmtree(folder)  # what a kill left of it
        trainer.strategy.barrier()
        trainer.save_checkpoint(folder)
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            for file in folder.iterdir():
                _to_disk(file)
            replace_file(self.out / POINTER, lambda part: part.write_text(folder.name))
            for old in self.out.glob("step-*"):
                if old != folder:
                    shutil.rmtree(old)


def unwritable(error: BaseException) -> str | None:
    """Why a checkpoint could not be written; None for an error that has another cause than the disk."""
    if isinstance(error, CheckpointException):  # of several processes, each with its own
        reasons = [unwritable(failure) for failure, _ in error.failures.values()]
        return next((reason for reason in reasons if reason), None)
    if isinstance(error, OSError):
        return error.strerror or str(error)
    hidden = any(sign in str(error) for sign in ("PytorchStreamWriter", "inline_container"))  # torch's writer hides the cause
    return "torch could not write" if hidden else None


def _to_disk(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


class Ledger(L.Callback):
    """Writes the loss and the first and last sample of every optimiser step; stops the run at a loss that is not finite."""

    def __init__(self, out: Path, mend: str = "lower train.lr or train.depth_lr"):
        self.path, self.mend, self.first, self.done = out / LEDGER, mend, False, 0
        self.lines: list[tuple[int, list[Tensor], list[Tensor]]] = []

    def on_train_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Cuts off what lies behind the checkpoint that the run goes on from."""
        self.first, self.done = trainer.is_global_zero, trainer.global_step
        if self.first:
            kept = [line for line in entries(self.path) if line["step"] < trainer.global_step]
            replace_file(self.path, lambda part: part.write_text("".join(json.dumps(line) + "\n" for line in kept)))

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: dict, *_: Any) -> None:
        """Remembers one micro-batch of all processes. On a CPU a bad loss is seen at once, elsewhere when lines are written."""
        whole = trainer.global_step > self.done  # else gradients were only added up
        step = self.done
        self.done = trainer.global_step if whole else self.done
        loss = mean_of_all(outputs["loss"].detach()) * trainer.accumulate_grad_batches
        samples = trainer.strategy.all_gather(batch["sample"])
        if self.lines and self.lines[-1][0] == step:
            self.lines[-1][1].append(loss)
            self.lines[-1][2].append(samples)
        else:
            self.lines.append((step, [loss], [samples]))
        if loss.device.type == "cpu":
            self.finite(step, float(loss))
        if len(self.lines) > _DRAIN:
            self.drain()

    def drain(self, force: bool = False) -> None:
        """Puts what is remembered on the disk; FloatingPointError for a loss that is not finite."""
        ready = self.lines if force else self.lines[:-1]
        texts = []
        for step, losses, samples in ready:
            loss = self.finite(step, float(torch.stack(losses).mean()))
            numbers = [min(int(s.min()) for s in samples), max(int(s.max()) for s in samples)]
            texts.append(json.dumps({"step": step, "loss": loss, "samples": numbers}) + "\n")
        if self.first and texts:
            with open(self.path, "a") as file:
                file.writelines(texts)
                file.flush()
                if force:
                    os.fsync(file.fileno())
        self.lines = [] if force else self.lines[-1:]

    def finite(self, step: int, loss: float) -> float:
        """``loss``; FloatingPointError when it is no number or infinite."""
        if not math.isfinite(loss):
            raise FloatingPointError(f"step {step}: the loss is not finite; {self.mend} and start again with the same --out")
        return loss


def entries(path: Path) -> list[dict]:
    """The whole lines of a ledger; a line that a kill cut short is left out."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found
