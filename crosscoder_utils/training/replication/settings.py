"""What a replication of the post is made by: model, recipe of the crosscoder, and the notebooks' parameters."""

import ast
import dataclasses
import json
from dataclasses import field
from pathlib import Path
from typing import Any

import papermill

import crosscoder_utils
from crosscoder_utils.analysis.notebook_parameters import check_parameters
from crosscoder_utils.io.error_messages import shown
from crosscoder_utils.io.files import read_yaml
from crosscoder_utils.io.validation import Count, Positive, settings
from crosscoder_utils.presets import Preset
from crosscoder_utils.training.recipe import CrosscoderRecipe

CHECKOUT = Path(crosscoder_utils.__file__).parents[1]
"""The folder of the repository, which has the notebooks and the book's settings; a wheel lacks them."""

NOTEBOOKS = ("01_setup", "02_feature_discovery", "03_ablation", "04_steering", "05_sweeps", "06_playground")
NEEDED = ("02_feature_discovery", "05_sweeps")
"""Notebooks that the comparison with the post reads tables of."""

_OWN = {"preset", "device", "output_dir"}  # parameters that the command sets itself


@settings
class Replication:
    """All that the results depend on; a folder belongs to one such recipe."""

    preset: Preset
    crosscoder: CrosscoderRecipe
    seed: Count = 0
    examples: Positive = 100_000
    """Training texts that are fetched; of a smaller dataset, all of them."""
    measured_texts: Positive = 200
    """Held-out texts that the crosscoder is measured on."""
    prompts: Positive = 20
    """Prompts that settings are compared on; the post's number."""
    held_out: Positive = 20
    """Prompts after those, which confirm the choice."""
    texts: Positive = 200
    """Training texts of each kind that features are found on."""
    new_tokens: Positive = 80
    """Longest completion."""
    notebooks: tuple[str, ...] = NOTEBOOKS
    parameters: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Notebook -> parameters of its first cell that differ, such as a smaller grid."""

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self) | {"preset": self.preset.model_dump()}, indent=2) + "\n"

    def parameters_of(self, name: str) -> dict[str, Any]:
        """All parameters of a notebook but those of `_OWN`: its defaults, this recipe's numbers, what differs."""
        defaults = {
            one["name"]: ast.literal_eval(one["default"]) for one in papermill.inspect_notebook(source_of(name)).values()
        }
        numbers = {"n_prompts": self.prompts, "n_held_out": self.held_out, "n_texts": self.texts}
        numbers |= {"max_new_tokens": self.new_tokens, "seed": self.seed}
        if name == "06_playground":  # a choice of prompts, not a sample
            numbers = {"max_new_tokens": self.new_tokens}
        given = {key: value for key, value in numbers.items() if key in defaults} | self.parameters.get(name, {})
        return {key: value for key, value in (defaults | given).items() if key not in _OWN}


def source_of(name: str) -> Path:
    """The notebook of that name in the checkout."""
    return CHECKOUT / "notebooks" / f"{name}.ipynb"


def check_notebooks(recipe: Replication) -> None:
    """Raise a `ValueError` if the notebooks are not there, a name is unknown, or a notebook lacks a parameter."""
    if not (CHECKOUT / "_config.yml").is_file() or not all(source_of(name).is_file() for name in NOTEBOOKS):
        raise ValueError(
            f"{CHECKOUT} has no notebooks and no book, which an installed package lacks; clone the repository and run "
            "`make replicate` there"
        )
    wrong = [name for name in (*recipe.notebooks, *recipe.parameters) if name not in NOTEBOOKS]
    missing = [name for name in NEEDED if name not in recipe.notebooks]
    if wrong or missing:
        what = f"has no {wrong[0]!r}" if wrong else f"needs {missing[0]!r}, whose tables stand beside the post's"
        raise ValueError(f"notebooks {shown(recipe.notebooks)} {what}; there are {', '.join(NOTEBOOKS)}")
    for name, given in recipe.parameters.items():
        known = set(papermill.inspect_notebook(source_of(name))) - _OWN
        unknown = sorted(set(given) - known)
        if unknown:
            raise ValueError(f"notebook {name} has no parameter {unknown[0]!r} to set; it has {', '.join(sorted(known))}")
        try:
            check_parameters(recipe.parameters_of(name))
        except ValueError as error:
            raise ValueError(f"notebook {name}: {error}") from error


def read_parameters(path: Path | None) -> dict[str, dict[str, Any]]:
    """Notebook -> parameters that differ, from a YAML file.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is no mapping of mappings.
    """
    found = {} if path is None else read_yaml(path)
    for name, given in found.items():
        if not isinstance(given, dict):
            raise ValueError(f"{path}: {name}: {shown(given)} must be a mapping of parameters, such as 'n_prompts: 5'")
    return found
