"""How the edit at a token is found: along fixed directions, or by a method that searches for it."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crosscoder_utils.crosscoder import Crosscoder
from crosscoder_utils.engine.attempts import Attempts
from crosscoder_utils.engine.batch import Batch, Limits
from crosscoder_utils.engine.cached_run import ALL, Rows, Run
from crosscoder_utils.engine.clean_run import CleanRun
from crosscoder_utils.methods.statistics import FeatureStatistics

PROMPT_SPAN = 8
"""Tokens of a prompt that a search reads at once, on the assumption that they need no edit."""


@dataclass(eq=False)
class Writing:
    """The state of a batch: its rows and both runs."""

    batch: Batch
    run: Run
    clean: CleanRun
    limits: Limits

    def keep(self, rows: Int[Tensor, " row"], position: int) -> None:
        """Forget all rows but these; `position` is the next to be read."""
        self.batch = self.batch.select(rows)
        self.run.keep(rows, position)
        self.clean.keep(rows, position)

    def read_clean(self, rows: Rows, at: slice) -> Float[Tensor, "row pos target"]:
        """Let the clean run read what rows have written, and record it; returns its pre-activations."""
        residuals = self.clean.read(self.batch.tokens[rows, at], at.start, rows)
        pre = self.batch.targets.select(rows).encoder.pre_activations(residuals)
        self.record_clean(rows, at, pre, residuals)
        return pre

    def check_finite(self, rows: Rows, deltas: Float[Tensor, "row ... d_model"]) -> None:
        """Mark rows as failed whose edits are so large that their squares, which every norm adds up, overflow."""
        overflow = ~torch.isfinite(deltas.flatten(1).square().sum(1))
        self.batch.failed[rows] |= overflow & (self.batch.end[rows] == 0)

    def record_clean(self, rows: Rows, at: slice, pre: Tensor, residuals: Tensor) -> None:
        if self.batch.records is not None:
            self.batch.records.pre_before[rows, at] = pre
            self.batch.records.residual_norm[rows, at] = residuals.norm(dim=-1).to(pre.dtype)
            if at.stop <= self.batch.n_prompt:  # until its first edit, the intervened run is the same
                self.batch.records.pre_after[rows, at] = pre


class AlongDirections:
    """Edits are multiples of fixed directions, as many as the clean run's activation says; rows may be untouched too.

    Attributes:
        state: The batch.
        waits: Whether edits of completions depend on the clean run. With steering, say, they do not.
        last_pre: Clean pre-activations at the prompts' last token.
    """

    def __init__(self, state: Writing) -> None:
        batch, targets = state.batch, state.batch.targets
        self.state = state
        reads = any(r.intervention.reads_activation for r in batch.requests if r.intervention) and any(targets.points)
        self.waits = reads and bool(batch.editable[:, batch.n_prompt :].any())
        self.last_pre = targets.zeros(len(batch), 1)

    def read_prompts(self) -> None:
        """Read the prompts but for their last token, with which the first step begins."""
        state, batch, last = self.state, self.state.batch, self.state.batch.n_prompt - 1
        coefficients = state.batch.targets.zeros(len(batch), batch.n_prompt)

        def take(rows: Tensor, at: slice, residuals: Tensor) -> None:
            pre = state.batch.targets.select(rows).encoder.pre_activations(residuals)
            coefficients[rows, at] = self._coefficients(rows, at, pre)
            self.last_pre[rows] = pre[:, -1:]
            state.record_clean(rows, at, pre, residuals)

        state.clean.read_prompts(batch, state.limits, take)
        state.run.cache.copy_rows(state.clean.run.cache, state.clean.text, last)
        if not last:  # prompts of one token; nothing stands before the first step
            return
        # Up to a row's first edit the two runs are one; from there on its prompt is read again.
        edited = ((coefficients[:, :last] != 0) & state.batch.targets.moves[:, None]).any(-1)
        rows, first = torch.nonzero(edited.any(1))[:, 0], edited.long().argmax(1)
        for part in state.limits.parts(rows, last):
            at = slice(int(first[part].min()), last)
            self._read(part, at, coefficients[part, at])

    def next_logits(self, position: int) -> Float[Tensor, "row vocab"]:
        """Read all rows' token at `position` in the intervened run, and before, if edits depend on it, in the clean run."""
        at, pre = slice(position, position + 1), self.last_pre
        if position >= self.state.batch.n_prompt:
            pre = self.state.read_clean(ALL, at) if self.waits else torch.full_like(pre, -torch.inf)
        return self._read(ALL, at, self._coefficients(ALL, at, pre), logits=True)[:, -1]

    def keep(self, rows: Int[Tensor, " row"]) -> None:
        """Forget all rows but these."""
        self.last_pre = self.last_pre[rows]

    def _coefficients(self, rows: Rows, at: slice, pre: Tensor) -> Float[Tensor, "row pos target"]:
        return self.state.batch.targets.select(rows).coefficients(pre) * self.state.batch.editable[rows, at, None]

    def _read(self, rows: Rows, at: slice, coefficients: Tensor, logits: bool = False) -> Tensor | None:
        """Let the intervened run read tokens with their edits."""
        state, targets = self.state, self.state.batch.targets.select(rows)
        deltas, records = targets.deltas(coefficients), state.batch.records
        state.check_finite(rows, deltas)
        result = state.run.read(
            state.batch.tokens[rows, at], at.start, lambda p: deltas[:, :, p] if targets.points[p] else None, logits, rows
        )
        if records is not None:
            records.pre_after[rows, at] = targets.encoder.pre_activations(result.residuals)
            records.edit_norm[rows, at] = deltas.norm(dim=-1)
        return result.logits


