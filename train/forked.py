"""The training command in processes of its own, forked from one that has imported the trainer and done nothing else.

Importing takes longer than training a toy. A forked run begins as fresh as one from the shell: it has its own memory, files and
signals, and can be killed. With ``world`` above one they are started as `torchrun` does it, and share the work.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import socket
import sys
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path


def start(arguments: Sequence[str], log: Path, world: int = 1, command: str = "fit") -> list[BaseProcess]:
    """train.fit, or another command, with ``arguments``: one process a rank; the first one's output is added to ``log``."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["train.fit", "lightning.pytorch.strategies"])
    port = free_port() if world > 1 else 0
    logs = [log, *(log.with_name(f"{log.name}.{rank}") for rank in range(1, world))]
    made = [context.Process(target=_work, args=(command, list(arguments), str(logs[rank]), rank, world, port))
            for rank in range(world)]
    for process in made:
        process.start()
    return made


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _work(command: str, arguments: list[str], log: str, rank: int, world: int, port: int) -> None:
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if world > 1:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE=str(world), NODE_RANK="0",
                          LOCAL_RANK=str(rank), RANK=str(rank))
        rank_zero_only.rank = rank  # read from the environment when Lightning was imported
    sys.exit(importlib.import_module(f"train.{command}").main(arguments))
