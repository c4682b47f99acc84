"""The rows of a batch, and columns where each row is at its own."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from crosscoder_utils.interventions import Intervention

NEVER = 1 << 30
"""Later than any column."""


@dataclass(frozen=True)
class Row:
    """One prompt to complete.

    Attributes:
        prompt: Its text.
        ids: Its tokens, without BOS.
        intervention: What is done to it; None leaves it untouched.
        bounds: First token, counted without BOS, that may be edited, and first that may not.
    """

    prompt: str
    ids: Sequence[int]
    intervention: Intervention | None
    bounds: tuple[int, float]


@dataclass(frozen=True)
class Limits:
    """How far rows are written and recorded, and how much is computed at once.

    Attributes:
        new_tokens: Most tokens to write.
        record: Whether to fill the tables of what the features and the stream did.
        tokens_per_pass: About how many tokens of prompts are read at once.
    """

    new_tokens: int
    record: bool
    tokens_per_pass: int

    def parts(self, n_rows: int, width: int) -> Iterator[slice]:
        """Split `n_rows` rows that read `width` tokens each into passes."""
        step = max(1, self.tokens_per_pass // max(width, 1))
        for begin in range(0, n_rows, step):
            yield slice(begin, min(begin + step, n_rows))


def ragged_columns(begin: Int[Tensor, " row"], end: Int[Tensor, " row"]) -> Int[Tensor, "row pos"]:
    """From each row's `begin` up to its `end`; shorter rows name their last column again."""
    width = max(int((end - begin).max()), 1)
    columns = begin[:, None] + torch.arange(width, device=begin.device)
    return torch.minimum(columns, (end - 1)[:, None]).clamp(min=0)


def first_column(marked: Tensor, columns: Tensor | None = None) -> Int[Tensor, " row"]:
    """The least column marked in each row, or NEVER."""
    if columns is None:
        columns = torch.arange(marked.shape[1], device=marked.device)
    return torch.where(marked, columns, NEVER).amin(1)
