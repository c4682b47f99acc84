"""What is done to which feature (`Ablate`, `Steer`, `Clamp`), how (`METHODS`), at which tokens.

Two families of methods. Those with `directions` add multiples of fixed vectors, as many as the clean model's activation
says. Those with `deltas` look for what to add token by token, trying it on the edited stream. To add a method: write a
class with a `name`, its parameters and one of these functions, and list it in `METHODS`.

Shapes: ``row`` counts prompts of a batch, ``pos`` tokens, ``point`` hook points, ``target`` a row's features.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, ClassVar, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from crosscoder_utils.crosscoder import Crosscoder
from crosscoder_utils.prompts import TokenScope, as_scope
from crosscoder_utils.values import check_finite, make_plain, plain_value

if TYPE_CHECKING:
    from crosscoder_utils.engine.targets import Attempts


class Method(Protocol):
    """How an intervention reaches the residual stream: has either `directions`, or `idle` and `deltas`."""

    name: ClassVar[str]

    def check(self, crosscoder: Crosscoder) -> None:
        """Raise an `IndexError` or `ValueError` if the parameters do not fit the crosscoder."""

    def directions(self, W_dec: Float[Tensor, "target point d_model"]) -> Float[Tensor, "target point d_model"]:
        """What one multiple of each feature adds to the stream, given the features' decoder vectors."""

    @property
    def idle(self) -> bool:
        """Whether the parameters are such that `deltas` are zero."""

    @staticmethod
    def deltas(methods: Sequence["Method"], attempts: "Attempts") -> Float[Tensor, "row point d_model"]:
        """What to add to the stream at one token of each row, whose own parameters are those of `methods[row]`."""


@dataclass(frozen=True)
class SingleLayer:
    """Add `scale` times the features' decoder terms at one hook point.

    Attributes:
        point: Hook point, 0 (after the embedding) to the number of blocks.
        scale: 1 is the term itself.
        random: Seed of a control: directions drawn at random, of the same norms, in place of each feature's; None is none.
    """

    point: int
    scale: float = 1.0
    random: int | None = None
    name: ClassVar[str] = "single layer"

    def __post_init__(self) -> None:
        make_plain(self)
        check_finite("scale", self.scale)

    def check(self, crosscoder: Crosscoder) -> None:
        crosscoder.check_point(self.point)

    def directions(self, W_dec: Float[Tensor, "target point d_model"]) -> Float[Tensor, "target point d_model"]:
        directions = torch.zeros_like(W_dec)
        directions[:, self.point] = self.scale * W_dec[:, self.point]
        return directions if self.random is None else _like(directions, self.random)


@dataclass(frozen=True)
class ManyLayers:
    """Add `scale` times the features' decoder terms at every hook point.

    Attributes:
        scale: One number, or one per hook point, kept as a tuple. By default 1 / (number of hook points).
        random: Seed of a control: directions drawn at random, of the same norms, in place of each feature's; None is none.
    """

    scale: float | Sequence[float] | None = None
    random: int | None = None
    name: ClassVar[str] = "many layers"

    def __post_init__(self) -> None:
        make_plain(self)
        for scale in self.scale if isinstance(self.scale, tuple) else [self.scale]:
            check_finite("scale", 0.0 if scale is None else scale)

    def check(self, crosscoder: Crosscoder) -> None:
        if isinstance(self.scale, tuple) and len(self.scale) != crosscoder.n_points:
            raise ValueError(f"scale has {len(self.scale)} numbers, the model {crosscoder.n_points} hook points; give one each")

    def directions(self, W_dec: Float[Tensor, "target point d_model"]) -> Float[Tensor, "target point d_model"]:
        scale = 1 / W_dec.shape[1] if self.scale is None else self.scale
        directions = W_dec.new_tensor(scale).reshape(-1, 1) * W_dec
        return directions if self.random is None else _like(directions, self.random)


@dataclass(frozen=True)
class Perturbation:
    """Find, by gradient descent at each token, a small perturbation under which the encoder gives what is wanted.

    To ablate, the loss is the squared activation, so that descent ends where the feature no longer fires; to clamp, it is
    the squared distance of the pre-activation from the value. Several features: the sum of their losses.

    Attributes:
        lr: Learning rate.
        steps: Most gradient steps per token.
        random: Seed of a control: what was found, for all features at once, is replaced by directions drawn at random, of
            the same norms; None is none.
    """

    lr: float
    steps: int = 15
    random: int | None = None
    name: ClassVar[str] = "perturbation"

    def __post_init__(self) -> None:
        make_plain(self)
        check_finite("lr", self.lr)
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 0:
            raise ValueError(f"steps={self.steps!r} must be a whole number, 0 or more")

    def check(self, crosscoder: Crosscoder) -> None:
        pass  # nothing in the parameters refers to the crosscoder

    @property
    def idle(self) -> bool:
        return self.lr == 0 or self.steps == 0

    @staticmethod
    def deltas(methods: Sequence["Perturbation"], attempts: "Attempts") -> Float[Tensor, "row point d_model"]:
        deltas = attempts.zero_deltas()  # minus the perturbation; descending on one is descending on the other
        lr = deltas.new_tensor([m.lr for m in methods])[:, None, None]
        steps = torch.tensor([m.steps for m in methods], device=lr.device)
        rows = torch.arange(len(methods), device=lr.device)  # those still descending
        for done in range(max(m.steps for m in methods)):
            going = steps[rows] > done
            if done:
                going &= loss != 0  # where no feature fires, no gradient is left either
            if not going.all():
                rows, attempts = rows[going], attempts.select(going)
            if not len(rows):
                break
            with torch.enable_grad():
                tried = deltas[rows].requires_grad_()
                loss = attempts.losses(tried)
                (gradient,) = torch.autograd.grad(loss.sum(), tried)
            deltas[rows] = tried.detach() - lr[rows] * gradient
        for row, method in enumerate(methods):
            if method.random is not None:
                deltas[row] = _like(deltas[row], method.random)
        return deltas


