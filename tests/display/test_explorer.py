"""The explorer holds every completion of a sweep, whatever columns the sweep has, and what they are compared with."""

import base64
import gzip
import itertools
import json
import re

import numpy as np
import pandas as pd
import pytest

from crosscoder_utils import Ablate, ManyLayers, Perturbation, SingleLayer, sweep
from crosscoder_utils.analysis import ReferenceTexts, encode_texts, reference_texts, stored_completions
from crosscoder_utils.display import COLOURS, explorer
from crosscoder_utils.display.colours import HUES

PROMPT = "Words: red\nStory:"


def index(page: str) -> dict:
    return json.loads(re.search(r'application/json">(.*?)</script>', page, re.S).group(1))


def chunks(page: str) -> list[dict]:
    """The texts of each feature, unpacked."""
    packed = re.findall(r'type="text/plain" data-chunk="\d+">(.*?)</script>', page)
    return [json.loads(gzip.decompress(base64.b64decode(one))) for one in packed]


def text(chunk: dict, number: int) -> str:
    return "".join(chunk["vocabulary"][token] for token in chunk["texts"][number])


def answers(page: str) -> dict:
    """(setting, split, prompt's number) -> prompt, completion, verdict, numbers."""
    found, verdicts = {}, index(page)["verdicts"]
    for chunk in chunks(page):
        for setting, splits in chunk["answers"].items():
            for split, own in splits.items():
                for number, prompt, completion, verdict, *numbers in own:
                    words = text(chunk, chunk["prompts"][prompt][1]), text(chunk, completion), verdicts[verdict]
                    found[setting, split, number] = (*words, *numbers)
    return found


