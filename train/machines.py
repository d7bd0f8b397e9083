"""Lightning's trainer on the machines of a recipe, with errors that say in one line what to change."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
from lightning.fabric.utilities.exceptions import MisconfigurationException

from duplex.errors import ConfigError
from train.recipe import MachineSettings


def trainer_of(machine: MachineSettings, **options: Any) -> L.Trainer:
    """A trainer with ``options``; ConfigError where this computer has not what the recipe's [machine] asks for."""
    try:
        return L.Trainer(accelerator=machine.accelerator, devices=machine.devices, num_nodes=machine.nodes,
                         precision=machine.precision, **options | {"callbacks": [*options.get("callbacks", ()), Stopping()]})
    except MisconfigurationException as error:
        reason = " ".join(str(error).split()).partition(". ")[0]
        raise ConfigError(f"machine: accelerator {machine.accelerator!r} with {machine.devices} device(s) cannot be had here "
                          f"({reason[:160]}); --set machine.accelerator='\"cpu\"', or fewer devices") from None


class Stopping(L.Callback):
    """SIGTERM ends a run as Ctrl-C does, at once: the last checkpoint is whole.

    Lightning's own handler tells the other processes by a broadcast in the middle of whatever they are exchanging, and goes on.
    """

    def on_train_start(self, *_: Any) -> None:
        """Takes the signal over; Lightning gives it back after the run."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.stop)

    @staticmethod
    def stop(*_: Any) -> None:
        """The signal's handler."""
        raise KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C stays one: Lightning makes an exit of it, which says nothing."""
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
