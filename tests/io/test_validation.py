"""What is taken for a number, a text or a list of them, and what is refused in which words."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from crosscoder_utils import Ablate, ManyLayers, Perturbation, SingleLayer
from crosscoder_utils.io.validation import (
    chosen,
    finite_number,
    flag,
    instances,
    mapped,
    numbers,
    one_text,
    several,
    texts,
    whole_number,
    whole_numbers,
)

pytestmark = pytest.mark.usefixtures("unchecked")


def refused(match, make):
    with pytest.raises(ValueError, match=match) as error:
        make()
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


@pytest.mark.parametrize(
    "value", [772, np.int64(772), 772.0, np.float64(772), np.float32(772), torch.tensor(772), np.array(772)]
)
def test_whole_numbers_of_every_kind(value):
    assert whole_number("n", value) == 772 and type(whole_number("n", value)) is int
    assert Ablate(value, ManyLayers()) == Ablate(772, ManyLayers())
    assert SingleLayer(value).point == 772


@pytest.mark.parametrize(
    "value", [True, np.True_, "1", 1.5, None, float("nan"), float("inf"), b"1", [1], Fraction(1, 2), 1j, int]
)
def test_what_is_no_whole_number(value):
    refused("n=.* must be a whole number, 0 or more", lambda: whole_number("n", value))
    refused("point=.* must be a whole number, 0 or more", lambda: SingleLayer(value))


def test_limits_of_whole_numbers():
    refused("n=0 is too small; it must be 1 or more", lambda: whole_number("n", 0, 1))
    refused("n=8 is too large; it must be 7 or less", lambda: whole_number("n", 8, 1, 7))
    refused(r"seed=1267650600228229401496703205376 is too large; it must be", lambda: whole_number("seed", 2**100))


@pytest.mark.parametrize("value", [True, "1", None, float("nan"), -float("inf"), 10**400, [1.0], 1j])
def test_what_is_no_finite_number(value):
    refused("x=.* must be a finite number, such as 1.0", lambda: finite_number("x", value))
    refused("scale=.* must be a finite number, such as 1.0", lambda: SingleLayer(0, value))


def test_limits_of_finite_numbers():
    assert finite_number("x", np.float32(0.5), 0, 1) == 0.5
    refused("x=2 must be a finite number, 0 or more and 1 or less", lambda: finite_number("x", 2, 0, 1))
    refused("lr=-0.1 must be a finite number, 0 or more", lambda: Perturbation(-0.1))
    refused("steps=10000000 must be a whole number, 1000000 or less", lambda: Perturbation(0.1, 10**7))
    refused("random=-1 must be a whole number, 0..9223372036854775807, or None", lambda: ManyLayers(random=-1))
    refused("random=True must be a whole number", lambda: ManyLayers(random=True))


@pytest.mark.parametrize("value", [b"ab", "tag", (), [], [1, "2"], [[1]], {1: 2}, {1}, np.array([0.5]), None])
def test_what_is_no_feature(value):
    refused("feature=.*(must be the number of a feature|names no feature)", lambda: Ablate(value, ManyLayers()))


@pytest.mark.parametrize("value", [ManyLayers, "many layers", None, 3, Ablate(1, ManyLayers())])
def test_what_is_no_method(value):
    refused("method=.* must be a method with its parameters, such as ManyLayers", lambda: Ablate(3, value))


@pytest.mark.parametrize(
    "value",
    ["a", ["a"], ("a",), (one for one in "a"), pd.Series(["a"]), np.array(["a"]), np.array(["a"], object), pd.Index(["a"])],
)
def test_texts_of_every_kind(value):
    assert texts("texts", value) == ["a"] and type(texts("texts", ["a"])[0]) is str


@pytest.mark.parametrize("value", [b"a", {"a": 1}, {"a"}, 3, None, pd.DataFrame({"a": ["a"]}), str, np.array("a")])
def test_what_is_no_list_of_texts(value):
    refused("texts=.* must be a list of texts", lambda: texts("texts", value))


@pytest.mark.parametrize("value", [None, b"a", 3, Path("a"), float("nan"), ["a"]])
def test_what_is_no_text(value):
    refused(r"texts\[1\]=.* must be a text", lambda: texts("texts", ["a", value]))


def test_half_a_character_is_no_text():
    refused(r"texts\[0\]='kite \\ud83d' holds half of a surrogate pair.*repair", lambda: texts("texts", "kite \ud83d"))
    refused("marker='' must be a text, one character or more", lambda: one_text("marker", "", empty=False))


def test_lists_of_numbers():
    assert whole_numbers("steps", np.array([1, 2.0])) == [1, 2] and whole_numbers("steps", 3) == [3]
    assert numbers("scales", (x for x in (1, 0.5))) == [1.0, 0.5]
    refused(r"steps\[1\]='2' must be a whole number", lambda: whole_numbers("steps", [1, "2"]))
    refused("scales='12' must be a list of numbers", lambda: numbers("scales", "12"))


def test_flags_choices_objects_and_mappings():
    assert flag("x", np.True_) is True
    refused("deployment='yes' must be True or False", lambda: flag("deployment", "yes"))
    refused("x=1 must be True or False", lambda: flag("x", 1))
    refused("record=None is unknown; use 'a', 'b'", lambda: chosen("record", None, ("a", "b")))
    refused(r"x\[1\]=3 must be a Path; make one", lambda: instances("x", [Path("a"), 3], Path, "make one"))
    assert instances("x", None, Path, "make one", or_none=True) == [None]
    assert mapped("features", {"tag": 3.0}, whole_number, "roles to features") == {"tag": 3}
    refused("features=3 must be a dict of roles to features", lambda: mapped("features", 3, whole_number, "roles to features"))
    refused(
        "features\\['tag'\\]='3' must be a whole", lambda: mapped("features", {"tag": "3"}, whole_number, "roles to features")
    )
    refused("a key of features=3 must be a text", lambda: mapped("features", {3: 3}, whole_number, "roles to features"))
    refused("x=.* must be a list of paths", lambda: several("x", {"a": 1}, "paths"))


def test_a_list_that_holds_itself():
    loop = []
    loop.append(loop)
    refused("feature=.* must be the number of a feature", lambda: Ablate(loop, ManyLayers()))
    refused("scale=.* must be a finite number", lambda: SingleLayer(0, loop))
