"""The loop that writes the rows of one batch, some tokens at a time."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from crosscoder_utils.engine.batch import Batch, Limits, Records, Request
from crosscoder_utils.engine.cache import closed_gaps
from crosscoder_utils.engine.cached_run import ALL, Rows, Run
from crosscoder_utils.engine.clean_run import CleanRun
from crosscoder_utils.engine.editing import AlongDirections, Searching, Writing
from crosscoder_utils.engine.sampling import Sampler
from crosscoder_utils.hooks import plain
from crosscoder_utils.interventions import SearchMethod
from crosscoder_utils.loading import Setup

BLOCK = 8
"""Tokens written between two looks at which rows have ended; so many are written ahead of the clean run."""
LEAVE_SHARE = 1 / 8
"""Rows that have ended leave the batch once they are this share of it."""
AHEAD_SHARE = 1 / 8
"""Rows are written ahead of the clean run if at most this share of them had to be written again the last time."""


class Decoding:
    """A batch of rows on its way from prompt to completion.

    Attributes:
        state: The batch and both runs.
        edits: How edits are found.
        sampler: Chooses tokens.
        eos: Ids that end a text.
        fired_share: Share of the rows on which a feature fired in the last block.
    """

    def __init__(
        self, setup: Setup, requests: Sequence[Request], numbers: Sequence[int], limits: Limits, sampler: Sampler
    ) -> None:
        batch, model = Batch.of(setup, requests, numbers, limits.new_tokens), plain(setup.model)
        run = Run(model, setup.hook_points, batch.start, batch.tokens.shape[1])
        self.state = Writing(batch, run, CleanRun(model, setup.hook_points, batch), limits)
        searches = family(requests[0]) not in (None, AlongDirections)
        if limits.record != "nothing" and requests[0].intervention is not None:
            tables = (batch.targets.zeros(*batch.tokens.shape, points=points) for points in (False, False, True, True))
            with_deltas = searches and limits.record == "everything"
            batch.records = Records(*tables, batch.targets.zero_deltas(*batch.tokens.shape) if with_deltas else None)
        self.edits = (Searching if searches else AlongDirections)(self.state)
        self.sampler, self.eos, self.fired_share = sampler, setup.tokenizer.eos_token_id, 0.0

    @torch.no_grad()
    def run(self) -> Iterator[Batch]:
        """Complete the prompts; yields the rows that have ended, some at a time, with their records."""
        self.edits.read_prompts()
        begin, limits = self.state.batch.n_prompt - 1, self.state.limits
        last = begin + limits.new_tokens
        while len(self.state.batch):
            end = min(begin + BLOCK, last + 1)
            self._write_block(begin, end, last)
            begin, ended = end, self.state.batch.end > 0
            if end > last or ended.sum() >= LEAVE_SHARE * len(ended):
                yield self._leave(ended, position=end)

    def _write_block(self, begin: int, end: int, last: int) -> None:
        """Write ahead of the clean run where that pays, and once more the rows on which a feature did fire."""
        waits, begin_new = self.edits.waits, max(begin, self.state.batch.n_prompt)
        ahead = waits and self.fired_share <= AHEAD_SHARE
        for position in range(begin, end):
            self._step(position, ALL, last, wait=waits and not ahead)
        if not waits or begin_new == end:
            return
        fired = self.edits.rows_fired(begin_new, end, caught_up=not ahead)
        self.fired_share = float(fired.float().mean())
        if ahead and self.fired_share:
            rows = torch.nonzero(fired)[:, 0]
            self.state.batch.end[rows] = 0
            for position in range(begin_new, end):
                self._step(position, rows, last, wait=True)
            self.edits.rows_fired(begin_new, end, caught_up=True)

    def _step(self, position: int, rows: Rows, last: int, wait: bool) -> None:
        """Read each row's token at `position`, and write the next."""
        batch = self.state.batch
        logits = self.edits.next_logits(position, rows, wait)
        tokens = self.sampler.next_tokens(logits, batch.requests, rows, position + 1 - batch.n_prompt)
        ends, end = (tokens == self.eos) | (position == last), batch.end[rows]
        batch.end[rows] = torch.where((end == 0) & ends, position + 1, end)
        batch.tokens[rows, position + 1] = tokens

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
    return type(method) if isinstance(method, SearchMethod) else AlongDirections
