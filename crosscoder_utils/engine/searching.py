"""How edits are found where a method searches for them, token by token."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crosscoder_utils.engine.batch import Batch, Limits
from crosscoder_utils.engine.cache import Window
from crosscoder_utils.engine.editing import AlongDirections
from crosscoder_utils.engine.run import Run
from crosscoder_utils.engine.targets import Targets
from crosscoder_utils.hooks import Pass, PlainModel
from crosscoder_utils.loading import Setup

PROMPT_SPAN = 8
"""Tokens of a prompt that are read at once, on the assumption that they need no edit."""


@dataclass(frozen=True, eq=False)
class Attempts:
    """One token of each row, at which a method may try deltas before the text goes on.

    Attributes:
        targets: The rows' features.
        run: The intervened run.
        window: Its past before the token.
        tokens: The tokens.
    """

    targets: Targets
    run: Run
    window: Window
    tokens: Int[Tensor, "row 1"]

    def residuals(self, deltas: Float[Tensor, "row point d_model"]) -> Float[Tensor, "row 1 point d_model"]:
        """The residual stream under `deltas`; differentiable in them. Nothing of it is kept."""
        return self.run.read_window(self.window, self.tokens, lambda point: deltas[:, None, point]).residuals

    def losses(self, deltas: Float[Tensor, "row point d_model"]) -> Float[Tensor, " row"]:
        """The interventions' losses under `deltas`."""
        return self.targets.losses(self.targets.encoder.pre_activations(self.residuals(deltas)))[:, 0]

    def zero_deltas(self) -> Float[Tensor, "row point d_model"]:
        directions = self.targets.directions
        return directions.new_zeros(len(self.tokens), *directions.shape[2:])

    def select(self, rows: Tensor) -> "Attempts":
        """Those of some rows."""
        return Attempts(self.targets.select(rows), self.run, self.window.select(rows), self.tokens[rows])


class Searching(AlongDirections):
    """Rows under one class of method with `deltas`.

    The intervened run reads each token without an edit; a token at which the intervention's loss is 0 is left at that. At the
    others the method searches, and the token is read again with what it has found. In a prompt, several tokens are read at
    once, up to the first that has a loss.

    Attributes:
        methods: Each row's method, with its parameters.
        active: Where the row may be edited by a method that is not idle.
    """

    def __init__(self, setup: Setup, model: PlainModel, batch: Batch, limits: Limits) -> None:
        super().__init__(setup, model, batch, limits)
        self.methods = [r.intervention.method for r in batch.requests]
        idle = torch.tensor([m.idle for m in self.methods], device=batch.start.device)
        self.active = batch.editable & ~idle[:, None]

    def read_prompts(self) -> None:
        last = self.batch.n_prompt - 1
        has_loss = torch.zeros_like(self.active[:, :last])

        def take(rows: Tensor, positions: slice, residuals: Tensor) -> None:
            targets = self.targets.select(rows)
            pre = targets.encoder.pre_activations(residuals)
            losses = targets.losses(pre[:, : last - positions.start])
            has_loss[rows, positions.start :] = (losses != 0) & self.active[rows, positions.start : last]
            self._record_clean(rows, positions, pre, residuals)

        self.clean.read_prompts(self.batch, self.limits, take)
        self.run.cache.copy_rows(self.clean.run.cache, self.clean.text, last)
        # Up to a row's first loss the two runs are one; from there on its prompt is read again, with edits.
        rows = torch.nonzero(has_loss.any(1))[:, 0]
        for part in self.limits.parts(rows, PROMPT_SPAN):
            self._search_prompts(part, has_loss[part].long().argmax(1))

    def _search_prompts(self, rows: Int[Tensor, " row"], cursor: Int[Tensor, " row"]) -> None:
        """Edit the token of each row at its cursor, where there is a loss, then read on to the next one that has a loss."""
        last = self.batch.n_prompt - 1
        while len(rows):
            self._edit(rows, cursor)
            cursor = cursor + 1
            found = torch.zeros_like(cursor, dtype=torch.bool)
            while len(behind := torch.nonzero(~found & (cursor < last))[:, 0]):
                n_read, found[behind] = self._read_on(rows[behind], cursor[behind])
                cursor[behind] += n_read
            rows, cursor = rows[found], cursor[found]

    def _read_on(self, rows: Tensor, cursor: Tensor) -> tuple[Int[Tensor, " row"], Bool[Tensor, " row"]]:
        """Read some tokens of prompts without an edit: how many come before the first loss, and whether there is one."""
        last = self.batch.n_prompt - 1
        span = min(PROMPT_SPAN, self.batch.tokens.shape[1] - 1 - int(cursor.max()))
        positions = cursor[:, None] + torch.arange(span, device=rows.device)
        at, targets = (rows[:, None], positions), self.targets.select(rows)
        # What is read beyond the prompt's end or behind a loss is not valid, and is read again before anything looks at it.
        result = self.run.read_window(self.run.window(rows, cursor, keep=True), self.batch.tokens[at])
        pre = targets.encoder.pre_activations(result.residuals)
        if self.batch.records is not None:
            self.batch.records.pre_after[at] = pre
        has_loss = (targets.losses(pre) != 0) & self.active[at] & (positions < last)
        found = has_loss.any(1)
        n_read = torch.where(found, has_loss.long().argmax(1), torch.minimum(last - cursor, torch.full_like(cursor, span)))
        return n_read, found

    def next_logits(self, position: int) -> Float[Tensor, "row vocab"]:
        result = self.run.read(self.batch.tokens[:, position : position + 1], position, logits=True)
        pre = self.targets.encoder.pre_activations(result.residuals)
        if self.batch.records is not None:
            self.batch.records.pre_after[:, position] = pre[:, 0]
        logits = result.logits[:, -1]
        rows = torch.nonzero((self.targets.losses(pre)[:, 0] != 0) & self.active[:, position])[:, 0]
        if len(rows):
            logits[rows] = self._edit(rows, torch.full_like(rows, position), logits=True).logits[:, -1]
        return logits

    def keep(self, rows: Int[Tensor, " row"], position: int) -> None:
        super().keep(rows, position)
        self.methods, self.active = [self.methods[r] for r in rows.tolist()], self.active[rows]

    def _edit(self, rows: Int[Tensor, " row"], positions: Int[Tensor, " row"], logits: bool = False) -> Pass:
        """Search for what to add at one token of each row, and read the token with it."""
        targets, tokens = self.targets.select(rows), self.batch.tokens[rows, positions][:, None]
        window = self.run.window(rows, positions, keep=False)
        methods = [self.methods[row] for row in rows.tolist()]
        deltas = type(methods[0]).deltas(methods, Attempts(targets, self.run, window, tokens))
        window.keep = True
        result = self.run.read_window(window, tokens, lambda point: deltas[:, None, point], logits)
        records = self.batch.records
        if records is not None:
            records.pre_after[rows, positions] = targets.encoder.pre_activations(result.residuals)[:, 0]
            records.edit_norm[rows, positions] = deltas.norm(dim=-1)
            if records.deltas is not None:
                records.deltas[rows, positions] = deltas
        return result
