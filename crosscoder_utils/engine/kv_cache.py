"""Keys and values of many rows, each at a column of its own, in memory that is taken once."""

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import Cache


class KVCache(Cache):
    """What one pass sees of a cache: the columns its tokens stand at, and the keys they may look at.

    Attributes:
        columns: Where the pass's tokens stand.
        width: How many keys the pass sees; `mask` says which of them each token may look at.
    """

    def __init__(self, columns: Int[Tensor, "row pos"]) -> None:
        super().__init__(layers=[])
        self.columns = columns
        self.width = int(columns.max()) + 1

    def mask(self, dtype: torch.dtype) -> Float[Tensor, "row 1 pos key"]:
        """0 where a token may look, the least number of `dtype` elsewhere."""
        hidden = torch.arange(self.width, device=self.columns.device) > self.columns[..., None]
        return _additive(hidden, dtype)[:, None]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.width


class RowCache:
    """Keys and values of `n_rows` rows with `n_columns` columns each, in every layer.

    Layers come into being when they are first written, with the head count and width that the model has.
    """

    def __init__(self, n_rows: int, n_columns: int) -> None:
        self.shape = n_rows, n_columns
        self.layers: list[tuple[Tensor, Tensor]] = []  # keys and values, each [row, head, column, d_head]

    def at(self, rows: slice | Int[Tensor, " row"], columns: Int[Tensor, "row pos"]) -> "RowPass":
        """The cache for one pass in which `rows` read the tokens at `columns`."""
        return RowPass(self, rows, columns)

    def layer(self, index: int, like: Float[Tensor, "row head pos d_head"]) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer, made on first use."""
        if index == len(self.layers):
            n_rows, n_columns = self.shape
            shape = n_rows, like.shape[1], n_columns, like.shape[3]
            self.layers.append((_zeros(shape, like), _zeros(shape, like)))
        return self.layers[index]

    def copy_from(self, other: "RowCache", rows: slice, source: Int[Tensor, " row"], n_columns: int) -> None:
        """Write the first columns of `other`'s rows `source` over those of `rows`."""
        for index, pair in enumerate(other.layers):
            for mine, theirs in zip(self.layer(index, pair[0]), pair, strict=True):
                mine[rows, :, :n_columns] = theirs[source, :, :n_columns]

    def move(self, source: Int[Tensor, " row"], target: Int[Tensor, " row"]) -> None:
        """Write rows `source` over rows `target`."""
        for pair in self.layers:
            for values in pair:
                values[target] = values[source]

    def past(self, rows: Int[Tensor, " row"], columns: Int[Tensor, " row"]) -> "Past":
        """A copy of what `rows` have before `columns`, for trying the token there."""
        width = int(columns.max())
        return Past([(k[rows, :, :width], v[rows, :, :width]) for k, v in self.layers], columns)


class RowPass(KVCache):
    """Writes a pass's keys and values into a `RowCache`."""

    def __init__(self, cache: RowCache, rows: slice | Int[Tensor, " row"], columns: Int[Tensor, "row pos"]) -> None:
        super().__init__(columns)
        self.cache, self.rows = cache, rows

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args, **kwargs) -> tuple[Tensor, Tensor]:
        seen = []
        for mine, new in zip(self.cache.layer(layer_idx, key_states), (key_states, value_states), strict=True):
            if isinstance(self.rows, slice):
                mine = mine[self.rows]
                mine.transpose(1, 2)[_row_index(mine), self.columns] = new.transpose(1, 2)
                seen.append(mine[:, :, : self.width])
            else:
                mine.transpose(1, 2)[self.rows[:, None], self.columns] = new.transpose(1, 2)
                seen.append(mine[self.rows, :, : self.width])
        return tuple(seen)


class Past:
    """Keys and values before one token of each row; it can be tried again and again, also with gradients."""

    def __init__(self, layers: list[tuple[Tensor, Tensor]], columns: Int[Tensor, " row"]) -> None:
        self.layers, self.columns = layers, columns

    def select(self, rows: Tensor) -> "Past":
        """That of some of the rows."""
        return Past([(k[rows], v[rows]) for k, v in self.layers], self.columns[rows])

    def attempt(self) -> "Attempt":
        """The cache for one pass."""
        return Attempt(self)


class Attempt(KVCache):
    """Shows a pass the past and its own keys and values, which come last, and writes nothing."""

    def __init__(self, past: Past) -> None:
        super().__init__(past.columns[:, None])
        self.past = past
        self.width = past.layers[0][0].shape[2] + 1

    def mask(self, dtype: torch.dtype) -> Float[Tensor, "row 1 pos key"]:
        hidden = torch.arange(self.width, device=self.columns.device) >= self.columns
        hidden[:, -1] = False
        return _additive(hidden, dtype)[:, None, None]

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args, **kwargs) -> tuple[Tensor, Tensor]:
        keys, values = self.past.layers[layer_idx]
        return torch.cat([keys, key_states], dim=2), torch.cat([values, value_states], dim=2)


def _zeros(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Zeros that take no memory, on a CPU, until they are written: many rows end long before their last column."""
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    return torch.from_numpy(np.zeros(math.prod(shape) * like.element_size(), dtype=np.uint8)).view(like.dtype).view(shape)


def _row_index(values: Tensor) -> Int[Tensor, "row 1"]:
    return torch.arange(values.shape[0], device=values.device)[:, None]


def _additive(hidden: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, torch.finfo(dtype).min)
