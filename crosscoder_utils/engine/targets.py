"""The features that the rows of a batch intervene on, as tensors: all rows are computed at once.

Rows with fewer features than the most are filled up with feature 0, which `real` masks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crosscoder_utils.crosscoder import Crosscoder, FeatureEncoder
from crosscoder_utils.interventions import DecoderMethod, Intervention


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
    """

    kinds: Sequence[type[Intervention]]
    kind: Int[Tensor, " row"]
    real: Bool[Tensor, "row target"]
    value: Float[Tensor, " row"]
    directions: Float[Tensor, "row target point d_model"]
    encoder: FeatureEncoder

    @staticmethod
    def of(interventions: Sequence[Intervention], crosscoder: Crosscoder) -> "Targets":
        """Those of some interventions, one per row."""
        most = max(len(i.features) for i in interventions)
        device = crosscoder.W_enc.device
        features = torch.tensor([[*i.features, *[0] * (most - len(i.features))] for i in interventions], device=device)
        counts = torch.tensor([len(i.features) for i in interventions], device=device)
        real = torch.arange(most, device=device) < counts[:, None]
        directions = torch.zeros(len(interventions), *(most, *crosscoder.W_dec.shape[1:]), dtype=crosscoder.W_dec.dtype)
        directions = directions.to(device)
        for row, one in enumerate(interventions):
            if isinstance(one.method, DecoderMethod):
                own = list(one.features)
                directions[row, : len(own)] = one.method.directions(crosscoder.W_dec[own])
        kinds = list(dict.fromkeys(type(i) for i in interventions))
        return Targets(
            kinds=kinds,
            kind=torch.tensor([kinds.index(type(i)) for i in interventions], device=device),
            real=real,
            value=directions.new_tensor([getattr(i, "value", 0.0) for i in interventions]),
            directions=directions,
            encoder=crosscoder.encoder(features),
        )

    def select(self, rows: Tensor | slice) -> "Targets":
        """Those of some rows."""
        tensors = {name: getattr(self, name)[rows] for name in ("kind", "real", "value", "directions")}
        return replace(self, encoder=self.encoder.select(rows), **tensors)

    def coefficients(self, pre_activations: Float[Tensor, "row pos target"]) -> Float[Tensor, "row pos target"]:
        """How many multiples of its directions each row adds, given the clean run's pre-activations."""
        activations, value = self.encoder.activate(pre_activations), self.value[:, None, None]
        return self._by_kind([kind.coefficient(activations, value) for kind in self.kinds]) * self.real[:, None]

    def losses(self, pre_activations: Float[Tensor, "row pos target"]) -> Float[Tensor, "row pos"]:
        """What search methods minimise, added up over a row's features."""
        activations, value = self.encoder.activate(pre_activations), self.value[:, None, None]
        losses = self._by_kind([kind.loss(activations, pre_activations, value) for kind in self.kinds])
        return (losses * self.real[:, None]).sum(-1)

    def deltas(self, coefficients: Float[Tensor, "row pos target"]) -> Float[Tensor, "row pos point d_model"]:
        """What is added to the residual stream at every hook point."""
        return torch.bmm(coefficients, self.directions.flatten(2)).unflatten(-1, self.directions.shape[2:])

    @cached_property
    def points(self) -> list[bool]:
        """At which hook points some row has a direction; asked for once per batch, since it waits for the device."""
        return self.directions.ne(0).any(-1).flatten(0, 1).any(0).tolist()

    def _by_kind(self, values: Sequence[Float[Tensor, "row pos target"]]) -> Float[Tensor, "row pos target"]:
        result = values[0]
        for index, other in enumerate(values[1:], start=1):
            result = torch.where((self.kind == index)[:, None, None], other, result)
        return result
