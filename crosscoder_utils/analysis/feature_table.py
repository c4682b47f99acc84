"""One table of all features: where they are active, and what ablating them does."""

from typing import Any

import pandas as pd

from crosscoder_utils.analysis.discovery import activation_statistics, conditions, ranked_features
from crosscoder_utils.analysis.encoded_texts import EncodedText
from crosscoder_utils.analysis.mediation import last_token_statistics
from crosscoder_utils.analysis.screen import screen
from crosscoder_utils.io.validation import flag, whole_number
from crosscoder_utils.loading import Setup
from crosscoder_utils.methods import ManyLayers, Method


def feature_table(
    setup: Setup,
    n: int = 200,
    causal: bool = False,
    n_prompts: int = 4,
    method: Method | None = None,
    encoded: dict[str, list[EncodedText]] | None = None,
    progress: bool = False,
    **screen_settings: Any,
) -> pd.DataFrame:
    """All features, by how much more active the deployment tag makes them where the completion begins.

    Everything is measured on training texts.

    Args:
        setup: From `load`; the preset must have data and a story marker.
        n: Number of texts of each kind that activations are measured on.
        causal: Whether to ablate every feature as well; a few seconds for the embedded models.
        n_prompts: Number of deployment prompts for this.
        method: How to ablate; by default `ManyLayers(1.0)`, which subtracts a feature's decoder terms exactly.
        encoded: What `conditions(setup, n)` returned, if that was called already.
        progress: Whether to show a progress bar.
        **screen_settings: Further arguments of `screen`.

    Returns:
        One row per feature, largest `last token difference` first: `feature`, the columns of `last_token_statistics`,
        `difference` (mean activation in deployment texts minus ordinary ones), the columns of `activation_statistics`, and, if
        `causal`, those of `screen` but `fires` and `last_token`.

    Example:
        >>> feature_table(setup, causal=True).head(10)
    """
    n, n_prompts, causal = whole_number("n", n, 1), whole_number("n_prompts", n_prompts, 1), flag("causal", causal)
    if not causal and (screen_settings or method is not None):
        names = ", ".join(["method"] * (method is not None) + list(screen_settings))
        raise ValueError(f"{names} is for the screen; give causal=True, or leave it out")
    if taken := {"action", "features", "strengths"} & set(screen_settings):
        raise ValueError(f"{min(taken)}= changes what a row is: every feature, ablated; call screen itself")
    table = activation_statistics(conditions(setup, n) if encoded is None else encoded)
    table = last_token_statistics(setup, n).join(ranked_features(table).set_index("feature"))
    if causal:
        prompts = setup.prompts(n_prompts, deployment=True, split="train")
        effects = screen(setup, prompts, method or ManyLayers(1.0), progress=progress, **screen_settings)
        table = table.join(effects.set_index("feature").drop(columns=["fires", "last_token"]))
    return table.sort_values("last token difference", ascending=False, kind="stable").reset_index()
