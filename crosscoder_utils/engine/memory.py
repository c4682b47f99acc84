"""How many rows fit into a budget of memory."""

from collections.abc import Iterator, Sequence

import torch

from crosscoder_utils.engine.plain import PlainModel, plain
from crosscoder_utils.engine.rows import Limits, Row
from crosscoder_utils.hooks import Stream
from crosscoder_utils.loading import Setup

MOST_TOKENS_PER_PASS = 2048
"""Reading more prompt tokens at once gains nothing on a CPU, whose caches the intermediate values then leave."""


def plan_batches(
    setup: Setup,
    rows: Sequence[Row],
    numbers: Sequence[int],
    new_tokens: int,
    record: str,
    memory_gb: float,
    batch_size: int,
) -> Iterator[tuple[list[int], Limits]]:
    """Split the rows of the given numbers into batches that fit; equal prompts stand together.

    Raises:
        ValueError: If a single row does not.
    """
    budget = memory_gb * 1e9
    numbers = sorted(numbers, key=lambda number: (len(rows[number].ids), rows[number].prompt))
    per_token = _bytes_per_prompt_token(setup, record)
    tokens_per_pass = int(min(MOST_TOKENS_PER_PASS, max(0.3 * budget / per_token, 1)))
    limits = Limits(new_tokens, record != "nothing", tokens_per_pass)
    longest = rows[numbers[-1]]
    most_targets = max(len(r.intervention.features) if r.intervention else 0 for r in (rows[n] for n in numbers))
    per_row = _bytes_per_row(setup, longest, most_targets, new_tokens)
    fixed = per_token * max(tokens_per_pass, len(longest.ids) + new_tokens)
    if per_row + fixed > budget:
        raise ValueError(
            f"memory_gb={memory_gb} does not hold a single row, which takes about {(per_row + fixed) / 1e9:.3g} GB with "
            f"max_new_tokens={new_tokens}; give more memory, or shorten prompt or completion"
        )
    n_batches = -(-len(numbers) // min(batch_size, int((budget - fixed) / per_row)))
    for first in range(n_batches):
        # Every batch has rows of every prompt, so that later ones may guess what earlier ones wrote.
        yield numbers[first::n_batches], limits


def _bytes_per_row(setup: Setup, row: Row, n_targets: int, new_tokens: int) -> float:
    """Caches, tables and what one token takes on its way through the model."""
    model, crosscoder = plain(setup.model), setup.crosscoder
    n_columns = len(row.ids) + 1 + new_tokens
    cache, number = _cache_bytes_per_token(model) * n_columns, crosscoder.W_enc.element_size()
    stream = crosscoder.n_points * crosscoder.d_model * number
    one_token = (16 * crosscoder.d_model + 4 * model.causal_lm.config.vocab_size) * number
    if row.intervention is None:
        return 2 * cache + one_token  # the row's own, and its prompt's
    tables = (5 * n_targets + 2 * crosscoder.n_points) * number * n_columns
    if hasattr(row.intervention.method, "directions"):
        return 3 * cache + tables + 4 * n_targets * stream + one_token
    # Descending a gradient holds the past twice more, and the stream at every token.
    return 5 * cache + tables + stream * n_columns + 3 * one_token * model.causal_lm.config.num_hidden_layers


def _bytes_per_prompt_token(setup: Setup, record: str) -> float:
    crosscoder = setup.crosscoder
    features = 4 * crosscoder.n_features if record == "everything" else 0
    return (6 * crosscoder.n_points * crosscoder.d_model + 16 * crosscoder.d_model + features) * crosscoder.W_enc.element_size()


@torch.no_grad()
def _cache_bytes_per_token(model: PlainModel) -> int:
    """Measured on one token, since architectures differ in what they keep."""
    stream = Stream(model, 1, 1)
    zero = torch.zeros(1, 1, dtype=torch.long, device=model.device)
    stream.read(slice(0, 1), zero, zero)
    return sum(tensor.numel() * tensor.element_size() for layer in stream.cache.layers for tensor in layer)
