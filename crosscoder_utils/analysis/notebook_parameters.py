"""The parameters of the notebooks and their limits, checked before anything is loaded."""

from collections.abc import Mapping
from typing import Annotated, TypedDict

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config

from crosscoder_utils.io.errors import explained

_Name = Annotated[str, Field(min_length=1)]
_Count = Annotated[int, Field(ge=1)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Values = Annotated[list[_Positive], Field(min_length=1)]


@with_config(ConfigDict(strict=True))
class Parameters(TypedDict, total=False):
    """The parameters of all notebooks, each with its type and limits."""

    preset: _Name
    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:\d+)?|mps)$")]
    output_dir: _Name
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
    given = {name: namespace[name] for name in Parameters.__annotations__ if name in namespace}
    try:
        TypeAdapter(Parameters).validate_python(given)
    except ValidationError as error:
        wrong = explained(error, known=list(Parameters.__annotations__))
        raise ValueError(f"{wrong}. The notebook's first cell says what each parameter is") from error
