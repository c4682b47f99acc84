"""The loop that writes the rows of one batch, token by token."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from crosscoder_utils.engine.batch import Batch, Limits, Records, Request
from crosscoder_utils.engine.cache import closed_gaps
from crosscoder_utils.engine.cached_run import Run
from crosscoder_utils.engine.clean_run import CleanRun
from crosscoder_utils.engine.editing import AlongDirections, Searching, Writing
from crosscoder_utils.engine.sampling import Sampler
from crosscoder_utils.hooks import plain
from crosscoder_utils.loading import Setup
from crosscoder_utils.methods.statistics import statistics_for

BLOCK = 8
"""Tokens written between two looks at which rows have ended."""
LEAVE_SHARE = 1 / 8
"""Rows that have ended leave the batch once they are this share of it."""


class Decoding:
    """A batch of rows on its way from prompt to completion.

    Attributes:
        state: The batch and both runs.
        edits: How edits are found.
        sampler: Chooses tokens.
        eos: Ids that end a text.
    """

    def __init__(
        self, setup: Setup, requests: Sequence[Request], numbers: Sequence[int], limits: Limits, sampler: Sampler
    ) -> None:
        statistics, model = statistics_for(setup, [request.intervention for request in requests]), plain(setup.model)
        batch = Batch.of(setup, requests, numbers, limits.new_tokens, statistics)
        run = Run(model, setup.hook_points, batch.start, batch.tokens.shape[1])
        self.state = Writing(batch, run, CleanRun(model, setup.hook_points, batch), limits)
        searches = family(requests[0]) not in (None, AlongDirections)
        if limits.record != "nothing" and requests[0].intervention is not None:
            tables = (batch.targets.zeros(*batch.tokens.shape, points=points) for points in (False, False, True, True))
            with_deltas = searches and limits.record == "everything"
            deltas = batch.targets.zero_deltas(*batch.tokens.shape) if with_deltas else None
            missed = torch.zeros_like(batch.editable) if any(r.intervention.method.aims for r in requests) else None
            batch.records = Records(*tables, deltas, missed)
        self.edits = Searching(self.state, setup.crosscoder, statistics) if searches else AlongDirections(self.state)
        self.sampler, self.eos = sampler, batch.start.new_tensor(setup.eos_token_ids)

    @torch.no_grad()
    def run(self) -> Iterator[Batch]:
        """Complete the prompts; yields the rows that have ended, some at a time, with their records."""
        self.edits.read_prompts()
        position = self.state.batch.n_prompt - 1
        last = position + self.state.limits.new_tokens
        while len(self.state.batch):
            self._step(position, last)
            position += 1
            if position > last or position % BLOCK == 0:
                ended = self.state.batch.end > 0
                if position > last or ended.sum() >= LEAVE_SHARE * len(ended):
                    yield self._leave(ended, position)

    def _step(self, position: int, last: int) -> None:
        """Read each row's token at `position`, and write the next."""
        batch, logits = self.state.batch, self.edits.next_logits(position)
        batch.failed |= (batch.end == 0) & ~torch.isfinite(logits.amax(-1))
        tokens = self.sampler.next_tokens(logits, batch.requests, position + 1 - batch.n_prompt)
        ends = (batch.end == 0) & (torch.isin(tokens, self.eos) | batch.failed | (position == last))
        batch.end[ends] = position + 1
        batch.tokens[:, position + 1] = tokens

    def _leave(self, ended: Tensor, position: int) -> Batch:
        """Let the rows that have ended go; where no edit asked for it, the clean run now reads what they have written."""
        state, leaving = self.state, torch.nonzero(ended)[:, 0]
        end = int(state.batch.end.max())
        if state.batch.records is not None and not self.edits.waits and end > state.batch.n_prompt:
            for part in state.limits.parts(leaving, end):
                state.read_clean(part, slice(state.batch.n_prompt, end))
        gone, kept = state.batch.select(leaving), closed_gaps(~ended)
        state.keep(kept, position)
        self.edits.keep(kept)
        return gone


def family(request: Request) -> type | None:
    """What the rows of a batch have in common: how their edits are found, and if they are searched for, by which method."""
    if request.intervention is None:
        return None
    method = request.intervention.method
    return type(method) if method.searches else AlongDirections
