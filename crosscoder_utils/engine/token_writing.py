"""Writing rows whose edits are looked for token by token."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crosscoder_utils.engine.rows import NEVER, first_column, ragged_columns
from crosscoder_utils.engine.targets import Attempts, Targets
from crosscoder_utils.engine.writing import Writer
from crosscoder_utils.hooks import Pass
from crosscoder_utils.interventions import Intervention


class TokenWriter(Writer):
    """Rows on their way from prompt to completion, all under one class of method with `deltas`.

    A token at which the intervention's loss is 0 is left alone, so only the others cost more than being read. In a prompt,
    several tokens are read at once, up to the first that has a loss; what was read after it is read again.

    Attributes:
        deltas: What was added to the stream.
    """

    def _make_tables(self, interventions: Sequence[Intervention]) -> None:
        super()._make_tables(interventions)
        self.methods = [i.method for i in interventions]
        self.editable &= ~torch.tensor([m.idle for m in self.methods], device=self.editable.device)[:, None]
        self.deltas = self.targets.directions.new_zeros(*self.tokens.shape, *self.targets.directions.shape[2:])

    def _read_prompts(self) -> None:
        last = self.prompt_length - 1
        has_loss = (self.targets.losses(self.pre_before) != 0) & self.editable
        self.cursor = torch.minimum(first_column(has_loss), last)
        # Up to the first token with a loss the two streams are one.
        self.edited.cache.copy_from(self.clean_prompts.cache, slice(None), self.prompt_of, int(self.cursor.max()))
        width = 1
        while len(behind := torch.nonzero(self.cursor < last)[:, 0]):
            accepted = 0
            for part in self.limits.parts(len(behind), width):
                accepted += self._read_prompt_tokens(behind[part], width)
            # Read on as far as it went well last time, and then some: rare losses cost few passes, frequent ones little waste.
            width = 1 + 2 * accepted // len(behind)

    def _read_prompt_tokens(self, rows: Tensor, width: int) -> int:
        """Read up to `width` prompt tokens of each row, up to the first that has a loss; returns how many had none."""
        begin, last = self.cursor[rows], self.prompt_length[rows] - 1
        columns = ragged_columns(begin, torch.minimum(begin + width, last))
        has_loss = self._read_unedited(rows, rows, columns, self.targets.select(rows))[0]
        first = first_column(has_loss, columns)
        found = first < NEVER
        self.cursor[rows] = torch.where(found, first, columns[:, -1] + 1)
        accepted = int((self.cursor[rows] - begin).sum())
        if found.any():
            rows = rows[found]
            edited = self._find_edits(rows, rows, self.cursor[rows][:, None], self.targets.select(rows))
            if edited.any():
                self._read_token(rows[edited], rows[edited], self.cursor[rows[edited]][:, None])
            self.cursor[rows] += 1
        return accepted

    def _next_logits(
        self, rows: Tensor, columns: Int[Tensor, "row pos"]
    ) -> tuple[Float[Tensor, "row pos vocab"], Int[Tensor, " row"]]:
        has_loss, logits = self._read_unedited(slice(0, len(rows)), rows, columns, self.slot_targets, logits=True)
        slots = torch.nonzero(has_loss[:, 0])[:, 0]
        edited = self._find_edits(slots, rows[slots], columns[slots, :1], self.slot_targets.select(slots))
        if edited.any():
            edited = slots[edited]
            logits[edited, :1] = self._read_token(edited, rows[edited], columns[edited, :1], logits=True).logits
        # What stands behind a token with a loss has not seen its edit; such a token is left to the next step.
        place = torch.arange(columns.shape[1], device=columns.device).expand_as(columns)
        return logits, torch.where(has_loss, place, columns.shape[1]).amin(1).clamp(min=1)

    def _read_unedited(
        self, slots: Tensor | slice, rows: Tensor, columns: Tensor, targets: Targets, logits: bool = False
    ) -> tuple[Bool[Tensor, "row pos"], Float[Tensor, "row pos vocab"] | None]:
        """Read tokens as if they needed no edit; returns where there is a loss."""
        at = rows[:, None], columns
        result = self.edited.read(slots, self.tokens[at], columns, None, logits)
        self.pre_after[at] = targets.pre_activations(result.residuals)
        has_loss = (targets.losses(self.pre_after[at]) != 0) & self.editable[at]
        return has_loss, result.logits

    def _find_edits(self, slots: Tensor, rows: Tensor, columns: Int[Tensor, "row 1"], targets: Targets) -> Bool[Tensor, " row"]:
        """Look for what to add at one token of each row; returns where it is not nothing."""
        if not len(slots):
            return torch.zeros_like(slots, dtype=torch.bool)
        at = rows[:, None], columns
        attempts = Attempts(targets, self.edited.cache.past(slots, columns[:, 0]), self.edited, self.tokens[at])
        methods = [self.methods[row] for row in rows.tolist()]
        deltas = type(methods[0]).deltas(methods, attempts)
        self.deltas[at] = deltas[:, None]
        return deltas.flatten(1).any(1)

    def _read_token(self, slots: Tensor, rows: Tensor, columns: Int[Tensor, "row 1"], logits: bool = False) -> Pass:
        """Read one token of each row with what was found."""
        at = rows[:, None], columns
        deltas = self.deltas[at]
        result = self.edited.read(slots, self.tokens[at], columns, lambda point: deltas[:, :, point], logits)
        self.pre_after[at] = self.targets.select(rows).pre_activations(result.residuals)
        return result
