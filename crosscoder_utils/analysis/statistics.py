"""Comparing the settings of a sweep: paired differences with intervals, sensitivity, controls.

Every setting saw the same prompts, so settings are compared prompt by prompt; the standard errors of two means overstate the
uncertainty of their difference.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int


class Difference(NamedTuple):
    """A mean paired difference and its 95 % interval.

    Attributes:
        mean: Over the pairs.
        low: 2.5th percentile of bootstrapped means.
        high: 97.5th percentile.
        n: Number of prompts.
    """

    mean: float
    low: float
    high: float
    n: int

    def __format__(self, spec: str) -> str:
        """Mean and interval, each by the format of a number, ".2f" by default: "+0.30 [-0.10, +0.71]"."""
        mean, low, high = (format(value, f"+{spec or '.2f'}") for value in self[:3])
        return f"{mean} [{low}, {high}]"


def paired_difference(
    table: pd.DataFrame, a: int, b: int, value: str = "cross_entropy", seed: int = 0, resamples: int = 10_000
) -> Difference:
    """Mean of `value` under setting `a` minus that under `b`, over the prompts, with a percentile bootstrap over prompts.

    Args:
        table: From `sweep`.
        a: Its `setting`.
        b: Another one.
        value: Column to compare.
        seed: Of the resampling.
        resamples: Number of bootstrapped means.

    Returns:
        With a single prompt there is no interval: its ends are NaN.

    Raises:
        ValueError: If the settings were not tried on the same prompts, or there are values that are no numbers.
    """
    first, second = (table[table["setting"] == one].set_index("prompt_index")[value].sort_index() for one in (a, b))
    if not first.index.equals(second.index) or not len(first):
        raise ValueError(
            f"settings {a} and {b} have {len(first)} and {len(second)} prompts that are not the same; sweep both on all"
        )
    return crossed_difference(first.to_numpy(float)[None], second.to_numpy(float), seed, resamples)


def crossed_difference(
    a: Float[np.ndarray, "draw prompt"], b: Float[np.ndarray, " prompt"], seed: int = 0, resamples: int = 10_000
) -> Difference:
    """Mean of `a` minus that of `b`, with a percentile bootstrap over prompts and over the draws of `a`, both at once.

    Both are chance: which prompts, and which random directions, say, stand for all. Of a single draw, only prompts are
    resampled. Errors and single prompts are as in `paired_difference`.
    """
    pairs = a - b
    if np.isnan(pairs).any():
        raise ValueError(
            f"{np.isnan(pairs).sum()} of {pairs.size} differences are no numbers; leave such rows out, or compare others"
        )
    generator = np.random.default_rng(seed)
    n_draws, n = pairs.shape
    low = high = float("nan")
    if n > 1:
        # How often each draw and each prompt comes in each resample, as shares.
        draws, prompts = (generator.multinomial(k, np.full(k, 1 / k), resamples) / k for k in (n_draws, n))
        low, high = np.quantile((draws @ pairs * prompts).sum(1), [0.025, 0.975])
    return Difference(float(pairs.mean()), float(low), float(high), n)


def sensitivity(summary: pd.DataFrame, x: str, tolerance: float = 0.3) -> float:
    """Over how many doublings of a hyperparameter the mean stays within `tolerance` of its best.

    The mean is taken to be linear in log2 of the hyperparameter between neighbouring values. Only the stretch around the
    best value counts; it ends where the grid ends, so that it is a lower bound if it reaches there.

    Args:
        summary: From `summarize`, one line per value of `x`.
        x: Column of the hyperparameter, above 0.
        tolerance: In units of the mean.

    Returns:
        Doublings; 0 for a single value.
    """
    curve = summary.sort_values(x)
    position, means = np.log2(curve[x].to_numpy(float)), curve["mean"].to_numpy(float)
    excess, ends = means - means.min() - tolerance, []
    for step, at in zip((-1, 1), stretch_around_best(means, tolerance)):
        end = position[at]
        if 0 <= at + step < len(excess):  # crossed the tolerance between two values
            end += (position[at + step] - end) * excess[at] / (excess[at] - excess[at + step])
        ends.append(end)
    return float(ends[1] - ends[0])


def stretch_around_best(means: Float[np.ndarray, " value"], tolerance: float) -> tuple[int, int]:
    """First and last position of the stretch around the smallest mean in which none is more than `tolerance` above it."""
    near = means - means.min() - tolerance <= 0
    first = last = int(means.argmin())
    while first > 0 and near[first - 1]:
        first -= 1
    while last < len(means) - 1 and near[last + 1]:
        last += 1
    return first, last


def like_feature(fires: Bool[np.ndarray, "token feature"], feature: int, exclude: Sequence[int] = (), seed: int = 0) -> int:
    """A random feature that fires about as often as `feature`: a control.

    It is drawn from the 20 first of `like_features`, with `seed`; arguments and errors are the same.
    """
    return int(np.random.default_rng(seed).choice(like_features(fires, feature, exclude)[:20]))


def like_features(
    fires: Bool[np.ndarray, "token feature"], feature: int, exclude: Sequence[int] = ()
) -> Int[np.ndarray, " feature"]:
    """The other features, those first whose firing rates are nearest on a logarithmic scale.

    Left out are those that fire on no token, and those that fire on much the same tokens as `feature` (more than half of
    the tokens on which either fires): they may be about the same thing, and then are no control.

    Args:
        fires: Which features fire on which tokens, of the texts that are intervened on.
        feature: The feature to be like; it is left out itself.
        exclude: Features that are no controls, such as those of the other roles.

    Raises:
        ValueError: If no other feature is left.
    """
    counts, own = fires.sum(0), fires[:, feature]
    both = fires[own].sum(0)
    apart = both <= 0.5 * (counts + own.sum() - both)
    candidates = np.setdiff1d(np.flatnonzero((counts > 0) & apart), [feature, *exclude])
    if not len(candidates) or not own.any():
        raise ValueError(
            f"feature {feature} fires on {own.sum()} of {len(own)} tokens of such texts, {len(candidates)} others on others; "
            "where one never fires there is nothing to ablate: choose one that does, such as from the ranking of notebook 02"
        )
    distance = np.abs(np.log(counts[candidates]) - np.log(counts[feature]))
    return candidates[np.argsort(distance, kind="stable")]
