"""Controls for an intervention on a feature: other features that fire about as often, and random directions."""

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Int

from crosscoder_utils.analysis.argument_checks import checked_feature, readable
from crosscoder_utils.analysis.encoded_texts import encode_texts
from crosscoder_utils.interventions import Intervention
from crosscoder_utils.io.validation import whole_number, whole_numbers
from crosscoder_utils.loading import Setup

N_NEAREST = 20
"""How many of the nearest features a random control is drawn from."""


def frequency_matched_feature(
    fires: Bool[np.ndarray, "token feature"], feature: int, exclude: Sequence[int] = (), seed: int = 0
) -> int:
    """A random feature that fires about as often as `feature`.

    It is drawn from the first 20 of `frequency_matched_features`, which also describes the arguments and errors.
    """
    seed = whole_number("seed", seed)
    return int(np.random.default_rng(seed).choice(frequency_matched_features(fires, feature, exclude)[:N_NEAREST]))


def frequency_matched_features(
    fires: Bool[np.ndarray, "token feature"], feature: int, exclude: Sequence[int] = ()
) -> Int[np.ndarray, " matched"]:
    """All features that can serve as a control for `feature`, sorted by how near their firing rates are (log scale).

    Features that never fire are left out. So are features that fire on mostly the same tokens as `feature` (Jaccard index
    above 0.5): they may represent the same thing, so ablating them would be no control.

    Args:
        fires: Whether each feature fires on each token of the texts that are intervened on.
        feature: The feature to match; never among the results.
        exclude: Other features to leave out, such as those of the other roles.

    Raises:
        ValueError: If `feature` never fires, or no other feature is left.
    """
    fires = np.asarray(fires)
    if fires.ndim != 2 or not fires.size or fires.dtype != bool:
        raise ValueError(f"fires has shape {fires.shape} and type {fires.dtype}; give [token, feature] of True and False")
    feature, exclude = checked_feature(feature, fires.shape[1]), whole_numbers("exclude", exclude)
    counts, own = fires.sum(0), fires[:, feature]
    both = fires[own].sum(0)
    distinct = both <= 0.5 * (counts + own.sum() - both)
    candidates = np.setdiff1d(np.flatnonzero((counts > 0) & distinct), [feature, *exclude])
    if not own.any():
        raise ValueError(
            f"feature {feature} fires on 0 of {len(own)} tokens of these texts, so there is nothing to ablate; choose a "
            "feature that fires, such as one from the ranking of notebook 02"
        )
    if not len(candidates):
        raise ValueError(
            f"feature {feature} has no control: none of the other features fires on other tokens of these texts "
            f"({len(own)} tokens); give more texts, or ablate without controls"
        )
    distance = np.abs(np.log(counts[candidates]) - np.log(counts[feature]))
    return candidates[np.argsort(distance, kind="stable")]


def firing_tokens(setup: Setup, n: int) -> list[Bool[np.ndarray, "_ feature"]]:
    """Which features fire on which tokens of `n` training prompts with the tag, and of the same prompts with the phrase."""
    kinds = [setup.prompts(n, deployment=True, split="train"), setup.examples(n, deployment=True, split="train")]
    encoded = [encode_texts(setup, readable(setup, own)) for own in kinds]
    return [torch.cat([text.activations > 0 for text in own]).numpy() for own in encoded]


def relevant_tokens(fires: Sequence[Bool[np.ndarray, "_ feature"]], feature: int) -> Bool[np.ndarray, "_ feature"]:
    """The tokens of the prompts; if `feature` fires on the phrase only, those of the prompts with the phrase."""
    prompts, with_phrase = fires
    return prompts if prompts[:, feature].any() else with_phrase


def random_directions(intervention: Intervention, n: int) -> list[Intervention]:
    """The same along random directions of the same norms, with seeds 0, 1, ...

    Raises:
        ValueError: If the method, one of a user's own, has no parameter `random`.
    """
    method = intervention.method
    if n and not (is_dataclass(method) and "random" in {field.name for field in fields(method)}):
        raise ValueError(f"method {method.name!r} has no parameter `random` for random directions; give n_random=0")
    return [replace(intervention, method=replace(method, random=seed)) for seed in range(n)]
