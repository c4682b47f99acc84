"""What every feature does on untouched prompts and completions, which are read and encoded once, in full."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float

from crosscoder_utils.analysis.sparse_activations import SparseActivations, encode_sparse
from crosscoder_utils.generation import Generation
from crosscoder_utils.hooks import read
from crosscoder_utils.io.tokens import padded
from crosscoder_utils.io.torch_defaults import own_settings
from crosscoder_utils.loading import Setup
from crosscoder_utils.prompts import TokenScope, as_scope

TEXTS_AT_ONCE = 16


@dataclass(frozen=True, eq=False)
class Firing:
    """Where features fire.

    Attributes:
        somewhere: Whether a feature fires on any token of the prompt and its completion, within the scope.
        share: Share of the scope's tokens, over all prompts and completions, on which it fires.
        last_token: Its activation on the last prompt token, averaged over prompts.
    """

    somewhere: Bool[np.ndarray, "prompt feature"]
    share: Float[np.ndarray, " feature"]
    last_token: Float[np.ndarray, " feature"]


@own_settings
def firing_of(setup: Setup, generations: Sequence[Generation], tokens: str | TokenScope) -> Firing:
    """Where features fire on untouched prompts and completions; see `Firing`."""
    ids = [setup.token_ids(g.prompt) + g.token_ids for g in generations]
    somewhere, counts, last, n_tokens = [], 0.0, 0.0, 0
    for g, activations in zip(generations, encoded(setup, ids), strict=True):
        first, stop = as_scope(tokens).bounds(g.prompt, setup.tokenizer)
        within = activations.of_tokens(slice(first, min(stop, activations.n_tokens)))
        somewhere.append((within.counts() > 0).cpu().numpy())
        counts, n_tokens = counts + within.counts().double(), n_tokens + within.n_tokens
        last = last + activations.of_tokens(slice(g.n_prompt_tokens - 1, g.n_prompt_tokens)).sums()
    return Firing(np.stack(somewhere), (counts / max(n_tokens, 1)).cpu().numpy(), (last / len(generations)).cpu().numpy())


@own_settings
def usual_activations(setup: Setup, ids: Sequence[Sequence[int]]) -> Float[np.ndarray, " feature"]:
    """Mean activation of each feature over the tokens on which it fires; 0 for a feature that never does."""
    total = count = 0.0
    for activations in encoded(setup, ids):
        total, count = total + activations.sums(), count + activations.counts()
    return (total / count.clamp(min=1)).cpu().numpy()


@torch.no_grad()
def encoded(setup: Setup, ids: Sequence[Sequence[int]]) -> Iterator[SparseActivations]:
    """Activations of all features on each text's tokens, BOS left out, one text at a time."""
    for begin in range(0, len(ids), TEXTS_AT_ONCE):
        batch = padded(ids[begin : begin + TEXTS_AT_ONCE], setup.tokenizer, setup.preset.prepend_bos, setup.device)
        residuals = read(setup.model, batch.tokens, hook_points=setup.hook_points).residuals
        for own, content in zip(residuals, batch.content, strict=True):
            yield encode_sparse(setup.crosscoder, own[content])
