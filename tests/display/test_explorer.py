"""The explorer holds every completion of a sweep, whatever columns the sweep has."""

import itertools
import json
import re

import pandas as pd
import pytest

from crosscoder_utils import Ablate, ManyLayers, Perturbation, SingleLayer, sweep
from crosscoder_utils.display import explorer


def content(page: str) -> dict:
    return json.loads(re.search(r'application/json">(.*?)</script>', page, re.S).group(1))


@pytest.mark.parametrize(
    ("interventions", "methods", "labels"),
    [
        ([Ablate(3, ManyLayers(2.0)), Ablate(3, ManyLayers())], ["many layers"], ["many layers, scale 2", "many layers"]),
        ([Ablate(3, SingleLayer(1, 2.0))], ["single layer, point 1"], ["single layer, point 1, scale 2"]),
        (
            [None, Ablate(3, Perturbation(0.1, 1))],
            ["untouched", "perturbation"],
            ["untouched", "perturbation, lr 0.1, steps 1"],
        ),
        ([None], ["untouched"], ["untouched"]),
        ([Ablate(3, ManyLayers([1.0] * 3))], ["many layers"], ["many layers, scale (1.0, 1.0, 1.0)"]),
    ],
    ids=["many", "single", "perturbation", "untouched", "several scales"],
)
@pytest.mark.parametrize("record", ["target", "nothing"])
def test_a_sweep_that_is_in_memory_only(random, interventions, methods, labels, record):
    rows = sweep(random, ["Words: red\nStory:"], interventions, 3, record=record, progress=False)
    choices = content(explorer(rows.assign(role="tag", ablated="feature")).data)["choices"]
    assert [choice["method"] for choice in choices] == methods
    assert [setting["label"] for choice in choices for setting in choice["settings"]] == labels


def test_the_explorer_holds_every_answer_and_no_markup():
    rows = [
        {"role": role, "ablated": ablated, "label": f"many layers, scale {scale}", "prompt_index": prompt}
        for role, ablated, scale, prompt in itertools.product(
            ["tag", "colon"], ["feature", "random direction"], [1, 2], range(3)
        )
    ]
    table = pd.DataFrame(rows).assign(method="many layers", point=None, says_phrase=True, cross_entropy=1.5)
    table["setting"] = table.index // 3
    table["prompt"] = "prompt " + table["prompt_index"].astype(str)
    table["completion"] = [f"text {min(i, 5)}" for i in table.index]  # most are equal
    for shown in (table, table.assign(completion="</script><script>alert(1)</script> $x$")):
        page = explorer(shown, n_prompts=2).data
        data = content(page)
        assert data["prompts"] == ["prompt 0", "prompt 1"] and len(set(data["texts"])) == len(data["texts"])
        assert [len(choice["settings"]) for choice in data["choices"]] == [2] * 4
        offered = shown[shown["prompt_index"] < 2]
        answers = [answer for choice in data["choices"] for setting in choice["settings"] for answer in setting["answers"]]
        assert [data["texts"][answer[0]] for answer in answers] == offered["completion"].tolist()
        assert all(len(answer) == 2 + len(data["measures"]) and answer[1:4] == [True, 1.5, None] for answer in answers)
        assert page.count("</script>") == 2 and "alert(1)</script>" not in page


def test_a_table_of_sweep_as_it_is(random):
    rows = sweep(random, ["Words: red\nStory:"], [None, Ablate(3, ManyLayers(2.0))], 3, progress=False)
    choices = content(explorer(rows).data)["choices"]
    assert [(choice["role"], choice["ablated"], choice["method"]) for choice in choices] == [
        ("any", "feature", "untouched"),
        ("any", "feature", "many layers"),
    ]
    failed = content(explorer(rows.assign(failed=[False, True])).data)
    assert failed["texts"][1] == "failed: activations or logits were not finite"
    with pytest.raises(ValueError, match="n_prompts=0 is too small"):
        explorer(rows, 0)
