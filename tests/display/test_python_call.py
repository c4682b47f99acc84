"""The line of Python: read by Python, it is the same call."""

from types import SimpleNamespace

import pytest

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
from crosscoder_utils.display.python_call import python_call
from crosscoder_utils.methods import DecoderMethod

PROMPT = 'Words: "kite", d\u00f6g\'s \\n\nStory:'


class Plain(DecoderMethod):
    """A user's own method, no dataclass."""

    def __init__(self, gain, note="none"):
        self.gain, self.note = gain, note

    def directions(self, W_dec):
        return self.gain * W_dec


@pytest.mark.parametrize(
    "intervention",
    [
        None,
        Ablate(3, SingleLayer(0)),
        Ablate([3, 7], ManyLayers([0.1, 0.5, 1 / 3], random=0), "prompt"),
        Ablate(3, ManyLayers("auto", to="off"), from_marker("Story:", -3)),
        Ablate(3, Patch(to=-0.25, along="pattern"), from_position(-1)),
        Ablate(3, Perturbation(0.2, steps=3, penalty=0.1), "generated"),
        Steer(3, SteepestDescent(0.2), from_marker("a \"'")),
        Clamp(3, 6.5, NaturalPerturbation(), from_position(4)),
        Steer(3, Plain(0.1, "mine")),
    ],
    ids=lambda one: str(one).split(" at 0x")[0],  # the same in every process
)
def test_a_call_written_and_read_is_the_same(intervention):
    names = {"Plain": Plain, "setup": "the setup"}
    exec("from crosscoder_utils import *", names)
    names["generate"] = lambda *given, **more: [SimpleNamespace(completion=(given, more))]
    line = python_call(PROMPT, intervention, 7)
    (setup, prompt, read), more = eval(line, names)
    assert (setup, prompt, more) == ("the setup", PROMPT, {"max_new_tokens": 7}) and "\n" not in line
    assert read == intervention if intervention is None else read.settings == intervention.settings


def test_defaults_are_left_out():
    line = python_call("Story:", Ablate(772, ManyLayers(scale=2.0)), 60)
    called = "Ablate(feature=772, method=ManyLayers(scale=2.0))"
    assert line == f"generate(setup, 'Story:', {called}, max_new_tokens=60)[0].completion"
