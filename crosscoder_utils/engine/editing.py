"""How edits are found where they are multiples of fixed directions, and where there are none."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crosscoder_utils.engine.batch import Batch, Limits
from crosscoder_utils.engine.clean_run import CleanRun
from crosscoder_utils.engine.run import Run
from crosscoder_utils.engine.targets import Targets
from crosscoder_utils.hooks import PlainModel
from crosscoder_utils.loading import Setup


class NoEdits:
    """Rows that are left untouched: a single run.

    Attributes:
        batch: The rows.
        run: The run that writes them.
    """

    def __init__(self, setup: Setup, model: PlainModel, batch: Batch, limits: Limits) -> None:
        self.batch, self.run = batch, Run(model, setup.hook_points, batch.start, batch.tokens.shape[1])
        self.clean, self.limits = CleanRun(model, setup.hook_points, batch, grows=False), limits

    def read_prompts(self) -> None:
        """Read the prompts but for their last token, with which the first step begins."""
        self.clean.read_prompts(self.batch, self.limits)
        self.run.cache.copy_rows(self.clean.run.cache, self.clean.text, self.batch.n_prompt - 1)

    def next_logits(self, position: int) -> Float[Tensor, "row vocab"]:
        """Read each row's token at `position`."""
        return self.run.read(self.batch.tokens[:, position : position + 1], position, logits=True).logits[:, -1]

    def read_rest(self, rows: Int[Tensor, " row"]) -> None:
        """Complete the records of rows that have ended."""

    def keep(self, rows: Int[Tensor, " row"], position: int) -> None:
        """Forget all rows but these; `position` is the next to be read."""
        self.run.keep(rows, position)
        self.clean.keep(rows, position)
        self.batch = self.batch.select(rows)


class AlongDirections(NoEdits):
    """Rows whose edits are multiples of fixed directions, as many as the clean run's activation says.

    At each token, the clean run is read first, then the intervened one with the edit. Where no edit of a completion depends on
    the clean run, as with steering, it is read once, after the row has ended, and only for the records.

    Attributes:
        targets: What each row does to which features.
        waits: Whether the intervened run waits for the clean one at every token.
        last_pre: Clean pre-activations at the prompts' last token.
    """

    def __init__(self, setup: Setup, model: PlainModel, batch: Batch, limits: Limits) -> None:
        super().__init__(setup, model, batch, limits)
        self.targets = Targets.of([r.intervention for r in batch.requests], setup.crosscoder)
        reads = any(r.intervention.reads_activation for r in batch.requests) and any(self.targets.points)
        self.waits = reads and bool(batch.editable[:, batch.n_prompt :].any())
        self.clean = CleanRun(model, setup.hook_points, batch, grows=self.waits)
        self.last_pre = self.targets.value.new_zeros(len(batch), 1, self.targets.real.shape[1])

    def read_prompts(self) -> None:
        n_prompt = self.batch.n_prompt
        coefficients = self.last_pre.new_zeros(len(self.batch), n_prompt, self.targets.real.shape[1])

        def take(rows: Tensor, positions: slice, residuals: Tensor) -> None:
            targets = self.targets.select(rows)
            pre = targets.encoder.pre_activations(residuals)
            coefficients[rows, positions] = targets.coefficients(pre) * self.batch.editable[rows, positions, None]
            self.last_pre[rows] = pre[:, -1:]
            self._record_clean(rows, positions, pre, residuals)

        self.clean.read_prompts(self.batch, self.limits, take)
        self.run.cache.copy_rows(self.clean.run.cache, self.clean.text, n_prompt - 1)
        # Up to a row's first edit the two runs are one; from there on its prompt is read again.
        moves = self.targets.directions.ne(0).flatten(2).any(-1)
        edited = ((coefficients[:, : n_prompt - 1] != 0) & moves[:, None]).any(-1)
        rows, first = torch.nonzero(edited.any(1))[:, 0], edited.long().argmax(1)
        for part in self.limits.parts(rows, n_prompt):
            positions = slice(int(first[part].min()), n_prompt - 1)
            self._read(part, positions, self.targets.select(part), coefficients[part, positions])

    def next_logits(self, position: int) -> Float[Tensor, "row vocab"]:
        at, pre = slice(position, position + 1), self.last_pre
        if self.waits and position >= self.batch.n_prompt:
            residuals = self.clean.read(self.batch.tokens[:, position], position)
            pre = self.targets.encoder.pre_activations(residuals)
            self._record_clean(slice(None), at, pre, residuals)
        coefficients = self.targets.coefficients(pre) * self.batch.editable[:, at, None]
        return self._read(slice(None), at, self.targets, coefficients, logits=True)[:, -1]

    def read_rest(self, rows: Int[Tensor, " row"]) -> None:
        if self.batch.records is not None and not self.waits:
            self.clean.read_rest(self.batch, rows, self.limits, self._take_rest)

    def keep(self, rows: Int[Tensor, " row"], position: int) -> None:
        super().keep(rows, position)
        self.targets, self.last_pre = self.targets.select(rows), self.last_pre[rows]

    def _take_rest(self, rows: Tensor, positions: slice, residuals: Tensor) -> None:
        pre = self.targets.encoder.select(rows).pre_activations(residuals)
        self._record_clean(rows, positions, pre, residuals)

    def _read(
        self, rows: Tensor | slice, positions: slice, targets: Targets, coefficients: Tensor, logits: bool = False
    ) -> Float[Tensor, "row pos vocab"] | None:
        """Let the intervened run read tokens with their edits."""
        deltas = targets.deltas(coefficients)
        tokens = self.batch.tokens[rows, positions]
        result = self.run.read(
            tokens, positions.start, lambda p: deltas[:, :, p] if self.targets.points[p] else None, logits, rows
        )
        if self.batch.records is not None:
            self.batch.records.pre_after[rows, positions] = targets.encoder.pre_activations(result.residuals)
            self.batch.records.edit_norm[rows, positions] = deltas.norm(dim=-1)
        return result.logits

    def _record_clean(self, rows: Tensor | slice, positions: slice, pre: Tensor, residuals: Tensor) -> None:
        """Record the clean run; until an edit, the intervened one is the same."""
        if self.batch.records is not None:
            self.batch.records.pre_before[rows, positions] = pre
            self.batch.records.residual_norm[rows, positions] = residuals.norm(dim=-1).to(pre.dtype)
            if positions.stop <= self.batch.n_prompt:
                self.batch.records.pre_after[rows, positions] = pre
