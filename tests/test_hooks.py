"""Passes: the stream that TransformerLens shows, edits that do what they say, a cache that changes nothing."""

import pytest
import torch

from crosscoder_utils.engine.plain import plain
from crosscoder_utils.hooks import Stream, read, residual_hooks

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


def test_reading_piece_by_piece_is_reading_at_once(random, tokens):
    deltas = deltas_for(tokens)
    whole = read(random.model, tokens, deltas, logits=True)
    n = tokens.shape[1]
    for pieces in ([n], [1] * n, [5, 1, 7, n - 13]):
        stream, begin = Stream(random.model, 1, n), 0
        for size in pieces:
            columns = torch.arange(begin, begin + size)[None]
            part = deltas[:, begin : begin + size]
            result = stream.read(
                slice(None), tokens.gather(1, columns), columns, lambda p, part=part: part[:, :, p], logits=True
            )
            torch.testing.assert_close(result.residuals, whole.residuals[:, begin : begin + size])
            torch.testing.assert_close(result.logits[:, -1], whole.logits[:, begin + size - 1])
            begin += size


def test_rows_may_be_at_columns_of_their_own_and_go_back(random, tokens):
    stream, whole = Stream(random.model, 2, 20), read(random.model, tokens).residuals
    # Row 0 reads 6 tokens, row 1 reads 3 and says the last again.
    columns = torch.tensor([[0, 1, 2, 3, 4, 5], [0, 1, 2, 2, 2, 2]])
    stream.read(slice(None), tokens[0][columns], columns)
    # Row 1 alone reads nonsense, then both go on, row 0 from where it had been before.
    stream.read(torch.tensor([1]), torch.tensor([[7, 7]]), torch.tensor([[3, 4]]))
    columns = torch.tensor([[4, 5, 6], [3, 4, 5]])
    result = stream.read(slice(None), tokens[0][columns], columns).residuals
    torch.testing.assert_close(result, whole[0][columns])


def test_attempts_leave_a_stream_where_it_was_and_pass_gradients(random, tokens):
    n = 9
    stream, columns = Stream(random.model, 1, 20), torch.arange(n)[None]
    stream.read(slice(None), tokens[:, :n], columns)
    whole = read(random.model, tokens[:, : n + 1]).residuals[:, -1:]
    past = stream.cache.past(torch.tensor([0]), torch.tensor([n]))
    delta = torch.full((1, 3, 16), 0.5, dtype=torch.float64, requires_grad=True)
    tried = stream.attempt(past, tokens[:, n : n + 1], delta)
    assert (tried - whole).abs().max() > 0.1
    (gradient,) = torch.autograd.grad(tried.pow(2).sum(), delta)
    assert (gradient != 0).all()
    at = torch.tensor([[n]])
    torch.testing.assert_close(stream.read(slice(None), tokens[:, n : n + 1], at).residuals, whole)


def test_a_local_layer_looks_back_no_further_than_its_window(random, tokens):
    """The fused attention against the one in the bridge, on a text that is longer than the window."""
    attention = random.model.blocks[1].attn.original_component
    fused = plain(random.model).causal_lm.transformer.h[1].attn.attention
    assert attention.attention_type == fused.attention_type == "local"
    window, n = 4, tokens.shape[1]
    before = read(random.model, tokens, logits=True).logits
    full = attention.bias.clone()
    try:
        attention.bias.copy_(torch.bitwise_xor(full.tril(), full.tril(-window)))
        fused.config.window_size = window
        expected = random.model(tokens)
        torch.testing.assert_close(read(random.model, tokens, logits=True).logits, expected, **CLOSE)
        assert (expected - before).abs().max() > 1e-3
        stream = Stream(random.model, 1, n)
        for column in range(n):
            at = torch.tensor([[column]])
            result = stream.read(slice(None), tokens[:, column : column + 1], at, logits=True)
        torch.testing.assert_close(result.logits[:, -1], expected[:, -1], **CLOSE)
    finally:
        attention.bias.copy_(full)
        fused.config.window_size = 256


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
