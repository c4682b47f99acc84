"""The explorer over sweeps that have not all columns."""

import json
import re

import pytest

from crosscoder_utils import Ablate, ManyLayers, Perturbation, SingleLayer, sweep
from crosscoder_utils.display.explorer import explorer


@pytest.mark.parametrize(
    ("interventions", "methods", "strengths"),
    [
        ([Ablate(3, ManyLayers(2.0)), Ablate(3, ManyLayers())], ["many layers"], ["scale 2", "setting 1"]),
        ([Ablate(3, SingleLayer(1, 2.0))], ["single layer, point 1"], ["scale 2"]),
        ([None, Ablate(3, Perturbation(0.1, 1))], ["untouched", "perturbation"], ["setting 0", "learning rate 0.1"]),
        ([None], ["untouched"], ["setting 0"]),
        ([Ablate(3, ManyLayers([1.0] * 3))], ["many layers"], ["setting 0"]),
    ],
    ids=["many", "single", "perturbation", "untouched", "several scales"],
)
@pytest.mark.parametrize("record", ["ablated", "nothing"])
def test_a_sweep_that_is_in_memory_only(random, interventions, methods, strengths, record):
    rows = sweep(random, ["Words: red\nStory:"], interventions, 3, record=record, progress=False)
    page = explorer(rows.assign(role="tag", ablated="feature")).data
    choices = json.loads(re.search(r'application/json">(.*?)</script>', page, re.S).group(1))["choices"]
    assert [choice["method"] for choice in choices] == methods
    assert [strength["name"] for choice in choices for strength in choice["strengths"]] == strengths
