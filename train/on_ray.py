"""The same preparation on a Ray cluster, for corpora past one machine.

Ray Data hands the groups to actors that keep codec and tokenizer loaded. Recordings and shards lie on storage that all
machines see under the same paths; shards have the bytes that one machine would have written, since a group is the unit of work
in both cases. A group that fails with its machine is tried again elsewhere.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from duplex.errors import InputError
from train.encode import Report, Settings, make_group
from train.own.layout import Item

ROOT = Path(__file__).resolve().parents[1]
START_SECONDS = 600
"""How long to wait until all actors have loaded their codec."""


class GroupMaker:
    """The actor: one group in, its report out."""

    def __init__(self, settings: Settings, out: str):
        self.settings, self.out = settings, Path(out)

    def __call__(self, row: dict) -> dict:
        items = [Item(**{key: Path(value) if value and key in _PATHS else value for key, value in entry.items()})
                 for entry in json.loads(row["items"])]
        report = make_group(self.settings, self.out, int(row["number"]), items)
        return {"report": report.to_json(), "worker": f"{os.uname().nodename}:{os.getpid()}"}


_PATHS = ("audio", "labels", "segments", "events")


def reports_on_ray(todo: Sequence[tuple[int, list[Item]]], settings: Settings, out: Path, address: str, workers: int,
                   workers_seen: set[str] | None = None) -> Iterator[Report]:
    """The reports of all groups as they are finished. ``address``: of a cluster, "auto", or "local" to start one here.

    ``workers`` actors share the groups, on a cuda device one GPU each. ``workers_seen`` collects who did the work. Raises
    InputError when Ray is not installed or does not answer.
    """
    try:
        import ray
    except ModuleNotFoundError:
        raise InputError("Ray is not installed: pip install 'duplex-speech[cluster]'") from None
    if not todo:
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    variables = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(settings.threads), "OMP_WAIT_POLICY": "PASSIVE"}
    try:
        if address == "local":
            os.environ.update(variables)  # inherited; a runtime environment would need an agent, which is slow to start
            ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, object_store_memory=100_000_000)
        else:
            ray.init(address=address, log_to_driver=False, runtime_env={"env_vars": variables})
    except (ConnectionError, ValueError) as error:
        raise InputError(f"--ray {address}: no cluster answers ({str(error).splitlines()[0]}); start one with ray start "
                         "--head, or give local") from None
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.wait_for_min_actors_s = START_SECONDS
        rows = [{"number": number, "items": json.dumps([asdict(item) for item in items], default=str)} for number, items in todo]
        resources = {"num_cpus": 1, "num_gpus": 1} if settings.device.startswith("cuda") else {"num_cpus": 1}
        # One group a block: groups are handed out one by one, and a lost one costs no other.
        groups = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            GroupMaker, fn_constructor_args=(settings, str(out)), **resources,
            compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1))
        for row in groups.iter_rows():
            if workers_seen is not None:
                workers_seen.add(row["worker"])
            yield Report.from_json(row["report"])
    finally:
        ray.shutdown()
