"""Statistics of sweeps against plain computations."""

import numpy as np
import pandas as pd
import pytest

from crosscoder_utils.analysis.statistics import best_settings, crossed_difference, paired_difference, sensitivity


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    rows = [
        {"setting": s, "prompt_index": p, "method": "ab"[s // 2], "cross_entropy": p + 0.5 * s + 0.01 * rng.normal()}
        for s in range(4)
        for p in range(20)
    ]
    return pd.DataFrame(rows).sample(frac=1, random_state=0)


def test_differences_are_paired(table):
    difference = paired_difference(table, 2, 0)
    # Means over prompts differ by several units; paired, only the noise of 0.01 is left.
    assert 0.98 < difference.low < difference.mean < difference.high < 1.02
    assert difference.n == 20
    assert paired_difference(table, 2, 0) == difference
    swapped = paired_difference(table, 0, 2)
    assert swapped.mean == pytest.approx(-difference.mean) and swapped.low == pytest.approx(-difference.high, abs=1e-3)


def test_interval_covers_the_mean_about_as_often_as_it_says():
    rng, covered = np.random.default_rng(1), 0
    for trial in range(200):
        pairs = rng.normal(0.3, 1.0, size=40)
        frame = pd.DataFrame(
            {"setting": [0] * 40 + [1] * 40, "prompt_index": [*range(40)] * 2, "cross_entropy": [*pairs, *[0] * 40]}
        )
        difference = paired_difference(frame, 0, 1, seed=trial, resamples=1000)
        covered += difference.low <= 0.3 <= difference.high
    assert 0.88 <= covered / 200 <= 0.99


def test_pairs_must_match(table):
    with pytest.raises(ValueError, match="20 and 19 prompts that are not the same; sweep both on the same prompts"):
        paired_difference(table.drop(table[(table.setting == 1) & (table.prompt_index == 3)].index), 0, 1)


def test_sensitivity_counts_doublings():
    curve = pd.DataFrame({"strength": [1, 2, 4, 8, 16], "mean": [3.0, 1.0, 1.0, 1.2, 1.4]})
    # From 2 up to 8, then half of the way to 16; and 0.15 of the way from 2 down to 1.
    assert sensitivity(curve.sample(frac=1, random_state=0)) == pytest.approx(2 + 0.5 + 0.15)
    assert sensitivity(curve[1:3]) == 1.0
    assert sensitivity(curve[:1]) == 0.0
    far = pd.DataFrame({"strength": [1, 2, 4, 8], "mean": [1.0, 5.0, 5.0, 1.1]})
    assert sensitivity(far) == pytest.approx(0.3 / 4)  # the other valley does not count


def test_intervals_over_draws_cover_the_mean_of_all_draws():
    rng, covered, too_narrow = np.random.default_rng(2), 0, 0
    for trial in range(200):
        draws = rng.normal(2.0, 1.0, size=(15, 1)) + rng.normal(0.0, 0.5, size=(15, 30))  # the mean of all draws is 2
        own = rng.normal(0.0, 0.1, size=30)
        both = crossed_difference(draws, own, seed=trial, resamples=500)
        covered += both.low <= 2.0 <= both.high
        prompts = crossed_difference(draws.mean(0, keepdims=True), own, seed=trial, resamples=500)
        too_narrow += prompts.low <= 2.0 <= prompts.high
        assert both.mean == pytest.approx(prompts.mean) and both.n == 30
    assert 0.86 <= covered / 200 <= 0.99 and too_narrow / 200 < 0.7


def test_a_difference_without_an_interval():
    one = crossed_difference(np.array([[3.0], [5.0]]), np.array([1.0]))
    assert one.mean == 3.0 and np.isnan(one.low) and np.isnan(one.high)
    with pytest.raises(ValueError, match="1 of 4 differences are NaN; leave out rows without a value"):
        crossed_difference(np.array([[3.0, np.nan], [5.0, 1.0]]), np.zeros(2))


def settings_of(method, **columns):
    """A sweep of one prompt whose settings have these figures."""
    table = pd.DataFrame(columns)
    table["setting"] = np.arange(len(table))
    labels = [f"{method} {number}" for number in table["setting"]]
    return table.assign(method=method, prompt_index=0, strength=table["setting"] + 1.0, label=labels)


def test_the_best_setting_has_the_lowest_mean_cross_entropy():
    table = settings_of(
        "a", cross_entropy=[3.0, 1.0, 2.0], is_story=[False, True, True], says_phrase=[True, False, False], n_tokens=5
    )
    [best] = best_settings(table, ["method"]).to_dict("records")
    assert (best["setting"], best["label"], best["strength"], best["mean"]) == (1, "a 1", 2.0, 1.0)
    assert (best["stories"], best["says_phrase"]) == (1.0, 0.0)


def test_with_a_tolerance_the_best_setting_is_the_smallest_edit_with_nearly_as_many_stories():
    stories = pd.DataFrame({"is_story": [0, 0, 1, 1, 1, 0, 1, 1], "setting": [0, 0, 1, 1, 2, 2, 3, 3]})
    table = stories.assign(method="a", label="", strength=1.0, says_phrase=False, n_tokens=5, cross_entropy=1.0)
    table["relative_edit_norm"] = table["setting"].map({0: 0.1, 1: 0.9, 2: 0.4, 3: 0.8})
    assert [best_settings(table, ["method"], tolerance)["setting"].item() for tolerance in (0.0, 0.5, 1.0)] == [3, 2, 0]


def test_fluent_stories_are_a_share_of_their_own_and_may_decide():
    table = settings_of(
        "a", cross_entropy=[1.0, 2.0, 3.0], is_story=True, is_fluent_story=[False, True, True], says_phrase=False, n_tokens=5
    ).assign(relative_edit_norm=[0.1, 0.4, 0.3])
    for rate, setting in {"stories": 0, "fluent_stories": 2}.items():
        [best] = best_settings(table, ["method"], 0.0, rate).to_dict("records")
        assert (best["setting"], best["stories"], best["fluent_stories"]) == (setting, 1.0, float(setting > 0))
    former = table.assign(is_fluent_story=[None, True, True])  # one row is of a version that did not know it
    assert "fluent_stories" not in best_settings(former, ["method"])
    with pytest.raises(ValueError, match="rate='story' is unknown; use 'stories', 'fluent_stories'"):
        best_settings(table, ["method"], 0.0, "story")
    with pytest.raises(ValueError, match="lacks the columns 'is_fluent_story'"):
        best_settings(table.drop(columns="is_fluent_story"), ["method"], 0.0, "fluent_stories")


def test_settings_with_mostly_empty_completions_are_passed_over():
    table = settings_of("a", cross_entropy=[1.0, 2.0], is_story=False, says_phrase=False, n_tokens=[0, 3])
    assert best_settings(table, ["method"])["setting"].item() == 1


def test_every_group_has_its_best_setting_in_the_order_of_the_table():
    figures = {"is_story": False, "says_phrase": False, "n_tokens": 3}
    tables = [settings_of(name, cross_entropy=values, **figures) for name, values in {"b": [2.0, 5.0], "a": [4.0, 1.0]}.items()]
    best = best_settings(pd.concat(tables), ["method", "point"])  # without hook points
    assert best[["method", "setting"]].to_numpy().tolist() == [["b", 0], ["a", 1]] and best["point"].isna().all()
