"""Keys and values of a batch in memory that is taken once, and views of it for a pass of the model."""

import math

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import Cache


class RunCache:
    """Keys and values of `n_rows` rows at `n_positions` positions, in every layer.

    Layers come into being when they are first written, with the head count and width that the model has.
    """

    def __init__(self, n_rows: int, n_positions: int) -> None:
        self.shape = n_rows, n_positions
        self.layers: list[tuple[Tensor, Tensor]] = []  # keys and values, each [row, head, position, d_head]

    def layer(self, index: int, like: Float[Tensor, "row head pos d_head"]) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer, made on first use."""
        if index == len(self.layers):
            shape = self.shape[0], like.shape[1], self.shape[1], like.shape[3]
            self.layers.append((_zeros(shape, like), _zeros(shape, like)))
        return self.layers[index]

    def copy_rows(self, other: "RunCache", source: Int[Tensor, " row"], until: int, first: int = 0) -> None:
        """Write rows `source` of another cache (or of this one), up to position `until`, over the rows from `first` on."""
        for index, pair in enumerate(other.layers):
            for mine, theirs in zip(self.layer(index, pair[0]), pair, strict=True):
                for begin in range(0, len(source), 16):  # what is copied some rows at a time needs no new memory on its way
                    part = source[begin : begin + 16]
                    mine[first + begin : first + begin + len(part), :, :until] = theirs[part, :, :until]

    def keep(self, rows: Int[Tensor, " row"], until: int) -> None:
        """Forget all rows but these, and positions from `until` on; a row that keeps its number costs nothing."""
        moved = torch.nonzero(rows != torch.arange(len(rows), device=rows.device))[:, 0]
        self.shape = len(rows), self.shape[1]
        for index, pair in enumerate(self.layers):
            for values in pair:
                values[moved, :, :until] = values[rows[moved], :, :until]
            self.layers[index] = tuple(values[: len(rows)] for values in pair)


class PassCache(Cache):
    """What one pass sees of the past. transformers asks a cache for its length, and hands it keys and values to keep."""

    def __init__(self, n_past: int) -> None:
        super().__init__(layers=[])
        self.n_past = n_past

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.n_past


class InPlace(PassCache):
    """Rows that all read at the same positions: new keys and values are written into the batch's memory, nothing is copied."""

    def __init__(self, cache: RunCache, rows: slice | Tensor, begin: int, n_new: int) -> None:
        super().__init__(begin)
        self.cache, self.rows, self.begin, self.end = cache, rows, begin, begin + n_new

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args, **kwargs) -> tuple[Tensor, Tensor]:
        seen = []
        for values, new in zip(self.cache.layer(layer_idx, key_states), (key_states, value_states), strict=True):
            values[self.rows, :, self.begin : self.end] = new
            seen.append(values[self.rows, :, : self.end])
        return tuple(seen)


class Window(PassCache):
    """Some rows, each before a position of its own: a copy of their past, moved so that all end at the same place.

    It can be read on from again and again, also with gradients; `keep` says whether the batch's memory takes what was read.
    """

    def __init__(self, cache: RunCache, rows: Int[Tensor, " row"], positions: Int[Tensor, " row"], keep: bool = False) -> None:
        n_past = int(positions.max())
        super().__init__(n_past)
        self.cache, self.rows, self.positions, self.keep = cache, rows, positions, keep
        at = (positions[:, None] - n_past + torch.arange(n_past, device=rows.device)).clamp(min=0)
        self.past = [tuple(v.transpose(1, 2)[rows[:, None], at].transpose(1, 2) for v in pair) for pair in cache.layers]

    def select(self, rows: Tensor) -> "Window":
        """That of some of the rows."""
        chosen = object.__new__(Window)
        chosen.__dict__ |= self.__dict__ | {"rows": self.rows[rows], "positions": self.positions[rows]}
        chosen.past = [tuple(values[rows] for values in pair) for pair in self.past]
        return chosen

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args, **kwargs) -> tuple[Tensor, Tensor]:
        if self.keep:
            at = self.positions[:, None] + torch.arange(key_states.shape[2], device=self.rows.device)
            for values, new in zip(self.cache.layers[layer_idx], (key_states, value_states), strict=True):
                values.transpose(1, 2)[self.rows[:, None], at] = new.transpose(1, 2)
        keys, values = self.past[layer_idx]
        return torch.cat([keys, key_states], dim=2), torch.cat([values, value_states], dim=2)


def closed_gaps(stays: Bool[Tensor, " row"]) -> Int[Tensor, " kept"]:
    """Numbers of the rows that stay, the last of them moved to where others leave: most keep their number."""
    staying = torch.nonzero(stays)[:, 0]
    kept = torch.arange(len(staying), device=stays.device)
    gaps = torch.nonzero(~stays[: len(staying)])[:, 0]
    kept[gaps] = staying[len(staying) - len(gaps) :]
    return kept


def attention_mask(
    start: Int[Tensor, " row"], positions: Int[Tensor, " row"], n_past: int, n_new: int, dtype: torch.dtype
) -> Float[Tensor, "row 1 pos key"]:
    """0 where a token may look, the least number of `dtype` elsewhere: at its row's tokens, up to itself.

    Args:
        start: Position of each row's first token.
        positions: Position of each row's first new token.
        n_past: Number of keys before the new tokens; the last of them stands just before the first new token.
        n_new: Number of new tokens.
        dtype: The model's.
    """
    key = torch.arange(-n_past, n_new, device=start.device)  # relative to the first new token
    hidden = (key < (start - positions)[:, None])[:, None] | (key > torch.arange(n_new, device=start.device)[:, None])
    # A token of the padding sees itself, so that its softmax is a number.
    hidden &= key != torch.arange(n_new, device=start.device)[:, None]
    return torch.zeros(hidden.shape, dtype=dtype, device=start.device).masked_fill_(hidden, torch.finfo(dtype).min)[:, None]


def _zeros(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Zeros that take no memory, on a CPU, until they are written: many rows end long before their last position."""
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    return torch.from_numpy(np.zeros(math.prod(shape) * like.element_size(), dtype=np.uint8)).view(like.dtype).view(shape)
