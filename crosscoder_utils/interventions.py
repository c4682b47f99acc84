"""What is done to which feature (`Ablate`, `Steer`, `Clamp`), how (`METHODS`), at which tokens.

A method turns a step, that is, some tokens of a batch of rows, into deltas on the residual stream. To add one: write a
class with a `name`, its parameters and `deltas`, and list it in `METHODS`.

Shapes: ``row`` counts prompts of a batch, ``pos`` tokens, ``point`` hook points, ``target`` a row's features.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from crosscoder_utils.crosscoder import Crosscoder
from crosscoder_utils.prompts import TokenScope, as_scope


class Method(Protocol):
    """How an intervention reaches the residual stream."""

    name: ClassVar[str]
    token_by_token: ClassVar[bool]
    """Whether a token's deltas depend on how the tokens before it were edited."""

    def check(self, crosscoder: Crosscoder) -> None:
        """Raise an `IndexError` or `ValueError` if the parameters do not fit the crosscoder."""

    @staticmethod
    def deltas(methods: Sequence["Method"], step: "Step") -> Float[Tensor, "row pos point d_model"]:
        """What to add to the stream of each row, whose own parameters are those of `methods[row]`."""


@dataclass(frozen=True)
class SingleLayer:
    """Add `scale` times the features' decoder terms at one hook point.

    Attributes:
        point: Hook point, 0 (after the embedding) to the number of blocks.
        scale: 1 is the term itself.
    """

    point: int
    scale: float = 1.0
    name: ClassVar[str] = "single layer"
    token_by_token: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_finite("scale", self.scale)

    def check(self, crosscoder: Crosscoder) -> None:
        crosscoder.check_point(self.point)

    @staticmethod
    def deltas(methods: Sequence["SingleLayer"], step: "Step") -> Float[Tensor, "row pos point d_model"]:
        scales = [[m.scale * (point == m.point) for point in range(step.n_points)] for m in methods]
        return step.along_decoder(scales)


@dataclass(frozen=True)
class ManyLayers:
    """Add `scale` times the features' decoder terms at every hook point.

    Attributes:
        scale: One number, or one per hook point. By default 1 / (number of hook points).
    """

    scale: float | Sequence[float] | None = None
    name: ClassVar[str] = "many layers"
    token_by_token: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for scale in self.scale if isinstance(self.scale, Sequence) else [self.scale]:
            _check_finite("scale", 0.0 if scale is None else scale)

    def check(self, crosscoder: Crosscoder) -> None:
        if isinstance(self.scale, Sequence) and len(self.scale) != crosscoder.n_points:
            raise ValueError(f"scale has {len(self.scale)} numbers, the model {crosscoder.n_points} hook points; give one each")

    @staticmethod
    def deltas(methods: Sequence["ManyLayers"], step: "Step") -> Float[Tensor, "row pos point d_model"]:
        return step.along_decoder([m.scales(step.n_points) for m in methods])

    def scales(self, n_points: int) -> list[float]:
        """The scale at each hook point."""
        if isinstance(self.scale, Sequence):
            return list(self.scale)
        return [1 / n_points if self.scale is None else self.scale] * n_points


@dataclass(frozen=True)
class Perturbation:
    """Find, by gradient descent at each token, a small perturbation under which the encoder gives what is wanted.

    To ablate, the loss is the squared activation, so that descent ends where the feature no longer fires; to clamp, it is
    the squared distance of the pre-activation from the value. Several features: the sum of their losses.

    Attributes:
        lr: Learning rate.
        steps: Most gradient steps per token.
    """

    lr: float
    steps: int = 15
    name: ClassVar[str] = "perturbation"
    token_by_token: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_finite("lr", self.lr)
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 0:
            raise ValueError(f"steps={self.steps!r} must be a whole number, 0 or more")

    def check(self, crosscoder: Crosscoder) -> None:
        pass  # nothing in the parameters refers to the crosscoder

    @staticmethod
    def deltas(methods: Sequence["Perturbation"], step: "Step") -> Float[Tensor, "row pos point d_model"]:
        lr = step.tensor([m.lr for m in methods])[:, None, None, None]
        steps = step.tensor([m.steps for m in methods])[:, None, None, None]
        perturbation = step.zero_deltas()
        for done in range(max(m.steps for m in methods)):
            with torch.enable_grad():
                perturbation.requires_grad_()
                loss = step.loss(-perturbation)
                if not loss.any():  # no feature fires, so no gradient is left either
                    break
                (gradient,) = torch.autograd.grad(loss.sum(), perturbation)
            perturbation = (perturbation - lr * gradient * (done < steps)).detach()
        return -perturbation.detach()


