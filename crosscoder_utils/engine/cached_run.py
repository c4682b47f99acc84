"""A run of the model over a batch: it reads position after position and keeps the keys and values."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crosscoder_utils.engine.cache import InPlace, PassCache, RunCache, Window
from crosscoder_utils.hooks import Edit, Pass, PlainModel, read

Rows = slice | Int[Tensor, " row"]
"""Some rows of a batch. With a slice, nothing has to be copied."""
ALL = slice(None)


class Run:
    """Rows that are padded on the left, so that all are at the same position. Two runs over one model are independent.

    Attributes:
        model: The plain model.
        hook_points: The crosscoder's.
        start: Position of each row's first token.
        cache: Keys and values of what has been read.
    """

    def __init__(self, model: PlainModel, hook_points: tuple[int, ...], start: Int[Tensor, " row"], n_positions: int) -> None:
        self.model, self.hook_points, self.start = model, hook_points, start
        self.cache = RunCache(len(start), n_positions)

    def read(
        self,
        tokens: Int[Tensor, "row pos"],
        begin: int,
        edit: Edit | None = None,
        logits: bool = False,
        rows: Rows = ALL,
    ) -> Pass:
        """Read the tokens of `rows` (by default all) at the positions from `begin` on."""
        start = self.start[rows]
        mask = attention_mask(start, start.new_tensor(begin), begin, tokens.shape[1], self.model.causal_lm.dtype)
        return self._pass(tokens, InPlace(self.cache, rows, begin), mask, begin - start, edit, logits)

    def window(self, rows: Int[Tensor, " row"], positions: Int[Tensor, " row"], keeps: bool = False) -> Window:
        """The past of some rows, each before a position of its own, for `read_window`."""
        return Window(self.cache, rows, positions, keeps)

    def read_window(
        self, window: Window, tokens: Int[Tensor, "row pos"], edit: Edit | None = None, logits: bool = False
    ) -> Pass:
        """Read tokens after the past in `window`; differentiable in what `edit` adds."""
        start = self.start[window.rows]
        mask = attention_mask(start, window.positions, window.n_past, tokens.shape[1], self.model.causal_lm.dtype)
        return self._pass(tokens, window, mask, window.positions - start, edit, logits)

    def keep(self, rows: Int[Tensor, " row"], until: int) -> None:
        """Forget all rows but these, and positions from `until` on."""
        self.start = self.start[rows]
        self.cache.keep(rows, until)

    def _pass(self, tokens: Tensor, cache: PassCache, mask: Tensor, first: Tensor, edit: Edit | None, logits: bool) -> Pass:
        ids = (first[:, None] + torch.arange(tokens.shape[1], device=tokens.device)).clamp(min=0)
        return read(self.model, tokens, edit, logits, self.hook_points, cache, attention_mask=mask, position_ids=ids)


def attention_mask(
    start: Int[Tensor, " row"], positions: Int[Tensor, "*row"], n_past: int, n_new: int, dtype: torch.dtype
) -> Float[Tensor, "row 1 pos key"]:
    """0 where tokens may look, at their row's tokens up to themselves; elsewhere the least number.

    Args:
        start: Position of each row's first token.
        positions: Position of the first new token, of all rows or of each.
        n_past: Number of keys before the new tokens; the last one is that of the position before the first new token.
        n_new: Number of new tokens.
        dtype: The model's.
    """
    key, own = torch.arange(-n_past, n_new, device=start.device), torch.arange(n_new, device=start.device)[:, None]
    hidden = (key < (start - positions)[:, None])[:, None] | (key > own)
    hidden &= key != own  # padding sees itself, so that its softmax is a number
    return torch.zeros(hidden.shape, dtype=dtype, device=start.device).masked_fill_(hidden, torch.finfo(dtype).min)[:, None]
