"""One run of the model over a batch: it reads position after position and keeps the keys and values."""

import torch
from jaxtyping import Int
from torch import Tensor

from crosscoder_utils.engine.cache import InPlace, PassCache, RunCache, Window, attention_mask
from crosscoder_utils.hooks import Edit, Pass, PlainModel, read


class Run:
    """A batch of rows that are padded on the left, so that all of them are at the same position.

    Two runs over one model, the clean and the intervened one, do not know of each other.

    Attributes:
        model: The plain model.
        hook_points: The crosscoder's.
        start: Position of each row's first token.
        cache: Keys and values of what has been read.
        mask: Hides the padding; of all positions, so that a step only takes a slice of it.
    """

    def __init__(self, model: PlainModel, hook_points: tuple[int, ...], start: Int[Tensor, " row"], n_positions: int) -> None:
        self.model, self.hook_points, self.start = model, hook_points, start
        self.cache = RunCache(len(start), n_positions)
        self.mask = attention_mask(start, torch.full_like(start, n_positions - 1), n_positions - 1, 1, model.causal_lm.dtype)

    def read(
        self,
        tokens: Int[Tensor, "row pos"],
        begin: int,
        edit: Edit | None = None,
        logits: bool = False,
        rows: slice | Tensor = slice(None),
    ) -> Pass:
        """Read the tokens of `rows` (by default all) at the positions from `begin` on."""
        n_new = tokens.shape[1]
        if n_new == 1:
            mask = self.mask[rows, :, :, : begin + 1]
        else:
            start = self.start[rows]
            mask = attention_mask(start, torch.full_like(start, begin), begin, n_new, self.model.causal_lm.dtype)
        positions = torch.full_like(self.start[rows], begin)
        return self._pass(tokens, InPlace(self.cache, rows, begin, n_new), mask, positions, self.start[rows], edit, logits)

    def window(self, rows: Int[Tensor, " row"], positions: Int[Tensor, " row"], keep: bool = False) -> Window:
        """The past of some rows, each before a position of its own, for `read_window`."""
        return Window(self.cache, rows, positions, keep)

    def read_window(
        self, window: Window, tokens: Int[Tensor, "row pos"], edit: Edit | None = None, logits: bool = False
    ) -> Pass:
        """Read tokens after the past in `window`; differentiable in what `edit` adds."""
        start = self.start[window.rows]
        mask = attention_mask(start, window.positions, window.n_past, tokens.shape[1], self.model.causal_lm.dtype)
        return self._pass(tokens, window, mask, window.positions, start, edit, logits)

    def keep(self, rows: Int[Tensor, " row"], until: int) -> None:
        """Forget all rows but these, and what may have been read from position `until` on."""
        self.start, self.mask = self.start[rows], self.mask[rows]
        self.cache.keep(rows, until)

    def _pass(
        self, tokens: Tensor, cache: PassCache, mask: Tensor, positions: Tensor, start: Tensor, edit: Edit | None, logits: bool
    ) -> Pass:
        ids = (positions - start)[:, None] + torch.arange(tokens.shape[1], device=tokens.device)
        return read(
            self.model, tokens, edit, logits, self.hook_points, cache, attention_mask=mask, position_ids=ids.clamp(min=0)
        )
