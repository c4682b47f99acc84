"""A run of the model over a batch: it reads position after position and keeps the keys and values."""

import torch
from jaxtyping import Int
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
        return self._pass(tokens, InPlace(self.cache, rows, begin), begin - self.start[rows], edit, logits)

    def window(self, rows: Int[Tensor, " row"], positions: Int[Tensor, " row"], keeps: bool = False) -> Window:
        """The past of some rows, each before a position of its own, for `read_window`."""
        return Window(self.cache, rows, positions, keeps)

    def read_window(
        self, window: Window, tokens: Int[Tensor, "row pos"], edit: Edit | None = None, logits: bool = False
    ) -> Pass:
        """Read tokens after the past in `window`; differentiable in what `edit` adds."""
        return self._pass(tokens, window, window.positions - self.start[window.rows], edit, logits)

    def keep(self, rows: Int[Tensor, " row"], until: int) -> None:
        """Forget all rows but these, and positions from `until` on."""
        self.start = self.start[rows]
        self.cache.keep(rows, until)

    def _pass(self, tokens: Tensor, cache: PassCache, n_before: Int[Tensor, " row"], edit: Edit | None, logits: bool) -> Pass:
        """`n_before`: how many tokens of each row stand before these; negative where it begins among them."""
        # The mask only says what is padding. Which tokens see which, in layers of every type, the model itself works out.
        key = torch.arange(-cache.n_past, tokens.shape[1], device=tokens.device)
        own = (key >= -n_before[:, None]).long()
        ids = (n_before[:, None] + torch.arange(tokens.shape[1], device=tokens.device)).clamp(min=0)
        return read(self.model, tokens, edit, logits, self.hook_points, cache, attention_mask=own, position_ids=ids)
