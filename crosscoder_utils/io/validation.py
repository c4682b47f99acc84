"""Types of settings that are validated strictly: numpy's numbers are taken, True and "0.1" are not."""

import functools
import math
from collections.abc import Sequence
from dataclasses import fields
from numbers import Integral, Real
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, ValidationError
from pydantic.dataclasses import dataclass

from crosscoder_utils.io.error_messages import explained


def plain(value: Any) -> Any:
    """Numbers of numpy or torch as Python's; sequences and arrays as tuples of them; everything else as it is."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return tuple(map(plain, value)) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _number(value: Any) -> float:
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError("must be a finite number, such as 1.0")
    return float(value)


def _numbers(value: Any) -> float | tuple[float, ...] | None:
    value = plain(value)
    if isinstance(value, tuple):
        return tuple(map(_number, value))
    return None if value is None else _number(value)


def _whole(value: Any) -> int:
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError("must be a whole number, 0 or more")
    return int(value)


def _count(value: Any) -> int:
    if _whole(value) < 0:
        raise ValueError("must be a whole number, 0 or more")
    return _whole(value)


def _features(value: Any) -> int | tuple[int, ...]:
    value = plain(value)
    if value == ():
        raise ValueError("names no feature; give at least one")
    for one in value if isinstance(value, tuple) else [value]:
        if isinstance(one, bool) or not isinstance(one, int):
            raise ValueError("must be the number of a feature, such as find_features(...)['tag'], or a list of numbers")
    return value


Number = Annotated[float, BeforeValidator(_number)]
Numbers = Annotated[float | tuple[float, ...] | None, BeforeValidator(_numbers)]
Whole = Annotated[int, BeforeValidator(_whole)]
Count = Annotated[int, BeforeValidator(_count)]
Seed = Annotated[int | None, BeforeValidator(lambda seed: seed if seed is None else _whole(seed))]
Features = Annotated[int | tuple[int, ...], BeforeValidator(_features)]


def settings(cls: type) -> type:
    """Make a class a frozen dataclass whose fields are validated; what is wrong is a `ValueError` of one line."""
    cls = dataclass(cls, frozen=True, config=ConfigDict(arbitrary_types_allowed=True, extra="forbid"))
    validate = cls.__init__

    @functools.wraps(validate)
    def __init__(self, *args, **kwargs) -> None:
        try:
            validate(self, *args, **kwargs)
        except ValidationError as error:
            raise ValueError(f"{cls.__name__}: {explained(error, [f.name for f in fields(cls)])}") from None

    cls.__init__ = __init__
    return cls
