"""Widgets to try interventions with, on any host of ipywidgets.

`Controls` holds what is chosen, `comparison.Comparer` computes it, `Playground` shows it. `Controls` and `Playground` contain
widgets but are not subclasses of one, because a subclass could override a widget's private names by accident.
"""

import traceback
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import ipywidgets as widgets
from IPython.display import display

from crosscoder_utils.analysis.screen import ACTIONS
from crosscoder_utils.display.colours import COLOURS
from crosscoder_utils.display.comparison import Comparer, aims, make_intervention, methods_of
from crosscoder_utils.display.html import escaped
from crosscoder_utils.display.parameter_controls import (
    Control,
    NumberControl,
    made,
    offered,
    parameter_controls,
    parameter_value,
)
from crosscoder_utils.interventions import Intervention
from crosscoder_utils.io.validation import instance, mapped, one_text, whole_number
from crosscoder_utils.loading import Setup
from crosscoder_utils.methods import METHODS
from crosscoder_utils.prompts import from_marker


class Controls:
    """Controls for a prompt, an intervention and `max_new_tokens`. A method's controls are made from its fields.

    Number fields take any number; what is out of range is said by the properties `intervention` and `new_tokens`, not clamped.

    Args:
        setup: Gives the number of features, the hook points and the story marker.
        features: Role -> feature, to choose from.
        prompts: Name -> prompt, to choose from.
        start: Initial intervention, on a single feature.
        max_new_tokens: Initial value of `max_new_tokens`.
        on_change: Called after every change.

    Raises:
        ValueError: If the controls cannot show `start`, such as several features or one scale per hook point.
    """

    def __init__(
        self, setup: Setup, features: Mapping[str, int], prompts: Mapping[str, str], start: Intervention, max_new_tokens: int,
        on_change: Callable[[], None],
    ) -> None:  # fmt: skip
        instance("start", start, Intervention, "give one such as Ablate(feature, method)")
        features = mapped("features", features, whole_number, "roles to features")
        prompts = mapped("prompts", prompts, one_text, "names to prompts")
        max_new_tokens = whole_number("max_new_tokens", max_new_tokens, 1)
        scope, marker = start.scope, setup.preset.story_marker
        self._methods = {**METHODS, start.method.name: type(start.method)}
        scopes = {"all": "all", "prompt": "prompt", "generated": "generated"}
        scopes |= {f"from {marker!r} on": "marker"} if marker else {}
        kind = offered(start.kind, ACTIONS)
        methods = methods_of(kind, self._methods)
        self.prompt = made(widgets.Textarea, "prompt", value=next(iter(prompts.values()), ""), rows=6, flex="1 1 100%")
        self.feature = made(widgets.IntText, "feature number", value=start.features[0])
        self.kind = made(widgets.Dropdown, "intervention", options=list(ACTIONS), value=kind)
        self.value = made(widgets.FloatText, "clamp to", value=getattr(start, "value", 0.0), step=0.5)
        self.method = made(widgets.Dropdown, "method", options=methods, value=offered(start.method.name, methods))
        self.parameters = {name: parameter_controls(one, start.method, setup) for name, one in self._methods.items()}
        shown = self.parameters[start.method.name]
        self._kept = {name: getattr(start.method, name) for name in start.method.parameters if name not in shown}
        self.tokens = made(widgets.Dropdown, "tokens", options=scopes, value=offered(scope.kind, scopes.values()))
        self.offset = made(widgets.IntText, "offset (tokens)", value=scope.offset)
        self.max_new_tokens = made(widgets.IntText, "new tokens at most", value=max_new_tokens)
        self.example = _choice_of("example", prompts, self.prompt, other="")
        self.role = _choice_of("feature", {f"{role} ({n})": n for role, n in features.items()}, self.feature, other=-1)
        self._setup, self._on_change, self._arranging, self._start_method = setup, on_change, False, start.method.name
        self.view = widgets.Box(layout=widgets.Layout(flex_flow="row wrap", grid_gap="0.25em 1.5em", width="100%"))
        self._arrange()
        if self.intervention.settings != start.settings:
            raise ValueError(
                f"the controls cannot be set to start={start}; the nearest they show is {self.intervention}: start with that"
            )
        always = [self.prompt, self.feature, self.kind, self.value, self.method, self.tokens, self.offset, self.max_new_tokens]
        for control in [*always, *(one for of_method in self.parameters.values() for one in of_method.values())]:
            control.observe(self._changed, "value")

    @property
    def intervention(self) -> Intervention:
        """The chosen intervention; raises what `make_intervention` raises, and `ValueError` where a number is out of range."""
        tokens = self.tokens.value
        if tokens == "marker":
            most = self._setup.preset.context - 1
            tokens = from_marker(self._setup.preset.story_marker, whole_number("offset", self.offset.value, -most, most))
        parameters = {name: parameter_value(name, control) for name, control in self._applying().items()}
        if self.method.value == self._start_method:
            parameters |= self._kept
        return make_intervention(
            self.kind.value, self.method.value, parameters, self._methods, feature=self.feature.value, tokens=tokens,
            value=self.value.value,
        )  # fmt: skip

    @property
    def new_tokens(self) -> int:
        """The chosen `max_new_tokens`; raises `ValueError` where no prompt leaves room for it."""
        return whole_number("max_new_tokens", self.max_new_tokens.value, 1, self._setup.preset.context - 1)

    def _applying(self) -> dict[str, Control]:
        """The controls of the method's parameters, without `to` where something else says the goal, or there is none."""
        controls = dict(self.parameters[self.method.value])
        solves = "scale" not in controls or controls["scale"].value == "auto"
        if "to" in controls and not (self.kind.value == "ablate" and solves):
            del controls["to"]
        return controls

    def _changed(self, _change: dict) -> None:
        if not self._arranging:  # `_arrange` changes controls itself, which is part of the change that is being handled
            self._arranging = True
            self._arrange()
            self._arranging = False
            self._on_change()

    def _arrange(self) -> None:
        """Offer the methods that the kind can use, and show the controls that apply."""
        methods, chosen = methods_of(self.kind.value, self._methods), self.method.value
        if list(self.method.options) != methods:
            self.method.options = methods
            self.method.value = chosen if chosen in methods else methods[0]
        composite = [one for one in self.parameters[self.method.value].values() if isinstance(one, NumberControl)]
        for control in composite:
            control.arrange(words_apply=aims(self.kind.value))
        has_value = any(field.name == "value" for field in fields(ACTIONS[self.kind.value]))
        shown = [self.example, self.prompt, self.role, self.feature, self.kind, *([self.value] if has_value else [])]
        shown += [self.method, *(one.view if one in composite else one for one in self._applying().values()), self.tokens]
        shown += [self.offset] if self.tokens.value == "marker" else []
        self.view.children = [*shown, self.max_new_tokens]


