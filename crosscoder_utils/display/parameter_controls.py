"""Controls for the parameters of a method, made from its fields. None of them clamps a number; errors say its limits."""

from collections.abc import Callable, Iterable
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

import ipywidgets as widgets

from crosscoder_utils.display.figures import point_labels
from crosscoder_utils.io.validation import whole_number
from crosscoder_utils.loading import Setup
from crosscoder_utils.methods import Method

MOST = 1_000
"""The largest whole number, such as of gradient steps, that a control computes with: more would take hours."""
_LABELS = {
    "point": "hook point", "lr": "learning rate", "random": "random directions instead (control)", "to": "feature goes to",
}  # fmt: skip
_NUMBERS = {"to": 0.0, "penalty": 0.01}
_NUMBER = 0.2
"""A mild but visible default, for a scale and for a learning rate."""


class SeedBox(widgets.Checkbox):
    """A checkbox for an optional seed: 0 if ticked, else None."""


class NumberControl:
    """A number, in a field and on a slider, or one of some words, such as "auto".

    The field takes any number; the slider covers the usual sizes, and stops at its end where the field's number is beyond it.

    Args:
        label: Name of the parameter.
        words: Word -> value; if there are any, a dropdown chooses between them and a number.
        value: Initial value: a number or a word's.
        number: Initial number, if `value` is none.
        has_slider: Whether there is a slider, which offers positive numbers only.
    """

    def __init__(self, label: str, words: dict[str, Any], value: Any, number: float, has_slider: bool) -> None:
        self._label, self._words, self._words_apply = label, words, True
        word = next((word for word, one in words.items() if one == value), "number")
        self.choice = made(widgets.Dropdown, label, options=["number", *words], value=word, flex="1 1 10em")
        number = value if isinstance(value, (int, float)) else number
        self.field = made(widgets.FloatText, label, value=number, flex="1 1 9em")
        self.slider = made(widgets.FloatLogSlider, "", min=-2, max=2, step=0.05, readout=False, flex="3 1 8em")
        self._parts = [self.choice, self.field, *([self.slider] if has_slider else [])]
        layout = widgets.Layout(flex_flow="row wrap", grid_gap="0.25em 0.75em", min_width="0", max_width="100%")
        self.view = widgets.Box(self._parts, layout=layout)
        self._follow()
        self.field.observe(self._follow, "value")
        self.slider.observe(self._move, "value")

    @property
    def value(self) -> Any:
        """The number, or the word's value."""
        return self.field.value if self._is_number else self._words[self.choice.value]

    @value.setter
    def value(self, value: Any) -> None:
        word = next((word for word, one in self._words.items() if one == value), "number")
        if word == "number":
            self.field.value = value
        self.choice.value = word

    def observe(self, handler: Callable[[dict], None], name: str) -> None:
        for part in (self.choice, self.field):  # the slider changes the field
            part.observe(handler, name)

    def arrange(self, words_apply: bool) -> None:
        """Show what applies; without `words_apply`, only a number does."""
        self._words_apply = words_apply
        has_choice = words_apply and bool(self._words)
        self.field.description = "number" if has_choice else self._label
        shown = {self.choice: has_choice, self.field: self._is_number, self.slider: self._is_number}
        self.view.children = [part for part in self._parts if shown[part]]
        self.view.layout.flex = f"{len(self.view.children)} 1 {14 * len(self.view.children)}em"

    @property
    def _is_number(self) -> bool:
        return not self._words_apply or self.choice.value == "number"

    def _on_slider(self) -> float:
        return min(max(self.field.value, 10**self.slider.min), 10**self.slider.max)

    def _follow(self, _change: dict | None = None) -> None:
        self.slider.value = self._on_slider()

    def _move(self, change: dict) -> None:
        if change["new"] != self._on_slider():  # moved by the user, not by `_follow`
            self.field.value = float(f"{change['new']:.3g}")


Control = widgets.Widget | NumberControl


def made(kind: type[widgets.Widget], label: str, flex: str = "1 1 18em", **traits: Any) -> widgets.Widget:
    """A control that reports only settled values, shows its whole label, and shrinks with the page."""
    if "continuous_update" in kind.class_trait_names():
        traits["continuous_update"] = False
    layout = widgets.Layout(flex=flex, width="auto", min_width="0", max_width="100%")
    return kind(description=label, style={"description_width": "initial"}, layout=layout, **traits)


def offered(value: Any, choices: Iterable[Any]) -> Any:
    """The value if it is a choice, else the first choice; `Controls` then compares the result with `start`."""
    choices = list(choices)
    return value if value in choices else choices[0]


def parameter_controls(method: type[Method], start: Method, setup: Setup) -> dict[str, Control]:
    """One control for each parameter of a supported type; the other parameters keep their defaults."""
    if not is_dataclass(method):
        return {}
    hints = get_type_hints(method)
    controls = {}
    for field in fields(method):
        value = getattr(start, field.name) if type(start) is method else None if field.default is MISSING else field.default
        control = _control(field.name, hints[field.name], value, setup)
        if control is not None:
            controls[field.name] = control
    return controls


def parameter_value(name: str, control: Control) -> Any:
    """The parameter value that a control stands for.

    Raises:
        ValueError: If it is a whole number out of range; other limits are the method's own.
    """
    if isinstance(control, SeedBox):
        return 0 if control.value else None
    return whole_number(name, control.value, 0, MOST) if isinstance(control, widgets.IntText) else control.value


def _control(name: str, hint: Any, value: Any, setup: Setup) -> Control | None:
    """A control for a parameter: hook point, number, word, whole number, bool, or optional int (a seed); None for others."""
    label, kinds = _LABELS.get(name, name.replace("_", " ")), get_args(hint) or (hint,)
    literals = [word for kind in (hint, *kinds) if get_origin(kind) is Literal for word in get_args(kind)]
    if name == "point":
        options = [(name, index) for index, name in enumerate(point_labels(setup.hook_points))]
        return made(widgets.Dropdown, label, options=options, value=offered(value, range(len(options))))
    if float in kinds:
        words = {word: word for word in literals}
        if name == "to":
            words["zero"] = value if value == "zero" else None  # which mean the same
        elif kinds == (float, type(None)):
            words["none"] = None
        return NumberControl(label, words, value, _NUMBERS.get(name, _NUMBER), has_slider=name != "to")
    if literals:
        return made(widgets.Dropdown, label, options=literals, value=offered(value, literals))
    if kinds == (int,):
        return made(widgets.IntText, label, value=value or 0)
    if kinds == (bool,):
        return made(widgets.Checkbox, label, value=bool(value), indent=False)
    if int in kinds:
        return made(SeedBox, label, value=value is not None, indent=False)
    return None
