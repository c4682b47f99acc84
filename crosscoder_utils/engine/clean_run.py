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
from crosscoder_utils.engine.cached_run import Rows, Run
from crosscoder_utils.hooks import PlainModel

Take = Callable[[Int[Tensor, " row"], slice, Float[Tensor, "row pos point d_model"]], object]
"""Given rows of the batch, positions, and what the clean run's residual stream is there."""
SHARED = True
"""Whether rows of equal text share a row of the clean run; if False, each row has a text of its own."""


class CleanRun:
    """A clean run over texts.

    Attributes:
        run: Its rows are texts.
        text: Which of them is the text of each row of the batch.
        n_texts: How many there are.
    """

    def __init__(self, model: PlainModel, hook_points: tuple[int, ...], batch: Batch) -> None:
        said = [request.prompt if SHARED else row for row, request in enumerate(batch.requests)]
        numbers = {text: number for number, text in enumerate(dict.fromkeys(said))}
        self.text = torch.tensor([numbers[text] for text in said], device=batch.start.device)
        self.n_texts = len(numbers)
        start = batch.start.new_zeros(len(batch))  # room for a text of each row's own
        start[self.text] = batch.start
        self.run = Run(model, hook_points, start, batch.tokens.shape[1])

    def read_prompts(self, batch: Batch, limits: Limits, take: Take | None = None) -> None:
        """Read each different prompt once; `take` gets the residual stream of some rows' prompts at a time."""
        first_row = torch.zeros(self.n_texts, dtype=torch.long, device=self.text.device)
        first_row[self.text] = batch.rows
        for texts in limits.parts(torch.arange(self.n_texts, device=self.text.device), batch.n_prompt):
            begin, low, high = int(self.run.start[texts].min()), int(texts[0]), int(texts[-1])
            tokens = batch.tokens[first_row[texts], begin : batch.n_prompt]
            residuals = self.run.read(tokens, begin, rows=slice(low, high + 1)).residuals
            saying = torch.nonzero((self.text >= low) & (self.text <= high))[:, 0]
            for rows in limits.parts(saying, residuals.shape[1]) if take else ():
                take(rows, slice(begin, batch.n_prompt), residuals[self.text[rows] - low])

    def read(self, tokens: Int[Tensor, "row pos"], begin: int, rows: Rows) -> Float[Tensor, "row pos point d_model"]:
        """Read the tokens of some rows at the positions from `begin` on."""
        one_of = self._part(tokens, begin, rows)
        texts = self.text[rows][one_of]
        if len(texts) == self.n_texts:  # all of them: nothing has to be copied
            order = torch.empty_like(one_of)
            order[texts] = one_of
            residuals = self.run.read(tokens[order], begin, rows=slice(0, self.n_texts)).residuals
            return residuals[self.text[rows]]
        number = torch.zeros(self.n_texts, dtype=torch.long, device=texts.device)
        number[texts] = torch.arange(len(texts), device=texts.device)
        return self.run.read(tokens[one_of], begin, rows=texts).residuals[number[self.text[rows]]]

    def keep(self, rows: Int[Tensor, " row"], until: int) -> None:
        """Forget all rows of the batch but these, and the texts that only the others have."""
        said = torch.zeros(self.n_texts, dtype=torch.bool, device=rows.device)
        said[self.text[rows]] = True
        texts = closed_gaps(said)
        renumbered = torch.zeros_like(said, dtype=torch.long)
        renumbered[texts] = torch.arange(len(texts), device=rows.device)
        self.text, self.n_texts = renumbered[self.text[rows]], len(texts)
        self.run.keep(torch.cat([texts, torch.arange(len(texts), len(rows), device=rows.device)]), until)

    def _part(self, tokens: Int[Tensor, "row pos"], position: int, rows: Rows) -> Int[Tensor, " text"]:
        """Give rows a text of their own where they are about to say other tokens than others of their text.

        Returns:
            For each text of `rows`, the place of one of its rows in `rows`.
        """
        every = torch.arange(len(tokens), device=tokens.device)
        if self.n_texts == len(self.text):
            return every
        texts = of_row = self.text[rows]
        n_tokens = self.run.model.causal_lm.config.vocab_size
        elsewhere = torch.bincount(self.text, minlength=self.n_texts) - torch.bincount(of_row, minlength=self.n_texts)
        for token in tokens.T:
            says, of_row = torch.unique(of_row * n_tokens + token, return_inverse=True)
        one_of = torch.zeros_like(says)
        one_of[of_row] = every
        # In ascending order. Of the texts that come of one, the first keeps its row of the run, unless others still need it.
        old = texts[one_of]
        parted = elsewhere[old] > 0
        parted[1:] |= old[1:] == old[:-1]
        self.text[rows] = torch.where(parted, self.n_texts - 1 + parted.cumsum(0), old)[of_row]
        source, first = old[parted], self.n_texts
        self.n_texts += len(source)
        self.run.cache.copy_rows(self.run.cache, source, position, first)
        self.run.start[first : self.n_texts] = self.run.start[source]
        return one_of
