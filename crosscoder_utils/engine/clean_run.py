"""The clean run: the model without interventions, read once for all rows whose text is the same so far.

What the clean run makes of a text does not depend on the intervention. In a sweep many settings write the same text for the
same prompt, at least for a while: then one row of the run serves them all. Where rows of one text go on with different tokens,
the text is copied to the next free row of the run. Every copy parts two rows for good, so there are never more texts than rows.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crosscoder_utils.engine.batch import Batch, Limits
from crosscoder_utils.engine.cache import closed_gaps
from crosscoder_utils.engine.run import Run
from crosscoder_utils.hooks import PlainModel

Take = Callable[[Int[Tensor, " row"], slice, Float[Tensor, "row pos point d_model"]], object]
"""Given rows of the batch, positions, and what the clean run's residual stream is there."""


class CleanRun:
    """A clean run over texts.

    Attributes:
        run: Its rows are texts.
        text: Which of them is the text of each row of the batch.
        n_texts: How many there are.
        grows: Whether it is read token by token, so that it needs room for a text of each row's own.
    """

    def __init__(self, model: PlainModel, hook_points: tuple[int, ...], batch: Batch, grows: bool) -> None:
        numbers = {prompt: number for number, prompt in enumerate(dict.fromkeys(r.prompt for r in batch.requests))}
        self.text = torch.tensor([numbers[r.prompt] for r in batch.requests], device=batch.start.device)
        self.n_texts, self.grows = len(numbers), grows
        start = batch.start.new_zeros(len(batch) if grows else self.n_texts)
        start[self.text] = batch.start
        self.run = Run(model, hook_points, start, batch.tokens.shape[1] if grows else batch.n_prompt)

    def read_prompts(self, batch: Batch, limits: Limits, take: Take | None = None) -> None:
        """Read each different prompt once."""
        first_row = torch.zeros(self.n_texts, dtype=torch.long, device=self.text.device)
        first_row[self.text] = batch.rows
        for texts in limits.parts(torch.arange(self.n_texts, device=self.text.device), batch.n_prompt):
            begin = int(self.run.start[texts].min())
            tokens = batch.tokens[first_row[texts], begin : batch.n_prompt]
            residuals = self.run.read(tokens, begin, rows=slice(int(texts[0]), int(texts[-1]) + 1)).residuals
            if take is not None:
                self._hand_out(residuals, texts, slice(begin, batch.n_prompt), limits, take)

    def _hand_out(self, residuals: Tensor, texts: Tensor, positions: slice, limits: Limits, take: Take) -> None:
        of_these = torch.nonzero((self.text >= texts[0]) & (self.text <= texts[-1]))[:, 0]
        for rows in limits.parts(of_these, residuals.shape[1]):
            take(rows, positions, residuals[self.text[rows] - texts[0]])

    def read(self, tokens: Int[Tensor, " row"], position: int) -> Float[Tensor, "row 1 point d_model"]:
        """Read each row's token at `position`."""
        if self.n_texts < len(tokens):
            self._part(tokens, position)
        of_text = torch.zeros(self.n_texts, dtype=torch.long, device=tokens.device)
        of_text[self.text] = tokens
        return self.run.read(of_text[:, None], position, rows=slice(0, self.n_texts)).residuals[self.text]

    def read_rest(self, batch: Batch, rows: Int[Tensor, " row"], limits: Limits, take: Take) -> None:
        """Read what some rows have written after their prompts, all at once."""
        positions = slice(batch.n_prompt, max(int(batch.end[rows].max()), batch.n_prompt + 1))
        says = torch.cat([self.text[rows, None], batch.tokens[rows, positions]], dim=1)
        different, of_row = torch.unique(says, dim=0, return_inverse=True)
        for part in limits.parts(torch.arange(len(different), device=rows.device), positions.stop):
            texts, tokens = different[part, 0], different[part, 1:]
            window = self.run.window(texts, torch.full_like(texts, batch.n_prompt))
            residuals = self.run.read_window(window, tokens).residuals
            own = torch.nonzero((of_row >= part[0]) & (of_row <= part[-1]))[:, 0]
            take(rows[own], positions, residuals[of_row[own] - part[0]])

    def keep(self, rows: Int[Tensor, " row"], until: int) -> None:
        """Forget all rows of the batch but these, and the texts that only the others have."""
        if not self.grows:
            self.text = self.text[rows]
            return
        said = torch.zeros(self.n_texts, dtype=torch.bool, device=rows.device)
        said[self.text[rows]] = True
        texts = closed_gaps(said)
        renumbered = torch.zeros_like(said, dtype=torch.long)
        renumbered[texts] = torch.arange(len(texts), device=rows.device)
        self.text, self.n_texts = renumbered[self.text[rows]], len(texts)
        # As many rows as the batch has, since each may part from the others yet.
        self.run.keep(torch.cat([texts, torch.arange(len(texts), len(rows), device=rows.device)]), until)

    def _part(self, tokens: Int[Tensor, " row"], position: int) -> None:
        """Give rows that are about to say another token than others of their text a text of their own."""
        says, of_row = torch.unique(torch.stack([self.text, tokens], dim=1), dim=0, return_inverse=True)
        old = says[:, 0]
        parted = torch.zeros_like(old, dtype=torch.bool)
        parted[1:] = old[1:] == old[:-1]  # sorted by text: the first token of each keeps the text's row
        self.text = torch.where(parted, self.n_texts - 1 + parted.cumsum(0), old)[of_row]
        source, first = old[parted], self.n_texts
        self.n_texts += len(source)
        self.run.cache.copy_rows(self.run.cache, source, position, first)
        self.run.start[first : self.n_texts] = self.run.start[source]
        self.run.mask[first : self.n_texts] = self.run.mask[source]
