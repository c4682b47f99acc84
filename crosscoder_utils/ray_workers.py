"""Sweeps on several processes or machines, through Ray (optional: ``pip install ray``)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from crosscoder_utils.crosscoder import Crosscoder
from crosscoder_utils.loading import Setup, load
from crosscoder_utils.presets import Preset
from crosscoder_utils.sweeps import Task


@dataclass(frozen=True)
class RayWorkers:
    """Processes that each hold the model and take one task after the other; for `sweep(..., workers=)`.

    A worker that dies is replaced, and its task given to another; only this process writes files.

    Attributes:
        n: Number of workers.
        address: Of a Ray cluster; "auto" is the one this machine belongs to. By default, Ray is started here.
        cpus: Processor cores of each worker.
        gpus: GPUs of each worker; a worker with one computes there.
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
        """What `Task.run` gives for each task, as it comes.

        Raises:
            ImportError: If Ray is not installed.
            RuntimeError: If the workers of a task died more often than `retries` allows.
        """
        ray = _import_ray()
        started = not ray.is_initialized()
        if started:
            ray.init(self.address, log_to_driver=False)
        try:
            yield from _run(ray, self, setup, tasks)
        finally:
            if started:
                ray.shutdown()


class _Worker:
    """What one process holds."""

    def __init__(self, preset: Preset, crosscoder: Crosscoder, device: str) -> None:
        self.setup = load(preset, device, crosscoder)

    def run(self, task: Task) -> pd.DataFrame:
        return task.run(self.setup)


def _run(ray, workers: RayWorkers, setup: Setup, tasks: Sequence[Task]) -> Iterator[pd.DataFrame]:
    crosscoder = ray.put(setup.crosscoder.to("cpu"))
    device = "cuda" if workers.gpus else "cpu"
    actor = ray.remote(num_cpus=workers.cpus, num_gpus=workers.gpus)(_Worker)
    waiting, deaths, running = list(reversed(range(len(tasks)))), dict.fromkeys(range(len(tasks)), 0), {}
    free = [actor.remote(setup.preset, crosscoder, device) for _ in range(min(workers.n, len(tasks)))]
    while waiting or running:
        while waiting and free:
            number, worker = waiting.pop(), free.pop()
            running[worker.run.remote(tasks[number])] = number, worker
        [done], _ = ray.wait(list(running))
        number, worker = running.pop(done)
        try:
            table = ray.get(done)
        except ray.exceptions.RayActorError as error:
            deaths[number] += 1
            if deaths[number] > workers.retries:
                raise RuntimeError(
                    f"{deaths[number]} workers died over the same {len(tasks[number].rows)} rows; give each more memory, or "
                    "compute without workers to see why. Rows that are written stay"
                ) from error
            waiting.append(number)
            worker = actor.remote(setup.preset, crosscoder, device)
        else:
            yield table
        free.append(worker)


def _import_ray():
    try:
        import ray
    except ImportError as error:
        raise ImportError("RayWorkers needs Ray: pip install ray, or leave workers out") from error
    return ray
