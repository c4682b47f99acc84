"""The features that the rows of a batch intervene on, as tensors: one entry per row, all rows computed at once.

Shapes: ``row`` counts rows of a batch, ``pos`` tokens, ``target`` a row's features, ``point`` hook points. Rows with fewer
features than the most are filled up with feature 0, which `real` masks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crosscoder_utils.crosscoder import Crosscoder
from crosscoder_utils.engine.kv_cache import Past
from crosscoder_utils.hooks import Stream
from crosscoder_utils.interventions import Intervention


@dataclass(frozen=True, eq=False)
class Targets:
    """What each row does to which features.

    Attributes:
        kinds: The different kinds of intervention in the batch.
        kind: Which of them is the row's.
        real: Where a target is one, and no filling.
        value: What a clamped feature is moved to.
        directions: What one multiple of a feature adds to the stream; zeros for methods without directions.
        encoder: Encoder weights, of all hook points in one axis.
        bias: Encoder bias.
        threshold: JumpReLU threshold.
        center: Whether activations lose their mean over d_model before encoding.
    """

    kinds: Sequence[type[Intervention]]
    kind: Int[Tensor, " row"]
    real: Bool[Tensor, "row target"]
    value: Float[Tensor, " row"]
    directions: Float[Tensor, "row target point d_model"]
    encoder: Float[Tensor, "row point*d_model target"]
    bias: Float[Tensor, "row target"]
    threshold: Float[Tensor, "row target"]
    center: bool

    @staticmethod
    def of(interventions: Sequence[Intervention], crosscoder: Crosscoder) -> "Targets":
        """Those of some interventions, one per row."""
        most = max(len(i.features) for i in interventions)
        device = crosscoder.W_enc.device
        features = torch.tensor([[*i.features, *[0] * (most - len(i.features))] for i in interventions], device=device)
        counts = torch.tensor([len(i.features) for i in interventions], device=device)
        kinds = list(dict.fromkeys(type(i) for i in interventions))
        W_dec = crosscoder.W_dec[features]
        directions = torch.zeros_like(W_dec)
        for row, one in enumerate(interventions):
            if hasattr(one.method, "directions"):
                directions[row] = one.method.directions(W_dec[row])
        real = torch.arange(most, device=device) < counts[:, None]
        return Targets(
            kinds=kinds,
            kind=torch.tensor([kinds.index(type(i)) for i in interventions], device=device),
            real=real,
            value=W_dec.new_tensor([getattr(i, "value", 0.0) for i in interventions]),
            directions=directions * real[..., None, None],
            encoder=crosscoder.W_enc.flatten(0, 1)[:, features].transpose(0, 1).contiguous(),
            bias=crosscoder.b_enc[features],
            threshold=crosscoder.threshold[features],
            center=crosscoder.center,
        )

    def select(self, rows: Tensor | slice) -> "Targets":
        """Those of some rows."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: t[rows] for name, t in tensors.items() if isinstance(t, Tensor)})

    def pre_activations(self, residuals: Float[Tensor, "row pos point d_model"]) -> Float[Tensor, "row pos target"]:
        residuals = residuals.to(self.encoder.dtype)
        if self.center:
            residuals = residuals - residuals.mean(-1, keepdim=True)
        return torch.baddbmm(self.bias[:, None], residuals.flatten(-2), self.encoder)

    def activate(self, pre_activations: Float[Tensor, "row pos target"]) -> Float[Tensor, "row pos target"]:
        return torch.where(pre_activations > self.threshold[:, None], pre_activations, 0.0)

    def coefficients(self, activations: Float[Tensor, "row pos target"]) -> Float[Tensor, "row pos target"]:
        """How many multiples of its directions each row adds."""
        value = self.value[:, None, None]
        return self._by_kind([kind.coefficient(activations, value) for kind in self.kinds]) * self.real[:, None]

    def losses(self, pre_activations: Float[Tensor, "row pos target"]) -> Float[Tensor, "row pos"]:
        """What gradient descent minimises, summed over a row's features."""
        activations, value = self.activate(pre_activations), self.value[:, None, None]
        losses = self._by_kind([kind.loss(activations, pre_activations, value) for kind in self.kinds])
        return (losses * self.real[:, None]).sum(-1)

    def edits(self, coefficients: Float[Tensor, "row pos target"]) -> Callable[[int], Tensor | None]:
        """What the directions add at a hook point; None at those where no row adds anything."""
        if not coefficients.any():
            return lambda point: None
        points = self.points
        return lambda point: torch.bmm(coefficients, self.directions[:, :, point]) if points[point] else None

    @cached_property
    def moves(self) -> Bool[Tensor, "row target"]:
        """Whether a target has a direction."""
        return self.directions.ne(0).flatten(2).any(-1)

    @cached_property
    def points(self) -> list[bool]:
        """At which hook points some row has a direction."""
        return self.directions.ne(0).any(-1).any(1).any(0).tolist()

    def _by_kind(self, values: Sequence[Float[Tensor, "row pos target"]]) -> Float[Tensor, "row pos target"]:
        result = values[0]
        for index, other in enumerate(values[1:], start=1):
            result = torch.where((self.kind == index)[:, None, None], other, result)
        return result


@dataclass(frozen=True, eq=False)
class Attempts:
    """One token of each row, at which a method may try deltas before the text goes on.

    Attributes:
        targets: The rows' features.
        past: Keys and values of the edited stream before the token.
        stream: The edited stream.
        tokens: The tokens.
    """

    targets: Targets
    past: Past
    stream: Stream
    tokens: Int[Tensor, "row 1"]

    def residuals(self, deltas: Float[Tensor, "row point d_model"]) -> Float[Tensor, "row 1 point d_model"]:
        """The stream under `deltas`; differentiable."""
        return self.stream.attempt(self.past, self.tokens, deltas)

    def losses(self, deltas: Float[Tensor, "row point d_model"]) -> Float[Tensor, " row"]:
        """The interventions' losses under `deltas`."""
        return self.targets.losses(self.targets.pre_activations(self.residuals(deltas)))[:, 0]

    def zero_deltas(self) -> Float[Tensor, "row point d_model"]:
        directions = self.targets.directions
        return directions.new_zeros(len(self.tokens), *directions.shape[2:])

    def select(self, rows: Tensor) -> "Attempts":
        """Those of some rows."""
        return replace(self, targets=self.targets.select(rows), past=self.past.select(rows), tokens=self.tokens[rows])