@pytest.mark.parametrize(
    ("interventions", "methods", "labels"),
    [
        ([Ablate(3, ManyLayers(2.0)), Ablate(3, ManyLayers())], ["many layers"], ["many layers, scale 2", "many layers"]),
        ([Ablate(3, SingleLayer(1, 2.0))], ["single layer"], ["single layer, point 1, scale 2"]),
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
    rows = sweep(random, [PROMPT], interventions, 3, record=record, progress=False)
    page = explorer(rows.assign(role="tag", ablated="feature")).data
    assert list(dict.fromkeys(setting[3] for setting in index(page)["settings"])) == methods
    assert [setting[4] for setting in index(page)["settings"]] == labels
    assert [completion for _, completion, *_ in answers(page).values()] == rows["completion"].tolist()


def some_rows() -> pd.DataFrame:
    rows = [
        {"role": role, "ablated": ablated, "label": f"many layers, scale {scale}", "prompt_index": prompt}
        for role, ablated, scale, prompt in itertools.product(
            ["tag", "colon"], ["feature", "random direction"], [1, 2], range(3)
        )
    ]
    table = pd.DataFrame(rows).assign(method="many layers", relative_edit_norm=0.5, says_phrase=False, is_fluent_story=False)
    table["setting"], table["prompt"] = table.index // 3, "prompt " + table["prompt_index"].astype(str)
    table.loc[table["prompt_index"] == 0, "is_fluent_story"] = True
    table.loc[table["prompt_index"] == 1, "says_phrase"] = True
    return table.assign(completion=[f"text {min(i, 5)}" for i in table.index])  # most are equal


def test_the_explorer_holds_every_answer_and_no_markup():
    table = some_rows()
    for shown in (table, table.assign(completion="</script><script>alert(1)</script> $x$", label="</script><b>")):
        page = explorer(shown, missing="<b>none</b>").data
        assert index(page)["features"] == [["any model", "tag"], ["any model", "colon"]]
        held = answers(page)
        assert len(index(page)["settings"]) == 8 and len(held) == len(shown)
        assert [words for words, *_ in held.values()] == shown["prompt"].tolist()
        assert [completion for _, completion, *_ in held.values()] == shown["completion"].tolist()
        assert [verdict for _, _, verdict, *_ in held.values()] == ["fluent story", "says the phrase", "neither"] * 8
        for *_, shares in index(page)["settings"]:
            assert shares == {"prompts": [3, pytest.approx(1 / 3, abs=1e-3), pytest.approx(1 / 3, abs=1e-3), 0.5]}
        assert all(
            len(chunk["texts"]) == 3 + chunk_texts
            for chunk, chunk_texts in zip(
                chunks(page), (len(set(shown.loc[shown["role"] == role, "completion"])) for role in ("tag", "colon"))
            )
        )
        assert page.count("</script>") == 4 and "alert(1)</script>" not in page and "<b>" not in page


def test_a_setting_keeps_its_name_when_other_rows_come(random):
    grid = [Ablate(3, ManyLayers(scale)) for scale in (1.0, 2.0)]
    rows = sweep(random, [PROMPT], grid, 3, progress=False)
    [first, second] = [setting[0] for setting in index(explorer(rows).data)["settings"]]
    turned = sweep(random, [PROMPT, "Words: blue\nStory:"], [Ablate(5, ManyLayers()), *grid[::-1]], 3, progress=False)
    assert [setting[0] for setting in index(explorer(turned).data)["settings"]][1:] == [second, first]


def test_texts_and_activations_beside(random, tmp_path):
    prompts = random.prompts(2, deployment=True)
    sweep(
        random, prompts, [Ablate(3, ManyLayers(2.0)), Ablate(3, ManyLayers(2.0, random=0))], 4, progress=False, folder=tmp_path
    )
    table, _ = stored_completions(random, [tmp_path], {"tag": 3})
    beside = reference_texts(random, table)
    page = explorer(table, {random.preset.name: beside}).data
    [chunk] = chunks(page)
    for prompt, (_, own, untouched, base) in zip(prompts, chunk["prompts"], strict=True):
        assert text(chunk, own) == prompt and len(chunk["texts"][own]) == len(beside.tokens[prompt]) > 5
        assert text(chunk, untouched[0]) == beside.untouched[prompt]["completion"]
        assert text(chunk, base[0]) == beside.base[prompt]["completion"]
    held = answers(page)
    assert [split for _, split, _ in held] == ["held out"] * 4
    assert [strip is None for *_, strip in held.values()] == [False, False, True, True]  # none of the random directions
    for prompt, completion, *_, strip in list(held.values())[:2]:
        [encoded] = encode_texts(random, [prompt + completion])
        values = np.zeros(len(encoded.tokens))
        values[chunk["strips"][strip][::2]] = chunk["strips"][strip][1::2]
        np.testing.assert_allclose(values, encoded.activations[:, 3], rtol=1e-3, atol=1e-5)


def test_what_failed_or_is_wrong(random, unchecked):
    rows = sweep(random, [PROMPT], [None, Ablate(3, ManyLayers(2.0))], 3, progress=False)
    page = explorer(rows.assign(failed=[False, True])).data
    assert [verdict for _, _, verdict, *_ in answers(page).values()][1] == "failed"
    assert explorer(rows, {"another": ReferenceTexts(None, {}, {}, {}, {})}).data == explorer(rows).data
    with pytest.raises(ValueError, match="missing=3 must be a text"):
        explorer(rows, missing=3)


def test_colours_are_those_of_figures():
    assert index(explorer(some_rows()).data)["colours"]["methods"] == HUES == COLOURS[: len(HUES)]


def test_the_page_says_what_it_needs_where_nothing_runs():
    [needs] = re.findall(r'<p class="explorer-needs">(.*?)</p>', explorer(some_rows()).data, re.S)
    assert "needs JavaScript" in needs and "Allow scripts" in needs and "stored_completions" in needs


def test_settings_of_two_sweeps_stay_apart(random):
    methods = (ManyLayers(1.0), SingleLayer(1, 2.0))
    tables = [sweep(random, [PROMPT], Ablate(3, method), 3, progress=False) for method in methods]
    page = explorer(pd.concat(tables, ignore_index=True)).data
    settings = index(page)["settings"]
    assert [label for *_, label, _ in settings] == ["many layers, scale 1", "single layer, point 1, scale 2"]
    assert [shares["prompts"][0] for *_, shares in settings] == [1, 1] and len({identity for identity, *_ in settings}) == 2


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("references", [3, {"random": 3}])
def test_references_of_another_kind_are_refused(random, references):
    table = sweep(random, [PROMPT], Ablate(3, ManyLayers(1.0)), 3, progress=False)
    with pytest.raises(ValueError, match="references.* must be") as error:
        explorer(table, references)
    assert "\n" not in str(error.value)
