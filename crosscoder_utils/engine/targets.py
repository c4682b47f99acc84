"""The features that the rows of a batch intervene on, as tensors: all rows are computed at once.

Rows with fewer features than the most are filled up with feature 0, which `real` masks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from crosscoder_utils.crosscoder import Crosscoder, FeatureEncoder
from crosscoder_utils.interventions import Intervention
from crosscoder_utils.methods.statistics import FeatureStatistics


@dataclass(frozen=True, eq=False)
class Targets:
    """What each row does to which features.

    Attributes:
        kinds: The different kinds of intervention in the batch.
        kind: Number of the row's kind.
        real: False where a target is filling.
        value: What a clamped feature is moved to.
        directions: What one multiple of a feature adds to the residual stream; zeros for search methods.
        encoder: Of the row's features.
        features: Their numbers; 0 where a target is filling.
        goal: The pre-activation that methods which aim at one move each feature to.
    """

    SHORT: ClassVar[float] = 0.01
    """Of pre-activations that are nearer than this to their goal, as much is missed as if they were this far from it."""

    kinds: Sequence[type[Intervention]]
    kind: Int[Tensor, " row"]
    real: Bool[Tensor, "row target"]
    value: Float[Tensor, " row"]
    directions: Float[Tensor, "row target point d_model"]
    encoder: FeatureEncoder
    features: Int[Tensor, "row target"]
    goal: Float[Tensor, "row target"]

    @staticmethod
    def of(
        interventions: Sequence[Intervention | None], crosscoder: Crosscoder, statistics: FeatureStatistics | None = None
    ) -> "Targets":
        """Those of some interventions, one per row; a row without one has no target."""
        device, own = crosscoder.W_enc.device, [() if i is None else i.features for i in interventions]
        most = max(map(len, own))
        features = torch.tensor([[*row, *[0] * (most - len(row))] for row in own], dtype=torch.long, device=device)
        counts = torch.tensor([len(row) for row in own], device=device)
        real = torch.arange(most, device=device) < counts[:, None]
        directions = crosscoder.W_dec.new_zeros(len(interventions), most, *crosscoder.W_dec.shape[1:])
        for row, one in enumerate(interventions):
            if one is not None and not one.method.searches:
                directions[row, : len(own[row])] = one.method.directions(crosscoder.W_dec[list(own[row])])
        goals = [() if one is None else one.goals(statistics) for one in interventions]
        kinds = list(dict.fromkeys(type(i) for i in interventions if i is not None))
        return Targets(
            kinds=kinds,
            kind=torch.tensor([0 if i is None else kinds.index(type(i)) for i in interventions], device=device),
            real=real,
            value=directions.new_tensor([getattr(i, "value", 0.0) for i in interventions]),
            directions=directions,
            encoder=crosscoder.encoder(features),
            features=features,
            goal=directions.new_tensor([[*row, *[0.0] * (most - len(row))] for row in goals]).reshape(len(goals), most),
        )

    def select(self, rows: Tensor | slice) -> "Targets":
        """Those of some rows."""
        if isinstance(rows, slice) and rows == slice(None):
            return self
        tensors = {name: getattr(self, name)[rows] for name in ("kind", "real", "value", "directions", "features", "goal")}
        return replace(self, encoder=self.encoder.select(rows), **tensors)

    def coefficients(self, pre_activations: Float[Tensor, "row pos target"]) -> Float[Tensor, "row pos target"]:
        """How many multiples of its directions each row adds, given the clean run's pre-activations."""
        activations, value = self.encoder.activate(pre_activations), self.value[:, None, None]
        if not self.real.shape[1]:
            return activations
        return self._by_kind([kind.coefficient(activations, value) for kind in self.kinds]) * self.real[:, None]

    def losses(self, pre_activations: Float[Tensor, "row pos target"]) -> Float[Tensor, "row pos"]:
        """What search methods minimise, added up over a row's features."""
        activations, value = self.encoder.activate(pre_activations), self.value[:, None, None]
        losses = self._by_kind([kind.loss(activations, pre_activations, value) for kind in self.kinds])
        return (losses * self.real[:, None]).sum(-1)

    def acting(self, pre_activations: Float[Tensor, "row pos target"]) -> Bool[Tensor, "row pos target"]:
        """Which features search methods move at a token, given the pre-activations without an edit there."""
        activations, value = self.encoder.activate(pre_activations), self.value[:, None, None]
        return self._by_kind([kind.acts(activations, pre_activations, value) for kind in self.kinds]) & self.real[:, None]

    def missed(self, before: Float[Tensor, "row target"], after: Float[Tensor, "row target"]) -> Bool[Tensor, " row"]:
        """Whether pre-activations that were to be moved ended elsewhere than at their goal, within 1/1000 of the way.

        With ablation, those of features that fire before or after; with clamping, all.
        """
        acting = (self.acting(before[:, None]) | self.acting(after[:, None]))[:, 0]
        way = torch.where(acting, (self.goal - before).abs(), 0.0).amax(1, keepdim=True).clamp(min=self.SHORT)
        return (acting & ~((self.goal - after).abs() <= 1e-3 * way)).any(1)

    def deltas(self, coefficients: Float[Tensor, "row pos target"]) -> Float[Tensor, "row pos point d_model"]:
        """What is added to the residual stream at every hook point."""
        return torch.bmm(coefficients, self.directions.flatten(2)).unflatten(-1, self.directions.shape[2:])

    def zeros(self, n_rows: int, n_positions: int, points: bool = False) -> Float[Tensor, "row position column"]:
        """A table with a column for each target, or for each hook point."""
        return self.directions.new_zeros(n_rows, n_positions, self.directions.shape[2 if points else 1])

    def zero_deltas(self, n_rows: int, n_positions: int) -> Float[Tensor, "row position point d_model"]:
        return self.directions.new_zeros(n_rows, n_positions, *self.directions.shape[2:])

    @cached_property
    def moves(self) -> Bool[Tensor, "row target"]:
        """Whether a target has a direction."""
        return self.directions.ne(0).flatten(2).any(-1)

    @cached_property
    def points(self) -> list[bool]:
        """At which hook points some row has a direction; asked for once per batch, since it waits for the device."""
        return self.directions.ne(0).any(-1).flatten(0, 1).any(0).tolist()

    def _by_kind(self, values: Sequence[Shaped[Tensor, "row pos target"]]) -> Shaped[Tensor, "row pos target"]:
        result = values[0]
        for index, other in enumerate(values[1:], start=1):
            result = torch.where((self.kind == index)[:, None, None], other, result)
        return result
