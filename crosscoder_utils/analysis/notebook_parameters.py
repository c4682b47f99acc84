"""The parameters of the notebooks and their limits, checked before anything is loaded."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import ConfigDict, Field, ValidationError, create_model

from crosscoder_utils.io.error_messages import explained, shown

_Name = Annotated[str, Field(min_length=1)]
_Count = Annotated[int, Field(ge=1)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Values = Annotated[list[_Positive], Field(min_length=1)]
_Texts = Annotated[list[_Name], Field(min_length=1)]


class Parameters:
    """The parameters of all notebooks, each with its type and limits."""

    preset: _Name
    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:\d+)?|mps)$")]
    output_dir: _Name
    name_a: _Name
    name_b: _Name
    texts_a: _Texts
    texts_b: _Texts
    ordinary_texts: _Texts
    as_messages: bool
    sign: _Name
    seed: Annotated[int, Field(ge=0)]
    n_prompts: _Count
    n_held_out: _Count
    n_texts: _Count
    n_candidates: _Count
    n_workers: Annotated[int, Field(ge=0)]
    ray_address: _Name
    max_new_tokens: _Count
    roles: Annotated[list[str | Annotated[int, Field(ge=0)]], Field(min_length=1)]
    start: int
    starts: Annotated[list[int], Field(min_length=1)]
    strengths: _Values
    single_layer_scales: _Values
    many_layers_scales: _Values
    learning_rates: _Values
    learning_rate: _Positive
    steps: _Count
    steps_tried: Annotated[list[_Count], Field(min_length=1)]


def check_parameters(namespace: Mapping[str, object]) -> None:
    """Check a notebook's parameters: those of its variables that are fields of `Parameters`.

    Args:
        namespace: The notebook's variables; names that are no parameter are ignored.

    Raises:
        ValueError: If a parameter has the wrong type or is out of range; the line names every such parameter.

    Example:
        >>> check_parameters(globals())
    """
    if not isinstance(namespace, Mapping):
        raise ValueError(f"namespace={shown(namespace)} must be the notebook's variables; give globals()")
    known = Parameters.__annotations__
    given = {name: namespace[name] for name in known if name in namespace}
    limits = {name: (known[name], ...) for name in given}
    try:
        create_model("Parameters", __config__=ConfigDict(strict=True), **limits).model_validate(given)
    except ValidationError as error:
        wrong = explained(error, known=list(known))
        raise ValueError(f"{wrong}. The notebook's first cell says what each parameter is") from error
