"""Keys and values of a batch, in memory that is taken once, and what a pass of the model sees of them."""

import copy
import math
from collections.abc import Sequence

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

    def layer(self, index: int, like: Sequence[Float[Tensor, "row head pos d_head"]]) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer, made on first use; `like` is such a pair, of any rows and positions."""
        if index == len(self.layers):
            rows, positions = self.shape
            self.layers.append(tuple(_zeros((rows, t.shape[1], positions, t.shape[3]), t) for t in like))
        return self.layers[index]

    def copy_rows(self, other: "RunCache", source: Int[Tensor, " row"], until: int, first: int = 0) -> None:
        """Write rows `source` of another cache (or of this one), up to position `until`, over the rows from `first` on."""
        for index, pair in enumerate(other.layers):
            for mine, theirs in zip(self.layer(index, pair), pair, strict=True):
                for begin in range(0, len(source), 16):  # copied in small parts, which need no new memory on their way
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
    """What one pass sees of the past. transformers asks a cache for its length, and hands it keys and values to keep.

    Every layer keeps all of the past; where a layer sees only a window of it, the model masks the rest.
    """

    def __init__(self, n_past: int) -> None:
        super().__init__(layers=[])
        self.n_past = n_past

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.n_past

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return self.n_past

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        return self.n_past + query_length, 0


class InPlace(PassCache):
    """For rows that all read at the same positions: keys and values go into the memory, and of a slice nothing is copied."""

    def __init__(self, cache: RunCache, rows: slice | Int[Tensor, " row"], begin: int) -> None:
        super().__init__(begin)
        self.cache, self.rows = cache, rows

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args, **kwargs) -> tuple[Tensor, Tensor]:
        end, seen, both = self.n_past + key_states.shape[2], [], (key_states, value_states)
        for values, new in zip(self.cache.layer(layer_idx, both), both, strict=True):
            values[self.rows, :, self.n_past : end] = new
            seen.append(values[self.rows, :, :end])
        return tuple(seen)


class Window(PassCache):
    """For rows each before a position of its own: a copy of their past, moved so that all end at the same place.

    It can be read on from again and again, also with gradients; with `keeps`, the memory takes what is read.
    """

    def __init__(self, cache: RunCache, rows: Int[Tensor, " row"], positions: Int[Tensor, " row"], keeps: bool) -> None:
        super().__init__(int(positions.max()))
        self.cache, self.rows, self.positions, self.keeps = cache, rows, positions, keeps
        at = (positions[:, None] - self.n_past + torch.arange(self.n_past, device=rows.device)).clamp(min=0)
        self.past = [tuple(v.transpose(1, 2)[rows[:, None], at].transpose(1, 2) for v in pair) for pair in cache.layers]

    def select(self, rows: Tensor) -> "Window":
        """That of some of the rows."""
        chosen = copy.copy(self)
        chosen.rows, chosen.positions = self.rows[rows], self.positions[rows]
        chosen.past = [tuple(values[rows] for values in pair) for pair in self.past]
        return chosen

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args, **kwargs) -> tuple[Tensor, Tensor]:
        if self.keeps:
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


def _zeros(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Zeros that take no memory, on a CPU, until they are written: many rows end long before their last position."""
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    return torch.from_numpy(np.zeros(math.prod(shape) * like.element_size(), dtype=np.uint8)).view(like.dtype).view(shape)
