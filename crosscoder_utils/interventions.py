"""What is done to which feature (`Ablate`, `Steer`, `Clamp`), and at which tokens; how, `methods` say."""

import math
from abc import ABC, abstractmethod
from dataclasses import fields
from typing import Annotated, Any, ClassVar

import torch
from pydantic import BeforeValidator, InstanceOf
from torch import Tensor

from crosscoder_utils.crosscoder import Crosscoder
from crosscoder_utils.io.error_messages import shown
from crosscoder_utils.io.validation import Features, Number, settings
from crosscoder_utils.methods import Method
from crosscoder_utils.methods.statistics import FeatureStatistics
from crosscoder_utils.prompts import TokenScope, as_scope


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

    @classmethod
    def acts(cls, activation: Tensor, pre_activation: Tensor, value: Tensor) -> Tensor:
        """Whether search methods move the feature at a token; the arguments are those of the intervened run without an edit."""
        return cls.loss(activation, pre_activation, value) != 0

    @abstractmethod
    def goals(self, statistics: FeatureStatistics | None) -> list[float]:
        """The pre-activation to which methods that aim at one move each feature."""


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

    def goals(self, statistics: FeatureStatistics | None) -> list[float]:
        to = getattr(self.method, "to", None)
        if to == "off":
            return [statistics.off(feature) for feature in self.features]
        return [0.0 if to in (None, "zero") else to] * len(self.features)


@settings
class Steer(Intervention):
    """Add the feature's decoder vector, whether it fires or not; the method's scale says how much."""

    feature: Features
    method: SomeMethod
    tokens: Tokens = "all"
    kind: ClassVar[str] = "steer"
    reads_activation: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.method.searches and (self.method.aims or not self.method.steers):
            raise ValueError(
                f"Steer with {self.method} has no value to reach; use Clamp(feature, value=..., "
                f"method={type(self.method).__name__}(...))"
            )

    @staticmethod
    def coefficient(activation: Tensor, value: Tensor) -> Tensor:
        return torch.ones_like(activation)

    @classmethod
    def acts(cls, activation: Tensor, pre_activation: Tensor, value: Tensor) -> Tensor:
        return torch.ones_like(activation, dtype=torch.bool)

    def goals(self, statistics: FeatureStatistics | None) -> list[float]:
        return [math.inf] * len(self.features)  # upwards


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

    def __post_init__(self) -> None:
        if getattr(self.method, "to", None) is not None:
            raise ValueError(f"Clamp(value={self.value}) says what to reach, and so does to={self.method.to!r}; leave `to` out")

    @staticmethod
    def coefficient(activation: Tensor, value: Tensor) -> Tensor:
        return value - activation

    @staticmethod
    def loss(activation: Tensor, pre_activation: Tensor, value: Tensor) -> Tensor:
        return (pre_activation - value) ** 2

    def goals(self, statistics: FeatureStatistics | None) -> list[float]:
        return [self.value] * len(self.features)
