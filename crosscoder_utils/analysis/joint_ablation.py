"""Features that share tokens, ablated together; and a baseline: an edit of the same size that only shrinks the embedding."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from crosscoder_utils.analysis.argument_checks import checked_feature, checked_setup
from crosscoder_utils.analysis.encoded_texts import encode_texts
from crosscoder_utils.analysis.feature_cards import feature_card
from crosscoder_utils.analysis.sweeps import sweep
from crosscoder_utils.hooks import residual_hooks
from crosscoder_utils.interventions import Ablate
from crosscoder_utils.io.tokens import padded
from crosscoder_utils.io.torch_defaults import own_settings
from crosscoder_utils.io.validation import Progress, Texts, several, texts
from crosscoder_utils.loading import Setup
from crosscoder_utils.methods import ManyLayers, SingleLayer

N_TEXTS = 50
"""Training texts of each kind on which a feature's companions are looked for."""


def joint_ablation(
    setup: Setup,
    feature: int,
    folder: str | Path,
    n_prompts: int = 20,
    max_new_tokens: int = 80,
    seed: int = 0,
    progress: Progress = False,
) -> pd.DataFrame:
    """Ablate a feature together with those that most share its tokens (`co_firing`), exactly, on deployment prompts.

    Args:
        setup: From `load`; the preset must have data.
        feature: The first of them.
        folder: Folder of the stored rows, as for `sweep`.
        n_prompts: Number of prompts.
        max_new_tokens: As for `generate`.
        seed: As for `generate`.
        progress: As for `sweep`.

    Returns:
        The columns of `sweep`, for scale 1 at each hook point, scales of 1 / hook points, 0.5 and 1 at all of them, and three
        random directions of the same norms at the first; and `features`, a tuple of what was ablated.
    """
    texts = [text for deployment in (True, False) for text in setup.examples(N_TEXTS, deployment, split="train")]
    card = feature_card(setup, encode_texts(setup, texts), feature)
    together = (card.feature, *(int(one) for one in card.co_firing["feature"]))
    methods = [SingleLayer(point) for point in range(setup.n_points)] + [ManyLayers(), ManyLayers(0.5), ManyLayers(1.0)]
    ablations = [Ablate(together, method) for method in [*methods, *(SingleLayer(0, random=draw) for draw in range(3))]]
    prompts = setup.prompts(n_prompts, deployment=True)
    table = sweep(setup, prompts, ablations, max_new_tokens, seed, progress=progress, folder=folder)
    return table.assign(features=[together] * len(table))


@own_settings
@torch.no_grad()
def shrinking_baseline(setup: Setup, features: int | Sequence[int], prompts: Texts) -> pd.DataFrame:
    """Subtract features' decoder terms at the first hook point, and, token by token, as much of the residual stream itself.

    Args:
        setup: From `load`.
        features: One or several, which are subtracted together.
        prompts: One or several.

    Returns:
        One row per prompt: `untouched`, `features` and `shrinking`, the first token of the greedy completion; and `cosine` of
        the two edits, the mean over the tokens on which a feature fires (NaN if there are none).
    """
    n_features = checked_setup(setup).crosscoder.n_features
    given = features if isinstance(features, list | tuple) else [features]
    features = [checked_feature(one, n_features) for one in several("features", given)]
    rows = []
    for prompt in texts("prompts", prompts):
        batch = padded([setup.token_ids(prompt)], setup.tokenizer, setup.preset.prepend_bos, setup.device)
        untouched, residuals = _first_token(setup, batch.tokens, None)
        fires = setup.crosscoder.encode(torch.stack(residuals, dim=-2), features) * batch.content[..., None]
        terms = -fires @ setup.crosscoder.W_dec[features, 0]
        size, stream = terms.norm(dim=-1, keepdim=True), residuals[0]
        shrinking = -stream * size / stream.norm(dim=-1, keepdim=True)
        edited = size[..., 0] > 0
        tokens = {
            name: _first_token(setup, batch.tokens, edit)[0] for name, edit in (("features", terms), ("shrinking", shrinking))
        }
        cosine = torch.cosine_similarity(terms[edited], shrinking[edited], dim=-1).mean().item()
        rows.append({"untouched": untouched} | tokens | {"cosine": cosine})
    return pd.DataFrame(rows)


def _first_token(
    setup: Setup, tokens: Int[Tensor, "row position"], edit: Float[Tensor, "row position d_model"] | None
) -> tuple[str, list[Tensor]]:
    """The most likely next token with an edit at the first hook point, and the residual stream at all of them."""
    with residual_hooks(setup.model, lambda point: edit if point == 0 else None, setup.hook_points) as residuals:
        logits = setup.model(tokens)
    return setup.tokenizer.decode(logits[0, -1].argmax()), residuals
