"""How many rows are computed together: as many as fit into a budget of memory."""

from collections.abc import Iterator, Sequence

from crosscoder_utils.engine.batch import Limits, Request
from crosscoder_utils.loading import Setup

MOST_TOKENS_PER_PASS = 2048
"""Reading more tokens at once gains nothing on a CPU, whose caches the intermediate values then leave."""


def plan_batches(
    setup: Setup,
    requests: Sequence[Request],
    numbers: Sequence[int],
    new_tokens: int,
    record: str,
    memory_gb: float,
    batch_size: int,
) -> Iterator[tuple[list[int], Limits]]:
    """Split the rows of the given numbers into batches that fit; rows of similar length, and of equal prompts, stand together.

    Raises:
        ValueError: If a single row does not fit.
    """
    budget = memory_gb * 1e9
    numbers = sorted(numbers, key=lambda number: (len(requests[number].ids), requests[number].prompt))
    longest = len(requests[numbers[-1]].ids) + 1 + new_tokens
    most_targets = max(len(requests[n].intervention.features) if requests[n].intervention else 0 for n in numbers)
    searches = requests[numbers[0]].intervention and requests[numbers[0]].intervention.method.searches
    per_row = bytes_per_row(setup, longest, most_targets, bool(searches), record)
    per_token = bytes_per_token(setup, most_targets, record)
    tokens_per_pass = int(min(MOST_TOKENS_PER_PASS, max(0.3 * budget / per_token, 1)))
    fixed = per_token * max(tokens_per_pass, longest)
    if per_row + fixed > budget:
        raise ValueError(
            f"memory_gb={memory_gb} does not hold a single row, which takes about {(per_row + fixed) / 1e9:.3g} GB with "
            f"max_new_tokens={new_tokens} and {most_targets} features; give more memory, or shorten prompt or completion"
        )
    size = min(batch_size, int((budget - fixed) / per_row))
    n_batches = -(-len(numbers) // size)
    size = -(-len(numbers) // n_batches)  # of about the same size
    for first in range(0, len(numbers), size):
        yield numbers[first : first + size], Limits(new_tokens, record, tokens_per_pass)


def plan_readings(
    setup: Setup, requests: Sequence[Request], numbers: Sequence[int], memory_gb: float, batch_size: int, share: float = 1.0
) -> Iterator[list[int]]:
    """Split rows of texts that are read at once, without a cache, into parts that fit into a `share` of the memory.

    Only for one part at a time there are logits of both runs.

    Raises:
        ValueError: If a single text does not fit.
    """
    budget = memory_gb * 1e9 * share
    numbers, part = sorted(numbers, key=lambda number: (len(requests[number].ids), requests[number].prompt)), []
    most_targets = max(len(requests[n].intervention.features) if requests[n].intervention else 0 for n in numbers)
    for number in numbers:
        n_tokens = len(requests[number].ids) + 1  # ascending: all of the part are padded to this
        one, fixed = bytes_per_reading(setup, n_tokens, most_targets)
        if one + fixed > budget:
            raise ValueError(
                f"memory_gb={memory_gb:g} does not hold a text of {n_tokens - 1} tokens, which takes about "
                f"{(one + fixed) / share / 1e9:.3g} GB; give more memory, or shorten the text"
            )
        most = min(batch_size, MOST_TOKENS_PER_PASS // n_tokens, int((budget - fixed) / one))
        if part and len(part) >= most:
            yield part
            part = []
        part = [*part, number]
    if part:
        yield part


def plan_searches(
    setup: Setup, requests: Sequence[Request], numbers: Sequence[int], memory_gb: float, batch_size: int
) -> Iterator[tuple[list[int], Limits]]:
    """Split rows of texts that are searched for edits: into half of the memory, since the edits are then read in the other.

    Raises:
        ValueError: If a single text does not fit.
    """
    try:
        yield from plan_batches(setup, requests, numbers, 0, "everything", memory_gb / 2, batch_size)
    except ValueError:
        raise ValueError(
            f"memory_gb={memory_gb:g} does not hold the search on a single text of "
            f"{max(len(requests[n].ids) for n in numbers)} tokens; give more memory, or shorten the text"
        ) from None


def bytes_per_reading(setup: Setup, n_tokens: int, n_targets: int) -> tuple[float, float]:
    """What a text of `n_tokens` takes that is read in both runs, and what is needed once, for one row at a time."""
    cfg, number = setup.model.cfg, setup.crosscoder.W_enc.element_size()
    stream = setup.crosscoder.n_points * setup.crosscoder.d_model
    attention = 3 * cfg.n_heads * n_tokens
    one_token = 8 * stream + 16 * cfg.d_model + attention + 8 * n_targets + 2 * cfg.d_vocab
    targets = 2 * 2 * n_targets * stream  # encoder and directions, once more when selected
    return (n_tokens * one_token + targets) * number, 5 * n_tokens * cfg.d_vocab * number


def bytes_per_row(setup: Setup, n_positions: int, n_targets: int, searches: bool, record: str) -> float:
    """Keys and values of both runs and of what is copied of them, encoders and directions, records, logits."""
    cfg, crosscoder = setup.model.cfg, setup.crosscoder
    number, stream = crosscoder.W_enc.element_size(), crosscoder.n_points * crosscoder.d_model
    cache = 2 * cfg.n_layers * (cfg.n_key_value_heads or cfg.n_heads) * cfg.d_head * number * n_positions
    one_token = 16 * crosscoder.d_model + 4 * cfg.d_vocab + 3 * stream
    if n_targets == 0:
        return 3 * cache + one_token * number
    tables = (
        0 if record == "nothing" else 2 * (2 * n_targets + 2 * crosscoder.n_points) * n_positions
    )  # once more when selected
    tables += 3 * n_targets * n_positions  # coefficients of the prompt, and activations when the row has ended
    targets = 2 * 2 * n_targets * stream + 8 * n_targets  # encoder and directions, once more when selected
    if searches:
        deltas = 2 * stream * n_positions if record == "everything" else 0
        deltas += 6 * n_targets * stream + 4 * crosscoder.n_features  # Jacobian and steps; all features, for a penalty
        # Descending a gradient holds what every layer made of the token, and the past twice more.
        return 6 * cache + (tables + targets + deltas + (2 * cfg.n_layers + 2) * one_token) * number
    return 4 * cache + (tables + targets + one_token) * number


def bytes_per_token(setup: Setup, n_targets: int, record: str) -> float:
    """What one of the tokens takes that are read at once: the stream at all hook points, edits, and activations."""
    crosscoder = setup.crosscoder
    features = 4 * crosscoder.n_features if record == "everything" else 0
    stream = crosscoder.n_points * crosscoder.d_model
    return (6 * stream + 16 * crosscoder.d_model + features + 6 * n_targets) * crosscoder.W_enc.element_size()
