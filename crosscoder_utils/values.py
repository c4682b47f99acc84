"""Values as they are given: numpy's numbers, lists and arrays made into plain ones, which can be hashed and written as JSON."""

import math
from collections.abc import Sequence
from dataclasses import fields
from numbers import Real
from typing import Any


def plain_value(value: Any) -> Any:
    """Numbers of numpy or torch as Python's, sequences and arrays as tuples of them; everything else as it is."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(plain_value(one) for one in value)
    return value


def make_plain(instance: Any) -> None:
    """Make the fields of a frozen dataclass plain, from its `__post_init__`: equal ones are then hashed to the same."""
    for field in fields(instance):
        object.__setattr__(instance, field.name, plain_value(getattr(instance, field.name)))


def check_finite(name: str, value: Any) -> None:
    """Raise a `ValueError` unless `value` is a finite number."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"{name}={value!r} is no finite number; give one, such as 1.0")