METHODS: dict[str, type[Method]] = {m.name: m for m in (SingleLayer, ManyLayers, Perturbation)}


class Intervention:
    """One or several features, a method, and the tokens at which it is applied; see `Ablate`, `Steer` and `Clamp`.

    What the kinds differ in is `coefficient`, how many decoder vectors are added at an activation, and `loss`, what a
    method that descends a gradient minimises.
    """

    feature: int | Sequence[int]
    method: Method
    tokens: str | TokenScope
    kind: ClassVar[str]

    def __post_init__(self) -> None:
        as_scope(self.tokens)
        if not self.features:
            raise ValueError("feature=[] names no feature; give at least one")

    @property
    def features(self) -> tuple[int, ...]:
        return tuple(self.feature) if isinstance(self.feature, Sequence) else (self.feature,)

    @property
    def scope(self) -> TokenScope:
        return as_scope(self.tokens)

    def check(self, crosscoder: Crosscoder) -> None:
        """Raise an `IndexError` or `ValueError` if features or hook point are not those of the crosscoder."""
        for feature in self.features:
            crosscoder.check_feature(feature)
        self.method.check(crosscoder)

    def coefficient(self, activation: Tensor) -> Tensor:
        """Multiples of the decoder vector to add where the clean model's activation is `activation`."""
        raise TypeError(f"{type(self).__name__} adds no decoder vector; use Ablate, Steer or Clamp")

    def loss(self, activation: Tensor, pre_activation: Tensor) -> Tensor:
        """What gradient descent minimises, elementwise."""
        raise TypeError(f"{type(self).__name__} has no loss to descend; use Ablate or Clamp")


@dataclass(frozen=True)
class Ablate(Intervention):
    """Take the feature away: subtract its decoder term, or descend the square of its activation."""

    feature: int | Sequence[int]
    method: Method
    tokens: str | TokenScope = "all"
    kind: ClassVar[str] = "ablate"

    def coefficient(self, activation: Tensor) -> Tensor:
        return -activation

    def loss(self, activation: Tensor, pre_activation: Tensor) -> Tensor:
        return activation**2


@dataclass(frozen=True)
class Steer(Intervention):
    """Add the feature's decoder vector, whether it fires or not; the method's scale says how much."""

    feature: int | Sequence[int]
    method: Method
    tokens: str | TokenScope = "all"
    kind: ClassVar[str] = "steer"

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.method, Perturbation):
            raise ValueError(
                f"Steer with {self.method} has no value to reach; use Clamp(feature, value=..., method=Perturbation(...))"
            )

    def coefficient(self, activation: Tensor) -> Tensor:
        return torch.ones_like(activation)


@dataclass(frozen=True)
class Clamp(Intervention):
    """Move the feature to `value` at every token of the scope, whether it fires there or not.

    With a gradient, the *pre-activation* is moved, since a closed JumpReLU passes none. Along the decoder, the difference
    between `value` and the clean activation is added.
    """

    feature: int | Sequence[int]
    value: float
    method: Method
    tokens: str | TokenScope = "all"
    kind: ClassVar[str] = "clamp"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_finite("value", self.value)

    def coefficient(self, activation: Tensor) -> Tensor:
        return self.value - activation

    def loss(self, activation: Tensor, pre_activation: Tensor) -> Tensor:
        return (pre_activation - self.value) ** 2


