"""Errors of pydantic in one line."""

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator
from pydantic.dataclasses import dataclass

from crosscoder_utils.io.error_messages import explained, in_one_line


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    center: bool = False


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    model: str
    context: int = 1
    adapters: tuple[str, ...] = ()
    inner: Inner = Inner()


@dataclass(config=ConfigDict(extra="forbid", strict=True))
class Method:
    point: int
    scale: float | tuple[float, ...] = 1.0

    @field_validator("point")
    @classmethod
    def _no_negative(cls, point: int) -> int:
        if point < 0:
            raise ValueError("must be 0 or more")
        return point


OUTER = ["model", "context", "adapters", "inner", "inner.center"]


@pytest.mark.parametrize(
    ("make", "known", "expected"),
    [
        (
            lambda: Outer(model="a", contxt=1),
            OUTER,
            "unknown key 'contxt'; did you mean 'context'? Known are model, context, adapters, inner",
        ),
        (
            lambda: Outer(model="a", inner={"centre": True}),
            OUTER,
            "unknown key 'inner.centre'; did you mean 'center'? Known are center",
        ),
        (lambda: Outer(model="a", contxt=1), (), "unknown key 'contxt'"),
        (lambda: Outer(), OUTER, "key 'model' is missing; add 'model=...'"),
        (
            lambda: Outer(model=3, context="x"),
            OUTER,
            "model=3: should be a valid string; context='x': should be a valid integer, unable to parse string as an integer",
        ),
        (lambda: Outer(model="a", adapters=["b", 3]), OUTER, "adapters.1=3: should be a valid string"),
        (lambda: Method("1"), ["point", "scale"], "point='1': should be a valid integer"),
        (lambda: Method(-1), ["point", "scale"], "point=-1 must be 0 or more"),
        (lambda: Method(1, "a"), ["point", "scale"], "scale='a': should be a valid number or should be a valid tuple"),
        (
            lambda: Method(1, scal=2.0),
            ["point", "scale"],
            "unknown key 'scal'; did you mean 'scale'? Known are point, scale",
        ),
    ],
)
def test_every_problem_is_named(make, known, expected):
    with pytest.raises(ValidationError) as info:
        make()
    assert explained(info.value, known) == expected


def test_a_long_message_becomes_one_short_line():
    assert in_one_line(ValueError("a\n  b\tc")) == "a b c"
    assert len(in_one_line("word " * 100, most=50)) == 50
    with pytest.raises(ValidationError) as info:
        Outer(model=["x\n"] * 1000)
    line = explained(info.value, OUTER)
    assert "\n" not in line and len(line) < 200
