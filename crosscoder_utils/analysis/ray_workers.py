"""Sweeps on several processes or machines, through Ray (optional: ``pip install ray``)."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from crosscoder_utils.analysis.store import assets_of
from crosscoder_utils.analysis.sweeps import Task
from crosscoder_utils.crosscoder import Crosscoder
from crosscoder_utils.io.errors import in_one_line
from crosscoder_utils.loading import Setup, load
from crosscoder_utils.presets import Preset


@dataclass(frozen=True)
class RayWorkers:
    """Processes that each hold the model and take one task after the other; for `sweep(..., workers=)`.

    Each loads the setup's preset where it runs, with the setup's crosscoder. A worker that dies is replaced, and its task
    given to another; only this process writes files.

    Workers that the cluster has no room for stay pending while the others share all tasks, and are given up once the tasks
    are done. If there is room for none yet, as others use the cluster, `run` waits; if no machine of it would have room for
    one were it free, `run` refuses, also where larger machines would join on demand.

    Attributes:
        n: Number of workers.
        address: Of a Ray cluster; "auto" is the one this machine belongs to. By default, Ray is started here, and ended.
            A process that is connected already stays connected, to what it is connected to.
        cpus: Processor cores of each worker.
        gpus: GPUs of each worker, which computes on one if it has any, and else on the CPU, wherever the setup lies.
        retries: How often a task is tried again after its worker died.
    """

    n: int = 2
    address: str = "local"
    cpus: float = 1
    gpus: float = 0
    retries: int = 3

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"n={self.n} workers cannot compute anything; give 1 or more")

    def run(self, setup: Setup, tasks: Sequence[Task]) -> Iterator[pd.DataFrame]:
        """What `Task.run` gives for each task, as it comes; raises what that raises.

        Raises:
            ImportError: If Ray is not installed.
            ValueError: If no machine has room for a worker, or one cannot load the setup's weights.
            RuntimeError: If the workers of a task, or those that load, died more often than `retries` allows.
        """
        if not tasks:
            return
        try:
            import ray
        except ImportError as error:
            raise ImportError("RayWorkers needs Ray: pip install ray, or leave workers out") from error
        started = not ray.is_initialized()
        if started:
            # What matters reaches the caller as an exception.
            ray.init(self.address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        try:
            _check_room(ray, self)
            yield from _Run(ray, self, setup, tasks).tables()
        finally:
            if started:
                ray.shutdown()


class _Worker:
    """What one process holds. It loads in `ready`: what is raised in `__init__`, Ray takes for a death."""

    def ready(self, preset: Preset, crosscoder: Crosscoder, device: str, assets: str) -> None:
        self.setup = load(preset, device, crosscoder)
        found = assets_of(self.setup)
        if found != assets:  # its rows would stand under the id of those that the setup's weights give
            raise ValueError(
                f"preset {preset.name!r} gives it weights {found}, not the setup's, {assets}; give a setup as load() made it "
                "and every machine the same files, or compute without workers"
            )

    def run(self, task: Task) -> pd.DataFrame:
        return task.run(self.setup)


_LOADING = -1  # in place of a task's number


class _Run:
    """Tasks, by number, and the workers that load, run one of them, or are free."""

    def __init__(self, ray, workers: RayWorkers, setup: Setup, tasks: Sequence[Task]) -> None:
        self.ray, self.workers, self.tasks = ray, workers, tasks
        self.actor = ray.remote(num_cpus=workers.cpus, num_gpus=workers.gpus)(_Worker)
        crosscoder, device = ray.put(setup.crosscoder.to("cpu")), "cuda" if workers.gpus else "cpu"
        self.parts = setup.preset, crosscoder, device, tasks[0].assets
        self.hired, self.free, self.jobs = [], [], {}
        self.waiting, self.deaths = list(reversed(range(len(tasks)))), Counter()

    def tables(self) -> Iterator[pd.DataFrame]:
        try:
            for _ in range(min(self.workers.n, len(self.tasks))):
                self._hire()
            left = len(self.tasks)
            while left:
                table = self._next()
                self._assign()
                if table is not None:
                    left -= 1
                    yield table
        finally:
            for worker in self.hired:  # they would keep their places for as long as this process is connected
                self.ray.kill(worker)

    def _next(self) -> pd.DataFrame | None:
        """Wait for one worker; its table, or nothing if it was loading or has died."""
        errors = self.ray.exceptions
        [done], _ = self.ray.wait(list(self.jobs))
        worker, number = self.jobs.pop(done)
        try:
            table = self.ray.get(done)
        except errors.RayTaskError as error:
            if number != _LOADING:
                raise error.cause from error  # what this process would have raised
            raise ValueError(f"a worker cannot start: {in_one_line(error.cause, 400)}") from error
        except (errors.RayActorError, errors.OutOfMemoryError, errors.ObjectLostError) as error:
            return self._replace(worker, number, error)
        self.free.append(worker)
        if number == _LOADING:
            self.deaths[_LOADING] = 0  # those in a row count: over days, some may die without anything being wrong
        return table

    def _replace(self, worker, number: int, error: Exception) -> None:
        self.deaths[number] += 1
        if self.deaths[number] > self.workers.retries:
            over = "loading" if number == _LOADING else f"the same {len(self.tasks[number].rows)} rows"
            told = f"{self.deaths[number]} workers died over {over}; give each more memory, or compute without workers to see"
            raise RuntimeError(f"{told} why. Rows that are written stay") from error
        self.waiting += [number] if number != _LOADING else []
        self.ray.kill(worker)  # it may be out of reach only, and in its successor's place
        self._hire()

    def _hire(self) -> None:
        self.hired.append(self.actor.remote())
        self.jobs[self.hired[-1].ready.remote(*self.parts)] = self.hired[-1], _LOADING

    def _assign(self) -> None:
        """Give tasks to those that are free; one that is pending might keep its task for ever."""
        while self.waiting and self.free:
            worker, number = self.free.pop(), self.waiting.pop()
            self.jobs[worker.run.remote(self.tasks[number])] = worker, number


def _check_room(ray, workers: RayWorkers) -> None:
    machines = [(node["Resources"].get("CPU", 0), node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"]]
    if not any(cpus >= workers.cpus and gpus >= workers.gpus for cpus, gpus in machines):
        cpus, gpus = (max(amounts) for amounts in zip(*machines))
        raise ValueError(
            f"a worker with cpus={workers.cpus:g} and gpus={workers.gpus:g} fits no machine of the cluster, which have at most "
            f"{cpus:g} cores and {gpus:g} GPUs; ask for less, or give the address= of a larger cluster"
        )
