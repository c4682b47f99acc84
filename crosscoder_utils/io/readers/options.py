"""What a caller of `load_crosscoder` says about a crosscoder beyond its files."""

from numbers import Integral, Real
from typing import Annotated, Any

from pydantic import BeforeValidator

from crosscoder_utils.io.readers.settings import LARGEST
from crosscoder_utils.io.validation import plain, settings


def _flag(value: Any) -> bool | None:
    value = plain(value)
    if value is not None and not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _whole(value: Any) -> int | None:
    value = plain(value)
    if value is not None and not _is_count(value):
        raise ValueError("must be a whole number, 0 or more")
    return value


def _points(value: Any) -> tuple[int, ...] | None:
    value = plain(value)
    if value is None:
        return None
    if not isinstance(value, tuple) or not all(map(_is_count, value)):
        raise ValueError("must be a list of whole numbers such as [0, 1, 2]: 0 is after the embedding, l after block l")
    return value


def _factors(value: Any) -> tuple[float, ...] | None:
    value = plain(value)
    if value is None:
        return None
    if not isinstance(value, tuple) or not all(_is_number(one) and one > 0 for one in value):
        raise ValueError("should be positive numbers, one per hook point, such as [0.5, 0.25]")
    return tuple(map(float, value))


def _threshold(value: Any) -> float | None:
    value = plain(value)
    if value is not None and not _is_number(value):
        raise ValueError("must be a finite number, such as 1.0")
    return None if value is None else float(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and 0 <= value < LARGEST


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and abs(value) < LARGEST


@settings
class Options:
    """Arguments of `load_crosscoder`; None leaves it to the files. Numbers may be numpy's or torch's.

    Attributes:
        center: Whether the crosscoder was trained on a centred residual stream.
        hook_points: Hook points of the model that it covers, ascending.
        scaling_factors: Factor on the activations at each hook point, for weights into which it is not folded.
        threshold: One threshold for all features, in place of TopK or BatchTopK.
        model_index: Which model's weights to take from a crosscoder over several models.
    """

    center: Annotated[bool | None, BeforeValidator(_flag)] = None
    hook_points: Annotated[tuple[int, ...] | None, BeforeValidator(_points)] = None
    scaling_factors: Annotated[tuple[float, ...] | None, BeforeValidator(_factors)] = None
    threshold: Annotated[float | None, BeforeValidator(_threshold)] = None
    model_index: Annotated[int | None, BeforeValidator(_whole)] = None