class Targets:
    """The features that the rows of a batch intervene on; rows with fewer than the most are filled up and masked."""

    def __init__(self, interventions: Sequence[Intervention], crosscoder: Crosscoder) -> None:
        self.interventions = interventions
        self.crosscoder = crosscoder
        most = max(len(i.features) for i in interventions)
        filled = [[*i.features, *[0] * (most - len(i.features))] for i in interventions]
        device = crosscoder.W_enc.device
        self.features = torch.tensor(filled, device=device)  # [row, target]
        counts = torch.tensor([len(i.features) for i in interventions], device=device)
        self.real = torch.arange(most, device=device) < counts[:, None]  # [row, target]
        self.directions = crosscoder.W_dec[self.features]  # [row, target, point, d_model]

    def pre_activations(self, residuals: Float[Tensor, "row pos point d_model"]) -> Float[Tensor, "row pos target"]:
        return self.crosscoder.row_pre_activations(residuals, self.features)

    def activate(self, pre_activations: Float[Tensor, "row pos target"]) -> Float[Tensor, "row pos target"]:
        return pre_activations * (pre_activations > self.crosscoder.threshold[self.features][:, None])

    def coefficients(self, activations: Float[Tensor, "row pos target"]) -> Float[Tensor, "row pos target"]:
        rows = [i.coefficient(a) for i, a in zip(self.interventions, activations, strict=True)]
        return torch.stack(rows) * self.real[:, None]

    def losses(self, pre_activations: Float[Tensor, "row pos target"]) -> Float[Tensor, "row pos"]:
        activations = self.activate(pre_activations)
        rows = [i.loss(a, p) for i, a, p in zip(self.interventions, activations, pre_activations, strict=True)]
        return (torch.stack(rows) * self.real[:, None]).sum(-1)


@dataclass(frozen=True)
class Step:
    """The tokens that a method is to edit next.

    Attributes:
        targets: The rows' features.
        activations: Their activations in the clean model.
        editable: Where the row's token scope lets the stream be edited.
        peek: Maps deltas to the stream under them, without reading on.
    """

    targets: Targets
    activations: Float[Tensor, "row pos target"]
    editable: Bool[Tensor, "row pos"]
    peek: Callable[[Tensor], Float[Tensor, "row pos point d_model"]]

    @property
    def n_points(self) -> int:
        return self.targets.crosscoder.n_points

    def along_decoder(self, scales: Sequence[Sequence[float]]) -> Float[Tensor, "row pos point d_model"]:
        """The decoder terms that the interventions add, times a scale per row and hook point."""
        terms = torch.einsum("rtk,rkpd->rtpd", self.targets.coefficients(self.activations), self.targets.directions)
        return self.masked(terms * self.tensor(scales)[:, None, :, None])

    def loss(self, deltas: Float[Tensor, "row pos point d_model"]) -> Float[Tensor, "row pos"]:
        """The interventions' losses under `deltas`; 0, and without gradient, at tokens that are not to be edited."""
        pre_activations = self.targets.pre_activations(self.peek(self.masked(deltas)))
        return self.targets.losses(pre_activations) * self.editable

    def masked(self, deltas: Float[Tensor, "row pos point d_model"]) -> Float[Tensor, "row pos point d_model"]:
        return deltas * self.editable[:, :, None, None]

    def zero_deltas(self) -> Float[Tensor, "row pos point d_model"]:
        crosscoder = self.targets.crosscoder
        return self.tensor(0.0).expand(*self.editable.shape, crosscoder.n_points, crosscoder.d_model).clone()

    def tensor(self, values: float | Sequence) -> Tensor:
        return torch.tensor(values, dtype=self.targets.directions.dtype, device=self.targets.directions.device)


def _check_finite(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{name}={value!r} is no finite number; give one, such as 1.0")
