"""What is done to which feature (`Ablate`, `Steer`, `Clamp`), how (`METHODS`), and at which tokens.

Two families of methods. A `DecoderMethod` adds multiples of fixed directions; how many, the clean run's activation says. A
`SearchMethod` looks for what to add token by token, trying it on the intervened run. To add a method, subclass one of the two
and add the class to `METHODS`: sweeps, tables, figures and widgets take their methods from there.

Shapes: ``row`` counts prompts of a batch, ``pos`` tokens, ``point`` hook points, ``target`` a row's features.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from numbers import Real
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import BeforeValidator, InstanceOf
from torch import Tensor

from crosscoder_utils.crosscoder import Crosscoder
from crosscoder_utils.io.error_messages import shown
from crosscoder_utils.io.validation import Count, Features, Number, Numbers, Rate, Seed, Whole, plain, settings
from crosscoder_utils.prompts import TokenScope, as_scope

if TYPE_CHECKING:
    from crosscoder_utils.engine import Attempts


class Method:
    """How an intervention changes the residual stream: a `DecoderMethod` or a `SearchMethod`."""

    name: ClassVar[str]
    """Key in `METHODS` and value in tables; by default the name of the class."""
    strength_name: ClassVar[str] = "scale"
    """The parameter that says how strong the intervention is."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.name = vars(cls).get("name", cls.__name__)

    def check(self, crosscoder: Crosscoder) -> None:
        """Raise an `IndexError` or `ValueError` if the parameters do not fit the crosscoder."""

    @property
    def parameters(self) -> dict[str, Any]:
        names = [field.name for field in fields(self)] if is_dataclass(self) else vars(self)
        return {name: plain(getattr(self, name)) for name in names}

    @property
    def strength(self) -> float:
        """The value of the parameter `strength_name`; NaN where it is not one number."""
        value = self.parameters.get(self.strength_name)
        return float(value) if isinstance(value, Real) else math.nan


class DecoderMethod(Method, ABC):
    """Adds multiples of fixed directions; how many, `Intervention.coefficient` says."""

    @abstractmethod
    def directions(self, W_dec: Float[Tensor, "target point d_model"]) -> Float[Tensor, "target point d_model"]:
        """What one multiple of each feature adds to the residual stream, given the features' decoder vectors."""


class SearchMethod(Method, ABC):
    """Searches at each token for what to add, by trying it on the intervened run."""

    @property
    def idle(self) -> bool:
        """Whether the parameters are such that nothing is ever added."""
        return False

    @staticmethod
    @abstractmethod
    def deltas(methods: Sequence["SearchMethod"], attempts: "Attempts") -> Float[Tensor, "row point d_model"]:
        """What to add to the residual stream at one token of each row, found with the parameters ``methods[row]``."""


@settings
class SingleLayer(DecoderMethod):
    """Add `scale` times the features' decoder terms at one hook point.

    Attributes:
        point: Hook point, counted from 0 among those of the crosscoder.
        scale: 1 adds the term itself.
        random: Control: seed of random directions that replace the features' own, with the same norms. None: no control.
    """

    point: Whole
    scale: Number = 1.0
    random: Seed = None
    name: ClassVar[str] = "single layer"

    def check(self, crosscoder: Crosscoder) -> None:
        crosscoder.check_point(self.point)

    def directions(self, W_dec: Float[Tensor, "target point d_model"]) -> Float[Tensor, "target point d_model"]:
        directions = torch.zeros_like(W_dec)
        directions[:, self.point] = self.scale * W_dec[:, self.point]
        return directions if self.random is None else _random_like(directions, self.random)