class Playground:
    """Controls, both completions of the chosen prompt, the feature's activations and its card; updated on every change.

    Args:
        comparer: Computes the completions and, if it has texts, the feature cards.
        features: Role -> feature, to choose from; any other feature can be chosen by its number.
        prompts: Name -> prompt, to choose from; the first one is chosen initially.
        start: Initial intervention, on a single feature.
        max_new_tokens: Initial value of `max_new_tokens`.

    Raises:
        ValueError: As `Controls`. An error of a later choice is shown in place of its result.

    Example:
        >>> Playground(Comparer(setup), features, {"mine": "Words: kite\\nStory:"}, Ablate(features["tag"], ManyLayers(2.0)))
    """

    def __init__(
        self, comparer: Comparer, features: Mapping[str, int], prompts: Mapping[str, str], start: Intervention,
        max_new_tokens: int = 60,
    ) -> None:  # fmt: skip
        self.comparer = instance("comparer", comparer, Comparer, "make one with Comparer(setup)")
        self.controls = Controls(comparer.setup, features, prompts, start, max_new_tokens, self._refresh)
        self.busy, self.result, self.card = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.busy.layout.min_height = "2em"  # so that nothing moves when the message disappears
        self.card_section = widgets.Accordion([self.card], titles=("Feature card",), selected_index=0)
        self.card_section.observe(self._refresh, "selected_index")
        self.view = widgets.VBox([self.controls.view, self.busy, self.result, *([self.card_section] if comparer.texts else [])])
        self._refresh()

    def _ipython_display_(self) -> None:
        display(self.view)

    def _refresh(self, _change: dict | None = None) -> None:
        self.busy.value = '<span role="status">⏳ computing …</span>'
        self._fill(self.result, self._compare)
        if self.comparer.texts and self.card_section.selected_index == 0:
            self._fill(self.card, lambda: self.comparer.card(self.controls.feature.value).data)
        self.busy.value = ""

    def _compare(self) -> str:
        controls = self.controls
        comparison = self.comparer.compare(controls.prompt.value, controls.intervention, controls.new_tokens)
        return comparison._repr_html_()

    @staticmethod
    def _fill(output: widgets.HTML, compute: Callable[[], str]) -> None:
        try:
            output.value = compute()
        except Exception as error:  # every kind: Jupyter would at best write it to a log
            output.value = _error_html(error)


def _choice_of(label: str, values: Mapping[str, Any], field: widgets.Widget, other: Any) -> widgets.Dropdown:
    """A dropdown that fills `field`. It shows "other" while the field has a value that is not in `values`."""
    options = [*values.items(), ("other", other)]

    def chosen() -> Any:
        return field.value if field.value in values.values() else other

    choice = made(widgets.Dropdown, label, options=options, value=chosen())

    def fill(change: dict) -> None:
        if change["new"] != other:
            field.value = change["new"]

    def follow(_change: dict) -> None:
        choice.value = chosen()

    choice.observe(fill, "value")
    field.observe(follow, "value")
    return choice


def _error_html(error: Exception) -> str:
    """The error message; for errors that are not about the user's input, with the traceback."""
    if isinstance(error, (ValueError, IndexError)):
        shown = escaped(str(error))
    else:
        shown = f"{type(error).__name__}: {escaped(str(error))}<details><summary>Traceback</summary><pre>"
        shown += f"{escaped(''.join(traceback.format_exception(error)))}</pre></details>"
    style = f"border-left: 4px solid {COLOURS[1]}; padding: 0.25em 0.75em; line-height: 1.5; overflow-wrap: anywhere"
    return f'<div role="alert" style="{style}"><strong>Error.</strong> {shown}</div>'
