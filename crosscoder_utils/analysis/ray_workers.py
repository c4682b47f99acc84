"""Sweeps on several processes or machines, through Ray (optional: ``pip install ray``)."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pandas as pd

from crosscoder_utils.analysis.store import assets_of
from crosscoder_utils.analysis.sweeps import Task
from crosscoder_utils.crosscoder import Crosscoder
from crosscoder_utils.io.error_messages import in_one_line
from crosscoder_utils.io.validation import LARGEST, finite_number, one_text, whole_number
from crosscoder_utils.loading import Setup, load
from crosscoder_utils.presets import Preset

_SETUPS: dict[tuple[Preset, str, str], Setup] = {}
"""In a worker process: the setup of its last task, which the next task uses too."""


@dataclass(frozen=True)
class RayWorkers:
    """Runs tasks in processes of a Ray cluster, several at once; for `sweep(..., workers=)`.

    Each worker process loads the setup's preset on its machine, with the setup's crosscoder, and keeps it for its next tasks.
    A task whose worker process dies is started again in another one. Only the calling process writes files.

    If the cluster has room for fewer workers than `n`, the tasks are run by those; if it is occupied, `run` waits. If no
    machine could ever hold a worker, `run` refuses, even if the cluster could start larger machines on demand.

    Attributes:
        n: Number of tasks that run at once.
        address: Address of a Ray cluster; "auto" is the one that this machine belongs to. By default, Ray is started here and
            stopped afterwards. If this process is already connected to a cluster, that one is used and stays connected.
        cpus: CPU cores of each worker.
        gpus: GPUs of each worker. Workers with a GPU compute on it, all others on the CPU, whatever the setup's device.
        retries: How often a task is started again after its worker process died.
    """

    n: int = 2
    address: str = "local"
    cpus: float = 1
    gpus: float = 0
    retries: int = 3

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", whole_number("n", self.n, -LARGEST))
        if self.n < 1:
            raise ValueError(f"n={self.n} workers cannot compute anything; give 1 or more")
        one_text("address", self.address, empty=False)
        for name in ("cpus", "gpus"):
            finite_number(name, getattr(self, name), 0)
        whole_number("retries", self.retries)

    def run(self, setup: Setup, tasks: Sequence[Task]) -> Iterator[pd.DataFrame]:
        """Yield the result of `Task.run` for every task, in the order in which they finish.

        Raises:
            ValueError: If a worker cannot load the setup's preset, or loads other weights.
            Exception: Whatever a task or `map` raises.
        """
        if tasks:
            device = "cuda" if self.gpus else "cpu"
            yield from self.map(_compute, tasks, setup.preset, setup.crosscoder.to("cpu"), device, tasks[0].assets)

    def map(self, function: Callable[..., Any], items: Sequence[Any], *shared: Any) -> Iterator[Any]:
        """Yield ``function(item, *shared)`` for every item, in the order in which they finish.

        Raises:
            ImportError: If Ray is not installed.
            ValueError: If no machine of the cluster has room for a worker.
            RuntimeError: If the worker processes of one item died more often than `retries` allows.
            Exception: Whatever `function` raises, unchanged.
        """
        if not items:
            return
        try:
            import ray
        except ImportError as error:
            raise ImportError("RayWorkers needs Ray: pip install ray, or leave workers out") from error
        started = not ray.is_initialized()
        if started:
            # Ray's own output is of no use to the caller, who gets every error as an exception.
            ray.init(self.address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        pending: list[ray.ObjectRef] = []
        try:
            _check_room(ray, self)
            # By default Ray ends a process after one task with a GPU, and the model would be loaded for every task.
            options = {"num_cpus": self.cpus, "num_gpus": self.gpus, "max_retries": self.retries, "max_calls": 0}
            remote, stored = ray.remote(**options)(function), [ray.put(one) for one in shared]
            waiting = iter(items)
            pending = [remote.remote(item, *stored) for item in islice(waiting, self.n)]
            while pending:
                [done], pending = ray.wait(pending)
                pending += [remote.remote(item, *stored) for item in islice(waiting, 1)]
                yield self._result(ray, done)
        finally:
            for one in pending:
                ray.cancel(one, force=True)
            if started:
                ray.shutdown()

    def _result(self, ray, done) -> Any:
        try:
            return ray.get(done)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except ray.exceptions.RayError as error:
            raise RuntimeError(
                f"{self.retries + 1} worker processes died over the same task; give each more memory, or compute without "
                f"workers to see why ({in_one_line(error, 100)}). Rows that are stored stay"
            ) from error


def _compute(task: Task, preset: Preset, crosscoder: Crosscoder, device: str, assets: str) -> pd.DataFrame:
    """In a worker process: run a task on the setup that it belongs to."""
    key = preset, device, assets
    if key not in _SETUPS:
        _SETUPS.clear()
        _SETUPS[key] = _load(preset, crosscoder, device, assets)
    return task.run(_SETUPS[key])


def _load(preset: Preset, crosscoder: Crosscoder, device: str, assets: str) -> Setup:
    try:
        setup = load(preset, device, crosscoder)
    except Exception as error:
        raise ValueError(f"a worker cannot load preset {preset.name!r}: {in_one_line(error, 400)}") from error
    found = assets_of(setup)
    if found != assets:  # the rows would be stored under the id of results that the caller's weights give
        raise ValueError(
            f"preset {preset.name!r} gives a worker weights {found}, not the setup's, {assets}; give a setup as load() made it "
            "and every machine the same files, or compute without workers"
        )
    return setup


def _check_room(ray, workers: RayWorkers) -> None:
    machines = [(node["Resources"].get("CPU", 0), node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"]]
    if not any(cpus >= workers.cpus and gpus >= workers.gpus for cpus, gpus in machines):
        cpus, gpus = (max(amounts) for amounts in zip(*machines))
        raise ValueError(
            f"a worker with cpus={workers.cpus:g} and gpus={workers.gpus:g} fits no machine of the cluster, which have at most "
            f"{cpus:g} cores and {gpus:g} GPUs; ask for less, or give the address= of a larger cluster"
        )
