"""Widgets to try interventions with, on any host of ipywidgets.

`Controls` holds what is chosen, `comparison.Comparer` computes it, `Playground` shows it. `Controls` and `Playground` contain
widgets but are not subclasses of one, because a subclass could override a widget's private names by accident.
"""

import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, get_args, get_type_hints

import ipywidgets as widgets
from IPython.display import display

from crosscoder_utils.display.comparison import KINDS, Comparer, make_intervention, methods_of
from crosscoder_utils.display.figures import point_labels
from crosscoder_utils.display.html import escaped
from crosscoder_utils.interventions import Intervention
from crosscoder_utils.io.validation import instance, mapped, one_text, whole_number
from crosscoder_utils.loading import Setup
from crosscoder_utils.methods import METHODS, Method
from crosscoder_utils.prompts import TokenScope


class Controls:
    """Controls for a prompt, an intervention and `max_new_tokens`. A method's controls are made from its fields.

    Args:
        setup: Gives the number of features, the hook points and the story marker.
        features: Role -> feature, to choose from.
        prompts: Name -> prompt, to choose from.
        start: Initial intervention, on a single feature.
        max_new_tokens: Initial value of `max_new_tokens`.
        on_change: Called after every change.

    Raises:
        ValueError: If the controls cannot show `start`, such as several features or a scale below 0.01.
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
        kind = _offered(start.kind, KINDS)
        methods = methods_of(kind, self._methods)
        self.prompt = _made(widgets.Textarea, "prompt", value=next(iter(prompts.values()), ""), rows=6, flex="1 1 100%")
        self.feature = _made(
            widgets.BoundedIntText, "feature number", value=start.features[0], max=setup.crosscoder.n_features - 1
        )
        self.kind = _made(widgets.Dropdown, "intervention", options=list(KINDS), value=kind)
        self.value = _made(widgets.FloatText, "clamp to", value=getattr(start, "value", 0.0), step=0.5)
        self.method = _made(widgets.Dropdown, "method", options=methods, value=_offered(start.method.name, methods))
        self.parameters = {name: _method_controls(one, start.method, setup) for name, one in self._methods.items()}
        shown = self.parameters[start.method.name]
        self._kept = {name: getattr(start.method, name) for name in start.method.parameters if name not in shown}
        self.tokens = _made(widgets.Dropdown, "tokens", options=scopes, value=_offered(scope.kind, scopes.values()))
        self.offset = _made(widgets.IntText, "offset (tokens)", value=scope.offset)
        self.max_new_tokens = _made(
            widgets.BoundedIntText, "new tokens at most", value=max_new_tokens, min=1, max=setup.preset.context - 1
        )
        self.example = _choice_of("example", prompts, self.prompt, other="")
        self.role = _choice_of("feature", {f"{role} ({n})": n for role, n in features.items()}, self.feature, other=-1)
        self._marker, self._on_change, self._arranging, self._start_method = marker, on_change, False, start.method.name
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
        """The chosen intervention; raises what `make_intervention` raises."""
        at_marker = self.tokens.value == "marker"
        tokens = TokenScope("marker", self.offset.value, self._marker) if at_marker else self.tokens.value
        parameters = {name: _value(control) for name, control in self.parameters[self.method.value].items()}
        if self.method.value == self._start_method:
            parameters |= self._kept
        return make_intervention(
            self.kind.value, self.method.value, parameters, self._methods, feature=self.feature.value, tokens=tokens,
            value=self.value.value,
        )  # fmt: skip

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
        has_value = any(field.name == "value" for field in fields(KINDS[self.kind.value]))
        shown = [self.example, self.prompt, self.role, self.feature, self.kind, *([self.value] if has_value else [])]
        shown += [self.method, *self.parameters[self.method.value].values(), self.tokens]
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
        comparison = self.comparer.compare(controls.prompt.value, controls.intervention, controls.max_new_tokens.value)
        return comparison._repr_html_()

    @staticmethod
    def _fill(output: widgets.HTML, compute: Callable[[], str]) -> None:
        try:
            output.value = compute()
        except Exception as error:  # every kind: Jupyter would at best write it to a log
            output.value = _error_html(error)


_LABELS = {"point": "hook point", "lr": "learning rate", "random": "random directions instead (control)"}


def _offered(value: Any, choices: Iterable[Any]) -> Any:
    """The value if it is a choice, else the first choice; `Controls` then compares the result with `start`."""
    choices = list(choices)
    return value if value in choices else choices[0]


class _SeedBox(widgets.Checkbox):
    """A checkbox for an optional seed: 0 if ticked, else None."""


def _made(kind: type[widgets.Widget], label: str, flex: str = "1 1 18em", **traits: Any) -> widgets.Widget:
    """A control that reports only settled values, shows its whole label, and shrinks with the page."""
    if "continuous_update" in kind.class_trait_names():
        traits["continuous_update"] = False
    layout = widgets.Layout(flex=flex, width="auto", min_width="0", max_width="100%")
    return kind(description=label, style={"description_width": "initial"}, layout=layout, **traits)


def _method_controls(method: type[Method], start: Method, setup: Setup) -> dict[str, widgets.Widget]:
    """One control for each parameter of a supported type; the other parameters keep their defaults."""
    if not is_dataclass(method):
        return {}
    hints = get_type_hints(method)
    controls = {}
    for field in fields(method):
        value = getattr(start, field.name) if type(start) is method else None if field.default is MISSING else field.default
        control = _method_control(field.name, hints[field.name], value, setup)
        if control is not None:
            controls[field.name] = control
    return controls


def _method_control(name: str, hint: Any, value: Any, setup: Setup) -> widgets.Widget | None:
    """A control for a parameter of type float, int, bool or optional int (a seed); None for other types."""
    label, kinds = _LABELS.get(name, name.replace("_", " ")), get_args(hint) or (hint,)
    number = value if isinstance(value, (int, float)) else None
    if name in ("to", "penalty"):  # their default, no value, is none that a slider could show
        return None
    if name == "point":
        options = [(name, index) for index, name in enumerate(point_labels(setup.hook_points))]
        return _made(widgets.Dropdown, label, options=options, value=_offered(number, range(len(options))))
    if float in kinds:
        # A float is a strength. 0.2 is a mild but visible default, for a scale and for a learning rate.
        start = 0.2 if number is None else number
        return _made(widgets.FloatLogSlider, label, value=start, min=-2, max=2, step=0.05, readout_format=".3g")
    if kinds == (int,):
        return _made(widgets.BoundedIntText, label, value=number or 0, max=10_000)
    if kinds == (bool,):
        return _made(widgets.Checkbox, label, value=bool(number), indent=False)
    if int in kinds:
        return _made(_SeedBox, label, value=number is not None, indent=False)
    return None


def _value(control: widgets.Widget) -> Any:
    """The parameter value that a control stands for."""
    if isinstance(control, _SeedBox):
        return 0 if control.value else None
    return control.value


def _choice_of(label: str, values: Mapping[str, Any], field: widgets.Widget, other: Any) -> widgets.Dropdown:
    """A dropdown that fills `field`. It shows "other" while the field has a value that is not in `values`."""
    options = [*values.items(), ("other", other)]

    def chosen() -> Any:
        return field.value if field.value in values.values() else other

    choice = _made(widgets.Dropdown, label, options=options, value=chosen())

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
    style = "border-left: 4px solid #D55E00; padding: 0.25em 0.75em; line-height: 1.5; overflow-wrap: anywhere"
    return f'<div role="alert" style="{style}"><strong>Error.</strong> {shown}</div>'
