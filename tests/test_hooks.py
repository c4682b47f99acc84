"""Passes: the stream that TransformerLens shows, edits that do what they say, a cache that changes nothing."""

import pytest
import torch

from crosscoder_utils.hooks import plain, read, residual_hooks

# transformers computes GPTNeo's attention in single precision, whatever the model's is.
CLOSE = {"atol": 1e-5, "rtol": 1e-4}
PROMPT = "Summary: Tom and Mia share a drum.\nWords: old, park, ran\nFeatures: Dialogue\nStory:"


@pytest.fixture
def tokens(random):
    return torch.tensor([random.tokenizer(PROMPT).input_ids])


def deltas_for(tokens, seed=0):
    return torch.randn(*tokens.shape, 3, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_plain_model_is_the_bridge_without_hook_points(random, tokens):
    deltas = deltas_for(tokens)
    with residual_hooks(random.model, deltas) as captured:
        logits = random.model(tokens)
    result = read(random.model, tokens, deltas, logits=True)
    torch.testing.assert_close(result.residuals, torch.stack(captured, dim=-2), **CLOSE)
    torch.testing.assert_close(result.logits, logits, **CLOSE)
    weights = {p.data_ptr() for p in random.model.parameters()}
    assert all(p.data_ptr() in weights for p in plain(random.model).causal_lm.parameters())


def test_an_edit_moves_its_hook_point_and_those_after(random, tokens):
    deltas = deltas_for(tokens)
    deltas[:, :, [0, 2]] = 0.0
    before, after = read(random.model, tokens).residuals, read(random.model, tokens, deltas).residuals
    torch.testing.assert_close(after[:, :, 0], before[:, :, 0], rtol=0, atol=0)
    torch.testing.assert_close(after[:, :, 1], before[:, :, 1] + deltas[:, :, 1])
    assert (after[:, :, 2] - before[:, :, 2] - deltas[:, :, 1]).abs().max() > 1e-3


def test_hooks_are_gone_after_an_exception(random, tokens):
    for model in (random.model, plain(random.model)):
        run = model if model is random.model else lambda t: plain(random.model).causal_lm(t).logits
        before = run(tokens)
        with pytest.raises(ZeroDivisionError), residual_hooks(model, deltas_for(tokens)) as captured:
            edited = run(tokens)
            raise ZeroDivisionError
        assert len(captured) == 3
        assert not torch.equal(edited, before)
        torch.testing.assert_close(run(tokens), before, rtol=0, atol=0)
