"""The line of Python that makes a completion."""

from dataclasses import MISSING, fields, is_dataclass

from crosscoder_utils.interventions import Intervention
from crosscoder_utils.methods import Method


def python_call(prompt: str, intervention: Intervention | None, max_new_tokens: int) -> str:
    """The call to `generate`, as a line that runs where `crosscoder_utils` is imported and `setup` is loaded.

    Example:
        >>> print(python_call("Story:", Ablate(772, ManyLayers(scale=2.0)), 60))
        generate(setup, 'Story:', Ablate(feature=772, method=ManyLayers(scale=2.0)), max_new_tokens=60)[0].completion
    """
    done = "None" if intervention is None else _written(intervention)
    return f"generate(setup, {prompt!r}, {done}, max_new_tokens={max_new_tokens})[0].completion"


def _written(one: Intervention | Method) -> str:
    """The expression that makes an intervention or a method, without what is a default."""
    own = fields(one) if is_dataclass(one) else ()
    values = one.parameters if isinstance(one, Method) else {field.name: getattr(one, field.name) for field in own}
    defaults = {field.name: field.default for field in own if field.default is not MISSING}
    said = []
    for name, value in values.items():
        if name not in defaults or value != defaults[name]:
            shown = _scope(one) if name == "tokens" else _written(value) if isinstance(value, Method) else repr(value)
            said.append(f"{name}={shown}")
    return f"{type(one).__name__}({', '.join(said)})"


def _scope(one: Intervention) -> str:
    scope = one.scope
    if scope.kind == "marker":
        return f"from_marker({scope.marker!r}, {scope.offset})"
    return f"from_position({scope.offset})" if scope.kind == "position" else repr(scope.kind)
