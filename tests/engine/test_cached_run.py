"""A run reads in pieces, in rows of different length and from windows what it would read at once."""

import pytest
import torch

from crosscoder_utils.engine.cached_run import Run
from crosscoder_utils.hooks import plain, read

# transformers computes GPTNeo's attention in single precision, whatever the model's is.
CLOSE = {"atol": 1e-5, "rtol": 1e-4}
PROMPT = "Summary: Tom and Mia share a drum.\nWords: old, park, ran\nFeatures: Dialogue\nStory:"


@pytest.fixture
def tokens(random):
    return torch.tensor([random.tokenizer(PROMPT).input_ids])


def new_run(setup, start, n_positions):
    return Run(plain(setup.model), setup.hook_points, torch.tensor(start), n_positions)


def test_reading_piece_by_piece_is_reading_at_once(random, tokens):
    deltas = torch.randn(*tokens.shape, 3, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = read(random.model, tokens, deltas, logits=True)
    n = tokens.shape[1]
    for pieces in ([n], [1] * n, [5, 1, 7, n - 13]):
        run, begin = new_run(random, [0], n), 0
        for size in pieces:
            part = deltas[:, begin : begin + size]
            result = run.read(tokens[:, begin : begin + size], begin, lambda p, part=part: part[:, :, p], logits=True)
            torch.testing.assert_close(result.residuals, whole.residuals[:, begin : begin + size], **CLOSE)
            torch.testing.assert_close(result.logits[:, -1], whole.logits[:, begin + size - 1], **CLOSE)
            begin += size


def test_padding_on_the_left_changes_nothing(random, tokens):
    whole, run = read(random.model, tokens).residuals[0], new_run(random, [0, 6], 20)
    padded = torch.stack([tokens[0, :12], torch.cat([torch.zeros(6, dtype=torch.long), tokens[0, :6]])])
    first = run.read(padded, 0).residuals
    second = run.read(torch.stack([tokens[0, 12:13], tokens[0, 6:7]]), 12).residuals
    torch.testing.assert_close(torch.cat([first[0], second[0]]), whole[:13], **CLOSE)
    torch.testing.assert_close(torch.cat([first[1, 6:], second[1]]), whole[:7], **CLOSE)


def test_windows_are_before_positions_of_their_own(random, tokens):
    whole, run = read(random.model, tokens).residuals[0], new_run(random, [0, 6], 20)
    run.read(torch.stack([tokens[0, :12], torch.cat([torch.zeros(6, dtype=torch.long), tokens[0, :6]])]), 0)
    rows, positions = torch.tensor([0, 1]), torch.tensor([4, 11])  # the row's tokens 4 and 5
    nonsense = torch.tensor([[7, 7], [7, 7]])
    run.read_window(run.window(rows, positions), nonsense)  # keeps nothing
    own = torch.stack([tokens[0, 4:6], tokens[0, 5:7]])
    for keeps in (False, True):
        found = run.read_window(run.window(rows, positions, keeps), own).residuals
        torch.testing.assert_close(found, torch.stack([whole[4:6], whole[5:7]]), **CLOSE)
    selected = run.window(rows, positions).select(torch.tensor([1]))
    torch.testing.assert_close(run.read_window(selected, own[1:]).residuals[0], whole[5:7], **CLOSE)


def test_a_window_passes_gradients(random, tokens):
    n, run = 9, new_run(random, [0], 20)
    run.read(tokens[:, :n], 0)
    whole = read(random.model, tokens[:, : n + 1]).residuals[:, -1:]
    delta = torch.full((1, 3, 16), 0.5, dtype=torch.float64, requires_grad=True)
    window = run.window(torch.tensor([0]), torch.tensor([n]))
    tried = run.read_window(window, tokens[:, n : n + 1], lambda point: delta[:, None, point]).residuals
    assert (tried - whole).abs().max() > 0.1
    (gradient,) = torch.autograd.grad(tried.pow(2).sum(), delta)
    assert (gradient != 0).all()
    torch.testing.assert_close(run.read(tokens[:, n : n + 1], n).residuals, whole, **CLOSE)


def test_a_local_layer_looks_back_no_further_than_its_window(random, tokens):
    """On a text longer than the window, which is 4 here, in rows of different length."""
    model, n = plain(random.model), tokens.shape[1]
    attention = model.blocks[1].attn.attention
    assert attention.attention_type == "local"
    full, before = attention.bias.clone(), read(random.model, tokens).residuals
    try:
        attention.bias.copy_(torch.bitwise_xor(full.tril(), full.tril(-4)))
        expected = read(random.model, tokens).residuals
        assert (expected - before).abs().max() > 1e-3
        run = new_run(random, [0, 3], n + 3)
        for position in range(n):
            both = torch.stack([tokens[0, position : position + 1], tokens[0, max(position - 3, 0) : max(position - 3, 0) + 1]])
            found = run.read(both, position).residuals
            torch.testing.assert_close(found[0, 0], expected[0, position], **CLOSE)
            if position >= 3:
                torch.testing.assert_close(found[1, 0], expected[0, position - 3], **CLOSE)
    finally:
        attention.bias.copy_(full)


def test_rows_that_stay_keep_what_they_have_read(random, tokens):
    run = new_run(random, [0, 0, 0], 20)
    other = tokens.flip(1)
    run.read(torch.cat([other, tokens, tokens])[:, :9], 0)
    run.keep(torch.tensor([2, 1]), 9)
    found = run.read(tokens[:, 9:10].repeat(2, 1), 9).residuals
    torch.testing.assert_close(found[0], read(random.model, tokens[:, :10]).residuals[0, -1:], **CLOSE)
    torch.testing.assert_close(found[1], found[0])