@settings
class ManyLayers(DecoderMethod):
    """Add `scale` times the features' decoder terms at every hook point.

    Attributes:
        scale: One number, or one per hook point. None means 1 / (number of hook points).
        random: Control: seed of random directions that replace the features' own, with the same norms. None: no control.
    """

    scale: Numbers = None
    random: Seed = None
    name: ClassVar[str] = "many layers"

    def check(self, crosscoder: Crosscoder) -> None:
        if isinstance(self.scale, tuple) and len(self.scale) != crosscoder.n_points:
            raise ValueError(
                f"scale has {len(self.scale)} numbers, the crosscoder {crosscoder.n_points} hook points; give one for each"
            )

    def directions(self, W_dec: Float[Tensor, "target point d_model"]) -> Float[Tensor, "target point d_model"]:
        scale = 1 / W_dec.shape[1] if self.scale is None else self.scale
        directions = W_dec.new_tensor(scale).reshape(-1, 1) * W_dec
        return directions if self.random is None else _random_like(directions, self.random)


@settings
class Perturbation(SearchMethod):
    """Find by gradient descent, at each token, a small perturbation under which the encoder gives what is wanted.

    To ablate, the loss is the squared activation, so that descent ends where the feature no longer fires; to clamp, it is the
    squared distance of the pre-activation from the value. With several features, their losses are added up.

    Attributes:
        lr: Learning rate, 0 or more.
        steps: Number of gradient steps per token at most.
        random: Control: seed of random directions that replace the perturbation that was found, with the same norms.
    """

    lr: Rate
    steps: Count = 15
    random: Seed = None
    name: ClassVar[str] = "perturbation"
    strength_name: ClassVar[str] = "lr"

    @property
    def idle(self) -> bool:
        return self.lr == 0 or self.steps == 0

    @staticmethod
    def deltas(methods: Sequence["Perturbation"], attempts: "Attempts") -> Float[Tensor, "row point d_model"]:
        deltas = attempts.zero_deltas()  # the perturbation's negative; descending on one is descending on the other
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
                deltas[row] = _random_like(deltas[row], method.random)
        return deltas


METHODS: dict[str, type[Method]] = {m.name: m for m in (SingleLayer, ManyLayers, Perturbation)}


def method_from(settings: dict) -> Method:
    """The method that `Intervention.settings` describe.

    Raises:
        ValueError: If there is no method of that name.
    """
    if settings.get("method") not in METHODS:
        raise ValueError(f"method {shown(settings.get('method'))} is unknown; known are {', '.join(METHODS)}")
    method = METHODS[settings["method"]]
    return method(**{field.name: settings[field.name] for field in fields(method) if field.name in settings})


def _scope(tokens: Any) -> str | TokenScope:
    try:
        as_scope(tokens)
    except ValueError as error:
        raise ValueError(str(error).removeprefix(f"tokens={shown(tokens)} ")) from None  # pydantic's error names the field
    return tokens


def _method(method: Any) -> Method:
    if not isinstance(method, Method):
        raise ValueError("must be a method with its parameters, such as ManyLayers(scale=1.0) or Perturbation(lr=0.02)")
    return method


Tokens = Annotated[str | InstanceOf[TokenScope], BeforeValidator(_scope)]
SomeMethod = Annotated[InstanceOf[Method], BeforeValidator(_method)]


