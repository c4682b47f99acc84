"""Statistics of sweeps against plain computations."""

import numpy as np
import pandas as pd
import pytest

from crosscoder_utils.analysis.statistics import crossed_difference, frequency_matched_feature, frequency_matched_features, paired_difference, sensitivity


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
    with pytest.raises(ValueError, match="20 and 19 prompts"):
        paired_difference(table.drop(table[(table.setting == 1) & (table.prompt_index == 3)].index), 0, 1)


def test_sensitivity_counts_doublings():
    curve = pd.DataFrame({"scale": [1, 2, 4, 8, 16], "mean": [3.0, 1.0, 1.0, 1.2, 1.4]})
    # From 2 up to 8, then half of the way to 16; and 0.15 of the way from 2 down to 1.
    assert sensitivity(curve.sample(frac=1, random_state=0), "scale") == pytest.approx(2 + 0.5 + 0.15)
    assert sensitivity(curve[1:3], "scale") == 1.0
    assert sensitivity(curve[:1], "scale") == 0.0
    far = pd.DataFrame({"scale": [1, 2, 4, 8], "mean": [1.0, 5.0, 5.0, 1.1]})
    assert sensitivity(far, "scale") == pytest.approx(0.3 / 4)  # the other valley does not count


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
    with pytest.raises(ValueError, match="1 of 4 differences are no numbers"):
        crossed_difference(np.array([[3.0, np.nan], [5.0, 1.0]]), np.zeros(2))


def test_controls_fire_as_often():
    rng = np.random.default_rng(0)
    fires = rng.random((4000, 200)) < np.geomspace(0.005, 0.5, 200)
    fires[:, 199] = False  # dead
    fires[:, 101] = fires[:, 100]  # the same feature again
    rates = fires.mean(0)
    drawn = [frequency_matched_feature(fires, 100, exclude=[99], seed=s) for s in range(30)]
    assert len(set(drawn)) > 5 and not set(drawn) & {99, 100, 101}
    assert all(0.7 < rates[one] / rates[100] < 1.4 for one in drawn)
    assert frequency_matched_feature(fires, 100, seed=3) == frequency_matched_feature(fires, 100, seed=3)
    others = frequency_matched_features(fires, 100)
    distance = np.abs(np.log(rates[others] / rates[100]))
    assert (np.diff(distance) > -1e-9).all() and set(others) == set(range(199)) - {100, 101}
    with pytest.raises(ValueError, match="feature 199 fires on 0 of 4000 tokens .* nothing to ablate"):
        frequency_matched_feature(fires, 199)
