"""The loop that writes the rows of one batch, token by token."""

from collections.abc import Iterator, Sequence

import torch

from crosscoder_utils.engine.batch import Batch, Limits, Records, Request
from crosscoder_utils.engine.cache import closed_gaps
from crosscoder_utils.engine.editing import AlongDirections, NoEdits
from crosscoder_utils.engine.sampling import Sampler
from crosscoder_utils.engine.searching import Searching
from crosscoder_utils.hooks import plain
from crosscoder_utils.interventions import SearchMethod
from crosscoder_utils.loading import Setup

LEAVE_SHARE = 1 / 16
"""Rows that have ended leave the batch once they are this share of it."""


@torch.no_grad()
def decode(
    setup: Setup, requests: Sequence[Request], numbers: Sequence[int], limits: Limits, sampler: Sampler
) -> Iterator[Batch]:
    """Complete the prompts of one batch, whose methods are of one family; see `family`.

    Yields:
        The rows that have ended, some at a time, with their records.
    """
    batch = Batch.of(setup, requests, numbers, limits.new_tokens)
    rows = (family(requests[0]))(setup, plain(setup.model), batch, limits)
    if limits.record != "nothing" and isinstance(rows, AlongDirections):
        batch.records = _make_records(rows, limits.record == "everything")
    rows.read_prompts()
    last = batch.n_prompt + limits.new_tokens - 1
    for position in range(batch.n_prompt - 1, last + 1):
        logits = rows.next_logits(position)
        batch, written = rows.batch, position + 1 - rows.batch.n_prompt
        tokens = sampler.next_tokens(logits, [r.prompt for r in batch.requests], written)
        ends = (tokens == setup.tokenizer.eos_token_id) | (position == last)
        batch.end = torch.where((batch.end == 0) & ends, position + 1, batch.end)
        batch.tokens[:, position + 1] = tokens
        if position == last or _is_worth_leaving(batch, written):
            yield from _leave(rows, position + 1)
        if not len(rows.batch):
            return


def family(request: Request) -> type[NoEdits]:
    """How a row's edits are found; the rows of a batch have this in common, and if they search, the class of their method."""
    if request.intervention is None:
        return NoEdits
    return Searching if isinstance(request.intervention.method, SearchMethod) else AlongDirections


def _make_records(rows: AlongDirections, with_deltas: bool) -> Records:
    batch, (_, n_targets, n_points, d_model) = rows.batch, rows.targets.directions.shape
    zeros = rows.targets.directions.new_zeros
    table = len(batch), batch.tokens.shape[1]
    deltas = zeros(*table, n_points, d_model) if with_deltas and isinstance(rows, Searching) else None
    targets, points = (zeros(*table, n_targets) for _ in range(2)), (zeros(*table, n_points) for _ in range(2))
    return Records(*targets, *points, deltas)


def _is_worth_leaving(batch: Batch, written: int) -> bool:
    """Asking waits for the device, so a GPU is asked at every eighth token only."""
    if batch.tokens.device.type != "cpu" and written % 8:
        return False
    n_ended = int((batch.end > 0).sum())
    return n_ended >= LEAVE_SHARE * len(batch)


def _leave(rows: NoEdits, position: int) -> Iterator[Batch]:
    ended = rows.batch.end > 0
    leaving = torch.nonzero(ended)[:, 0]
    rows.read_rest(leaving)
    yield rows.batch.select(leaving)
    rows.keep(closed_gaps(~ended), position)