METHODS: dict[str, type[Method]] = {m.name: m for m in (SingleLayer, ManyLayers, Perturbation)}


def method_from(settings: dict) -> Method:
    """The method that `Intervention.settings` tells of.

    Raises:
        ValueError: If there is no method of that name.
    """
    if settings.get("method") not in METHODS:
        raise ValueError(f"method {settings.get('method')!r} is unknown; known are {', '.join(METHODS)}")
    method = METHODS[settings["method"]]
    return method(**{field.name: settings[field.name] for field in fields(method) if field.name in settings})


class Intervention:
    """One or several features, a method, and the tokens at which it is applied; see `Ablate`, `Steer` and `Clamp`.

    What the kinds differ in is `coefficient`, how many multiples are added at an activation, and `loss`, what a method that
    descends a gradient minimises; both elementwise, for tensors that hold many rows; `value` is what the
    kind has of that name, or 0. Several features are kept as a tuple, and numbers of numpy as plain ones.
    """

    feature: int | Sequence[int]
    method: Method
    tokens: str | TokenScope
    kind: ClassVar[str]
    reads_activation: ClassVar[bool]
    """Whether `coefficient` depends on the clean model's activation."""

    def __post_init__(self) -> None:
        make_plain(self)
        as_scope(self.tokens)
        if not self.features:
            raise ValueError("feature=[] names no feature; give at least one")
        for one in self.features:
            if isinstance(one, bool) or not isinstance(one, int):
                raise ValueError(f"feature={one!r} is no number; give one, such as find_features(...)['tag']")

    @property
    def features(self) -> tuple[int, ...]:
        return self.feature if isinstance(self.feature, tuple) else (self.feature,)

    @property
    def scope(self) -> TokenScope:
        return as_scope(self.tokens)

    @property
    def settings(self) -> dict:
        """What it is made of, flat: `intervention`, `feature`, `value` (of a `Clamp`), `tokens`, `method`, its parameters."""
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "method"}
        parameters = {field.name: plain_value(getattr(self.method, field.name)) for field in fields(self.method)}
        return {"intervention": self.kind} | own | {"tokens": str(self.scope), "method": self.method.name} | parameters

    def check(self, crosscoder: Crosscoder) -> None:
        """Raise an `IndexError` or `ValueError` if features or hook point are not those of the crosscoder."""
        for feature in self.features:
            crosscoder.check_feature(feature)
        self.method.check(crosscoder)

    @staticmethod
    def coefficient(activation: Tensor, value: Tensor) -> Tensor:
        """Multiples of the method's directions to add where the clean model's activation is `activation`."""
        raise NotImplementedError

    @staticmethod
    def loss(activation: Tensor, pre_activation: Tensor, value: Tensor) -> Tensor:
        """What gradient descent minimises."""
        raise NotImplementedError


@dataclass(frozen=True)
class Ablate(Intervention):
    """Take the feature away: subtract its decoder term, or descend the square of its activation."""

    feature: int | Sequence[int]
    method: Method
    tokens: str | TokenScope = "all"
    kind: ClassVar[str] = "ablate"
    reads_activation: ClassVar[bool] = True

    @staticmethod
    def coefficient(activation: Tensor, value: Tensor) -> Tensor:
        return -activation

    @staticmethod
    def loss(activation: Tensor, pre_activation: Tensor, value: Tensor) -> Tensor:
        return activation**2


@dataclass(frozen=True)
class Steer(Intervention):
    """Add the feature's decoder vector, whether it fires or not; the method's scale says how much."""

    feature: int | Sequence[int]
    method: Method
    tokens: str | TokenScope = "all"
    kind: ClassVar[str] = "steer"
    reads_activation: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not hasattr(self.method, "directions"):
            raise ValueError(
                f"Steer with {self.method} has no value to reach; use Clamp(feature, value=..., method=Perturbation(...))"
            )

    @staticmethod
    def coefficient(activation: Tensor, value: Tensor) -> Tensor:
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
    reads_activation: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_finite("value", self.value)

    @staticmethod
    def coefficient(activation: Tensor, value: Tensor) -> Tensor:
        return value - activation

    @staticmethod
    def loss(activation: Tensor, pre_activation: Tensor, value: Tensor) -> Tensor:
        return (pre_activation - value) ** 2


def _like(directions: Float[Tensor, "*any point d_model"], seed: int) -> Float[Tensor, "*any point d_model"]:
    """A random direction for each of `directions`, the same for equal seeds, with its norm."""
    # One target after the other: a row's directions must not depend on how many features other rows have.
    generator, (*targets, points, d_model) = torch.Generator().manual_seed(seed), directions.shape
    drawn = [torch.randn(points, d_model, generator=generator) for _ in range(math.prod(targets))]
    drawn = torch.stack(drawn).reshape(directions.shape).to(directions)
    return directions.norm(dim=-1, keepdim=True) * drawn / drawn.norm(dim=-1, keepdim=True)
