"""What a method is: a `DecoderMethod` adds multiples of fixed directions, a `SearchMethod` finds what to add token by token.

Shapes: ``row`` counts prompts of a batch, ``pos`` tokens, ``point`` hook points, ``target`` a row's features.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from crosscoder_utils.crosscoder import Crosscoder
from crosscoder_utils.io.validation import plain

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

    @property
    def searches(self) -> bool:
        """Whether what to add is found token by token, by trying; if not, it is along fixed directions."""
        return isinstance(self, SearchMethod)

    @property
    def aims(self) -> bool:
        """Whether it moves pre-activations to a value and nowhere else, so that there is something to reach or to miss."""
        return False

    @property
    def statistics(self) -> bool:
        """Whether it needs statistics of training texts; see `feature_statistics`."""
        return getattr(self, "to", None) == "off"

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

    steers: ClassVar[bool] = True

    @abstractmethod
    def directions(self, W_dec: Float[Tensor, "target point d_model"]) -> Float[Tensor, "target point d_model"]:
        """What one multiple of each feature adds to the residual stream, given the features' decoder vectors."""


class SearchMethod(Method, ABC):
    """Searches at each token for what to add, by trying it on the intervened run."""

    steers: ClassVar[bool] = False
    """Whether `Steer`, which has no value to reach, can use it."""

    @property
    def idle(self) -> bool:
        """Whether the parameters are such that nothing is ever added."""
        return False

    @staticmethod
    @abstractmethod
    def deltas(methods: Sequence["SearchMethod"], attempts: "Attempts") -> Float[Tensor, "row point d_model"]:
        """What to add to the residual stream at one token of each row, found with the parameters ``methods[row]``."""


def random_like(directions: Float[Tensor, "*any point d_model"], seed: int) -> Float[Tensor, "*any point d_model"]:
    """A random direction for each of `directions`, of the same norm; the same for equal seeds."""
    # One target after the other: a row's directions must not depend on how many features other rows have.
    generator, (*targets, points, d_model) = torch.Generator().manual_seed(seed), directions.shape
    drawn = [torch.randn(points, d_model, generator=generator) for _ in range(math.prod(targets))]
    drawn = torch.stack(drawn).reshape(directions.shape).to(directions)
    return directions.norm(dim=-1, keepdim=True) * drawn / drawn.norm(dim=-1, keepdim=True)


def controlled(methods: Sequence[Method], deltas: Float[Tensor, "row point d_model"]) -> Float[Tensor, "row point d_model"]:
    """What was found, or for methods with `random`, random directions of the same norms."""
    for row, method in enumerate(methods):
        if method.random is not None:
            deltas[row] = random_like(deltas[row], method.random)
    return deltas