class Intervention(ABC):
    """One or several features, a method, and the tokens at which it is applied; see `Ablate`, `Steer` and `Clamp`.

    Subclasses define two elementwise functions: `coefficient`, the multiple of each direction to add, and `loss`, the
    objective of search methods. Their argument `value` is the field of that name, or 0 where there is none.
    """

    feature: int | tuple[int, ...]
    method: Method
    tokens: str | TokenScope
    kind: ClassVar[str]
    reads_activation: ClassVar[bool]
    """Whether `coefficient` depends on the clean run's activation."""

    @property
    def features(self) -> tuple[int, ...]:
        return self.feature if isinstance(self.feature, tuple) else (self.feature,)

    @property
    def scope(self) -> TokenScope:
        return as_scope(self.tokens)

    @property
    def settings(self) -> dict[str, Any]:
        """What it is made of, flat: `intervention`, `feature`, `value` (of a `Clamp`), `tokens`, `method`, its parameters."""
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "method"}
        own |= {"tokens": str(self.scope), "method": self.method.name}
        return {"intervention": self.kind} | own | self.method.parameters

    @property
    def label(self) -> str:
        """Method and parameters in words, such as "single layer, point 1, scale 2"; of a `Clamp`, the value too."""
        value = {"value": self.value} if hasattr(self, "value") else {}
        given = [(name, one) for name, one in (value | self.method.parameters).items() if one is not None]
        shown = [f"{name} {one:.3g}" if isinstance(one, float) else f"{name} {one}" for name, one in given]
        return ", ".join([self.method.name, *shown])

    def check(self, crosscoder: Crosscoder) -> None:
        """Raise an `IndexError` or `ValueError` if features or hook point are not those of the crosscoder."""
        for feature in self.features:
            crosscoder.check_feature(feature)
        self.method.check(crosscoder)

    @staticmethod
    @abstractmethod
    def coefficient(activation: Tensor, value: Tensor) -> Tensor:
        """Multiples of the method's directions to add where the clean run's activation is `activation`."""

    @staticmethod
    def loss(activation: Tensor, pre_activation: Tensor, value: Tensor) -> Tensor:
        """What search methods minimise; nothing, where a kind has no aim to search for."""
        return torch.zeros_like(activation)


@settings
class Ablate(Intervention):
    """Take the feature away: subtract its decoder term, or search for an activation of 0."""

    feature: Features
    method: SomeMethod
    tokens: Tokens = "all"
    kind: ClassVar[str] = "ablate"
    reads_activation: ClassVar[bool] = True

    @staticmethod
    def coefficient(activation: Tensor, value: Tensor) -> Tensor:
        return -activation

    @staticmethod
    def loss(activation: Tensor, pre_activation: Tensor, value: Tensor) -> Tensor:
        return activation**2


@settings
class Steer(Intervention):
    """Add the feature's decoder vector, whether it fires or not; the method's scale says how much."""

    feature: Features
    method: SomeMethod
    tokens: Tokens = "all"
    kind: ClassVar[str] = "steer"
    reads_activation: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if isinstance(self.method, SearchMethod):
            raise ValueError(
                f"Steer with {self.method} has no value to reach; use Clamp(feature, value=..., method=Perturbation(...))"
            )

    @staticmethod
    def coefficient(activation: Tensor, value: Tensor) -> Tensor:
        return torch.ones_like(activation)


@settings
class Clamp(Intervention):
    """Move the feature to `value` at every token of the scope, whether it fires there or not.

    Decoder methods add the difference between `value` and the clean run's activation. Search methods move the
    *pre-activation* to `value`, since a closed JumpReLU passes no gradient.
    """

    feature: Features
    value: Number
    method: SomeMethod
    tokens: Tokens = "all"
    kind: ClassVar[str] = "clamp"
    reads_activation: ClassVar[bool] = True

    @staticmethod
    def coefficient(activation: Tensor, value: Tensor) -> Tensor:
        return value - activation

    @staticmethod
    def loss(activation: Tensor, pre_activation: Tensor, value: Tensor) -> Tensor:
        return (pre_activation - value) ** 2


def _random_like(directions: Float[Tensor, "*any point d_model"], seed: int) -> Float[Tensor, "*any point d_model"]:
    """A random direction for each of `directions`, of the same norm; the same for equal seeds."""
    # One target after the other: a row's directions must not depend on how many features other rows have.
    generator, (*targets, points, d_model) = torch.Generator().manual_seed(seed), directions.shape
    drawn = [torch.randn(points, d_model, generator=generator) for _ in range(math.prod(targets))]
    drawn = torch.stack(drawn).reshape(directions.shape).to(directions)
    return directions.norm(dim=-1, keepdim=True) * drawn / drawn.norm(dim=-1, keepdim=True)
