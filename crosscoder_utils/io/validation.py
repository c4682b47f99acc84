"""Checks of arguments and settings, made before anything is computed; what is wrong is a `ValueError` of one line.

Numbers of numpy and torch are taken like Python's, and a float that is whole, such as 772.0 from a table, like 772. True and
"1" are no numbers. One text is taken for a list of one text; a list may be any iterable, such as a generator or a column.
"""

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import fields
from numbers import Integral, Real
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, ConfigDict, ValidationError
from pydantic.dataclasses import dataclass

from crosscoder_utils.io.error_messages import explained, shown

LARGEST = 2**63 - 1
"""The largest seed; torch, numpy and parquet files hold no larger one."""
_MOST_STEPS = 1_000_000
_T = TypeVar("_T")


def plain(value: Any, depth: int = 8) -> Any:
    """Numbers of numpy or torch as Python's; sequences and arrays as tuples of them; everything else as it is."""
    if hasattr(value, "tolist") and not isinstance(value, type):
        value = value.tolist()
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray)) and depth:
        return tuple(plain(one, depth - 1) for one in value)
    return value


def _number(value: Any) -> float:
    value = plain(value)
    try:
        if isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    except OverflowError:  # a whole number that no float can hold
        pass
    raise ValueError("must be a finite number, such as 1.0")


def _numbers(value: Any) -> float | tuple[float, ...] | None:
    value = plain(value)
    if isinstance(value, tuple):
        return tuple(map(_number, value))
    return None if value is None else _number(value)


def _scales(value: Any) -> float | tuple[float, ...] | str | None:
    return _or_word(value, _numbers, "auto")


def _scale(value: Any) -> float | str:
    return _or_word(value, _number, "auto")


def _goal(value: Any) -> float | str | None:
    return None if value is None else _or_word(value, _number, "zero", "off")


def _or_word(value: Any, check: Callable[[Any], _T], *words: str) -> _T | str:
    """What `check` makes of a value, or one of some words."""
    if isinstance(value, str) and value in words:
        return str(value)
    try:
        return check(value)
    except ValueError as error:
        raise ValueError(f"{error}, or {' or '.join(map(repr, words))}") from None


def _rate(value: Any) -> float:
    if _number(value) < 0:
        raise ValueError("must be a finite number, 0 or more")
    return _number(value)


def _penalty(value: Any) -> float | None:
    return None if value is None else _rate(value)


