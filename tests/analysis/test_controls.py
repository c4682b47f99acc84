"""Frequency-matched features on firing that is known."""

import numpy as np
import pytest

from crosscoder_utils.analysis import frequency_matched_feature, frequency_matched_features


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
    with pytest.raises(ValueError, match="feature 199 fires on 0 of 4000 tokens of these texts, so there is nothing to ablate"):
        frequency_matched_feature(fires, 199)
    with pytest.raises(ValueError, match="feature 0 has no control: none of the other features .* ablate without controls"):
        frequency_matched_features(np.ones((10, 2), bool), 0)
