"""Feature activations in as little memory as they need: of hundreds of thousands of features, few fire on a token."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crosscoder_utils.crosscoder import Crosscoder

MOST_NUMBERS = 2**24
"""Activations that are computed at once: 64 MB in single precision, and as much again for pre-activations."""


@dataclass(frozen=True, eq=False)
class SparseActivations:
    """Activations of all features on some tokens; only those other than 0 are held.

    Attributes:
        token: Number of the token of each entry, ascending.
        feature: Number of the feature of each entry.
        value: Its activation.
        n_tokens: Number of tokens.
        n_features: Number of features of the crosscoder.
    """

    token: Int[Tensor, " entry"]
    feature: Int[Tensor, " entry"]
    value: Float[Tensor, " entry"]
    n_tokens: int
    n_features: int

    @staticmethod
    def of(table: Float[Tensor, "token feature"]) -> "SparseActivations":
        """Those of a table with all of them."""
        token, feature = table.nonzero(as_tuple=True)
        return SparseActivations(token, feature, table[token, feature], *table.shape)

    @staticmethod
    def joined(parts: Sequence["SparseActivations"]) -> "SparseActivations":
        """Those of one or more groups of tokens, one after the other."""
        starts = [0]
        for part in parts:
            starts.append(starts[-1] + part.n_tokens)
        tokens = torch.cat([part.token + start for part, start in zip(parts, starts, strict=False)])
        features, values = (torch.cat([getattr(part, name) for part in parts]) for name in ("feature", "value"))
        return SparseActivations(tokens, features, values, starts[-1], parts[0].n_features)

    def table(self) -> Float[Tensor, "token feature"]:
        """All of them, in 4 bytes x tokens x features."""
        return self.value.new_zeros(self.n_tokens, self.n_features).index_put((self.token, self.feature), self.value)

    def of_feature(self, feature: int) -> Float[Tensor, " token"]:
        """One feature's activation on every token."""
        own = self.feature == feature
        return self.value.new_zeros(self.n_tokens).index_put((self.token[own],), self.value[own])

    def of_tokens(self, tokens: Bool[Tensor, " token"] | slice) -> "SparseActivations":
        """Those of some of the tokens."""
        if isinstance(tokens, slice):
            chosen = torch.zeros(self.n_tokens, dtype=torch.bool, device=self.token.device)
            chosen[tokens] = True
            tokens = chosen
        own, number = tokens[self.token], tokens.cumsum(0) - 1
        n_tokens = int(tokens.sum())
        return SparseActivations(number[self.token[own]], self.feature[own], self.value[own], n_tokens, self.n_features)

    def sums(self) -> Float[Tensor, " feature"]:
        """Sum of each feature's activations, in double precision."""
        totals = self.value.new_zeros(self.n_features, dtype=torch.float64)
        return totals.index_add(0, self.feature, self.value.double())

    def counts(self) -> Int[Tensor, " feature"]:
        """Number of tokens on which each feature fires."""
        return torch.bincount(self.feature[self.value > 0], minlength=self.n_features)

    def largest(self) -> Float[Tensor, " feature"]:
        """Each feature's largest activation, and 0 where it does not fire."""
        return self.value.new_zeros(self.n_features).scatter_reduce(0, self.feature, self.value, "amax")

    def to(self, device: str | torch.device) -> "SparseActivations":
        """The same on another device."""
        moved = (tensor.to(device) for tensor in (self.token, self.feature, self.value))
        return SparseActivations(*moved, self.n_tokens, self.n_features)


def token_parts(
    crosscoder: Crosscoder, residuals: Float[Tensor, "token point d_model"]
) -> Sequence[Float[Tensor, "_ point d_model"]]:
    """The tokens in groups whose activations may be held at once."""
    return residuals.split(max(MOST_NUMBERS // crosscoder.n_features, 1))


def encode_sparse(crosscoder: Crosscoder, residuals: Float[Tensor, "token point d_model"]) -> SparseActivations:
    """Activations of all features on each token."""
    parts = token_parts(crosscoder, residuals)
    return SparseActivations.joined([SparseActivations.of(crosscoder.encode(part)) for part in parts])