def _whole(value: Any) -> int:
    value = plain(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError("must be a whole number, 0 or more")
    return int(value)


def _count(value: Any) -> int:
    if _whole(value) < 0:
        raise ValueError("must be a whole number, 0 or more")
    if _whole(value) > _MOST_STEPS:
        raise ValueError(f"must be a whole number, {_MOST_STEPS} or less")
    return _whole(value)


def _positive(value: Any) -> int:
    if _whole(value) < 1:
        raise ValueError("must be a whole number, 1 or more")
    return _whole(value)


def _above_zero(value: Any) -> float:
    if _number(value) <= 0:
        raise ValueError("must be a finite number above 0")
    return _number(value)


def _share(value: Any) -> float:
    if not 0 <= _number(value) <= 1:
        raise ValueError("must be a number of 0..1")
    return _number(value)


def _seed(value: Any) -> int | None:
    if value is not None and not 0 <= _whole(value) <= LARGEST:
        raise ValueError(f"must be a whole number, 0..{LARGEST}, or None")
    return None if value is None else _whole(value)


def _features(value: Any) -> int | tuple[int, ...]:
    value = plain(value)
    if value == ():
        raise ValueError("names no feature; give at least one")
    try:
        return tuple(map(_whole, value)) if isinstance(value, tuple) else _whole(value)
    except ValueError:
        wrong = "must be the number of a feature, such as find_features(...)['tag'], or a list of numbers"
        raise ValueError(wrong) from None


Texts = str | Iterable[str]
"""What functions take that read several texts; one text stands for a list of it."""
Number = Annotated[float, BeforeValidator(_number)]
Numbers = Annotated[float | tuple[float, ...] | None, BeforeValidator(_numbers)]
Scale = Annotated[float | Literal["auto"], BeforeValidator(_scale)]
Scales = Annotated[float | tuple[float, ...] | Literal["auto"] | None, BeforeValidator(_scales)]
Goal = Annotated[float | Literal["zero", "off"] | None, BeforeValidator(_goal)]
Rate = Annotated[float, BeforeValidator(_rate)]
Penalty = Annotated[float | None, BeforeValidator(_penalty)]
Whole = Annotated[int, BeforeValidator(_whole)]
Count = Annotated[int, BeforeValidator(_count)]
Positive = Annotated[int, BeforeValidator(_positive)]
AboveZero = Annotated[float, BeforeValidator(_above_zero)]
Share = Annotated[float, BeforeValidator(_share)]
Seed = Annotated[int | None, BeforeValidator(_seed)]
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


def whole_number(name: str, value: Any, least: int = 0, most: int = LARGEST) -> int:
    """The argument `name` as an int, if it is a whole number of least..most."""
    try:
        number = _whole(value)
    except ValueError:
        raise ValueError(f"{name}={shown(value)} must be a whole number, {least} or more") from None
    if number < least:
        raise ValueError(f"{name}={shown(value)} is too small; it must be {least} or more")
    if number > most:
        raise ValueError(f"{name}={shown(value)} is too large; it must be {most} or less")
    return number


def finite_number(name: str, value: Any, least: float = -math.inf, most: float = math.inf) -> float:
    """The argument `name` as a float, if it is a finite number of least..most."""
    try:
        number = _number(value)
    except ValueError:
        number = math.nan
    if not least <= number <= most:
        limits = [f"{least:g} or more"] * (least > -math.inf) + [f"{most:g} or less"] * (most < math.inf)
        raise ValueError(f"{name}={shown(value)} must be a finite number, {' and '.join(limits) or 'such as 1.0'}")
    return number


def flag(name: str, value: Any) -> bool:
    """The argument `name`, if it is True or False."""
    if not isinstance(plain(value), bool):
        raise ValueError(f"{name}={shown(value)} must be True or False")
    return bool(value)


Progress = bool | Callable[[int], object]
"""Whether to show a progress bar, or a function that is called with the number of rows that have just ended."""


def checked_progress(progress: Any) -> Progress:
    """The argument `progress`, if it is a function, or True or False."""
    return progress if callable(progress) else flag("progress", progress)


def chosen(name: str, value: Any, choices: Iterable[str]) -> str:
    """The argument `name`, if it is one of the choices."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}={shown(value)} is unknown; use {', '.join(map(repr, choices))}")
    return str(value)


def instance(name: str, value: Any, kind: type[_T], remedy: str) -> _T:
    """The argument `name`, if it is of a class."""
    if not isinstance(value, kind):
        raise ValueError(f"{name}={shown(value)} must be a {kind.__name__}; {remedy}")
    return value


def instances(name: str, value: Any, kind: type[_T], remedy: str, or_none: bool = False) -> list[_T | None]:
    """The argument `name` as a list of objects of a class (or None); one such object stands for a list of it."""
    kinds = (kind, type(None)) if or_none else (kind,)
    given = [value] if isinstance(value, kinds) else several(name, value, f"{kind.__name__}; {remedy}")
    for i, one in enumerate(given):
        if not isinstance(one, kinds):
            instance(f"{name}[{i}]", one, kind, remedy)
    return given


def one_text(name: str, value: Any, empty: bool = True) -> str:
    """The argument `name`, if it is a text of whole characters."""
    if not isinstance(value, str) or not (value or empty):
        raise ValueError(f"{name}={shown(value)} must be a text" + (", one character or more" if not empty else ""))
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{name}={shown(value)} holds half of a surrogate pair, which is no character; repair the text, for example with "
            "text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')"
        ) from None
    return str(value)


def several(name: str, value: Any, of: str = "texts") -> list:
    """The argument `name` as a list, if it is an iterable in a fixed order: a list, tuple, array, column or generator."""
    if isinstance(value, (str, bytes, bytearray, Mapping, Set, type)) or hasattr(value, "columns"):
        raise ValueError(f"{name}={shown(value)} must be a list of {of}")
    try:
        return list(value)
    except TypeError:
        raise ValueError(f"{name}={shown(value)} must be a list of {of}") from None


def texts(name: str, value: Any) -> list[str]:
    """The argument `name` as a list of texts; one text stands for a list of it."""
    given = [value] if isinstance(value, str) else several(name, value)
    return [one_text(f"{name}[{i}]", one) for i, one in enumerate(given)]


def whole_numbers(name: str, value: Any, least: int = 0) -> list[int]:
    """The argument `name` as a list of whole numbers; one number stands for a list of it."""
    values = plain(value)
    given = [values] if isinstance(values, Real) else several(name, values, "whole numbers")
    return [whole_number(f"{name}[{i}]", one, least) for i, one in enumerate(given)]


def numbers(name: str, value: Any) -> list[float]:
    """The argument `name` as a list of finite numbers; one number stands for a list of it."""
    values = plain(value)
    given = [values] if isinstance(values, Real) else several(name, values, "numbers")
    return [finite_number(f"{name}[{i}]", one) for i, one in enumerate(given)]


def mapped(name: str, value: Any, check: Callable[[str, Any], _T], of: str) -> dict[str, _T]:
    """The argument `name` as a dict, if it maps texts to values that pass `check`; `of` says what it maps to what."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{name}={shown(value)} must be a dict of {of}, such as {{'tag': ...}}")
    return {one_text(f"a key of {name}", key): check(f"{name}[{key!r}]", one) for key, one in value.items()}