class Searching:
    """A method searches for what to add, all rows with the same class of method.

    The intervened run reads each token without an edit; a token at which the intervention has nothing to do (the feature to be
    ablated does not fire, say) is left at that. At the others the method searches, and the token is read again with what it
    has found. In a prompt, several tokens are read at once, up to the first at which there is something to do.

    Attributes:
        state: The batch.
        methods: Each row's method, with its parameters.
        active: Where the row may be edited by a method that is not idle.
        waits: False; a search does not look at the clean run.
    """

    waits = False

    def __init__(self, state: Writing, crosscoder: Crosscoder, statistics: FeatureStatistics | None) -> None:
        self.state, self.methods = state, [r.intervention.method for r in state.batch.requests]
        self.crosscoder, self.statistics = crosscoder, statistics
        idle = torch.tensor([method.idle for method in self.methods], device=state.batch.start.device)
        self.active = state.batch.editable & ~idle[:, None]

    def read_prompts(self) -> None:
        """Read the prompts but for their last token, with which the first step begins."""
        state, last = self.state, self.state.batch.n_prompt - 1
        acts = torch.zeros_like(self.active)

        def take(rows: Tensor, at: slice, residuals: Tensor) -> None:
            targets = state.batch.targets.select(rows)
            pre = targets.encoder.pre_activations(residuals)
            acts[rows, at] = targets.acting(pre).any(-1) & self.active[rows, at]
            state.record_clean(rows, at, pre, residuals)

        state.clean.read_prompts(state.batch, state.limits, take)
        state.run.cache.copy_rows(state.clean.run.cache, state.clean.text, last)
        if not last:
            return
        # Up to a row's first edit the two runs are one; from there on its prompt is read again.
        for rows in state.limits.parts(torch.nonzero(acts[:, :last].any(1))[:, 0], PROMPT_SPAN):
            cursor = acts[rows].long().argmax(1)
            while len(rows):
                self._edit(rows, cursor)
                rows, cursor = self._next_edits(rows, cursor + 1)

    def next_logits(self, position: int) -> Float[Tensor, "row vocab"]:
        """Read all rows' token at `position` in the intervened run."""
        state, records = self.state, self.state.batch.records
        result = state.run.read(state.batch.tokens[:, position : position + 1], position, logits=True)
        pre, logits = state.batch.targets.encoder.pre_activations(result.residuals), result.logits[:, -1]
        if records is not None:
            records.pre_after[:, position] = pre[:, 0]
        edited = torch.nonzero(state.batch.targets.acting(pre)[:, 0].any(-1) & self.active[:, position])[:, 0]
        if len(edited):
            logits[edited] = self._edit(edited, torch.full_like(edited, position), logits=True)[:, -1]
        return logits

    def keep(self, rows: Int[Tensor, " row"]) -> None:
        """Forget all rows but these."""
        self.active, self.methods = self.active[rows], [self.methods[r] for r in rows.tolist()]

    def _next_edits(self, rows: Tensor, cursor: Tensor) -> tuple[Int[Tensor, " row"], Int[Tensor, " row"]]:
        """Read prompts on from `cursor`; returns the rows that have another token to edit, and where."""
        state, last, found = self.state, self.state.batch.n_prompt - 1, torch.zeros_like(cursor, dtype=torch.bool)
        while len(behind := torch.nonzero(~found & (cursor < last))[:, 0]):
            own, begin = rows[behind], cursor[behind]
            span = min(PROMPT_SPAN, state.batch.tokens.shape[1] - 1 - int(begin.max()))
            at = own[:, None], begin[:, None] + torch.arange(span, device=rows.device)
            # What is read behind such a token, or beyond the prompt, is not valid; it is read again before it is looked at.
            result = state.run.read_window(state.run.window(own, begin, keeps=True), state.batch.tokens[at])
            targets = state.batch.targets.select(own)
            pre = targets.encoder.pre_activations(result.residuals)
            if state.batch.records is not None:
                state.batch.records.pre_after[at] = pre
            acts = targets.acting(pre).any(-1) & self.active[at] & (at[1] < last)
            found[behind] = acts.any(1)
            cursor[behind] += torch.where(acts.any(1), acts.long().argmax(1), (last - begin).clamp(max=span))
        return rows[found], cursor[found]

    def _edit(self, rows: Int[Tensor, " row"], positions: Int[Tensor, " row"], logits: bool = False) -> Tensor | None:
        """Search for what to add at one token of some rows, and read it with that."""
        state, targets, records = self.state, self.state.batch.targets.select(rows), self.state.batch.records
        tokens, window = state.batch.tokens[rows, positions][:, None], state.run.window(rows, positions)
        methods = [self.methods[row] for row in rows.tolist()]
        attempts = Attempts(targets, state.run, window, tokens, self.crosscoder, self.statistics)
        deltas = type(methods[0]).deltas(methods, attempts)
        before = targets.encoder.pre_activations(attempts.unedited)[:, 0]
        state.check_finite(rows, deltas)
        window.keeps = True
        result = state.run.read_window(window, tokens, lambda point: deltas[:, None, point], logits)
        if records is not None:
            records.pre_after[rows, positions] = targets.encoder.pre_activations(result.residuals)[:, 0]
            records.edit_norm[rows, positions] = deltas.norm(dim=-1)
            if records.deltas is not None:
                records.deltas[rows, positions] = deltas
            if records.missed is not None:
                aims = torch.tensor([method.aims for method in methods], device=rows.device)
                missed = targets.missed(before, records.pre_after[rows, positions])
                records.missed[rows, positions] = aims & missed
        return result.logits
