"""Comparing the settings of a sweep: best ones, paired differences with intervals, sensitivity.

Every setting saw the same prompts, so settings are compared prompt by prompt; the standard errors of two means overstate the
uncertainty of their difference.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from crosscoder_utils.evaluation import summarize


def best_settings(table: pd.DataFrame, by: Sequence[str], value: str = "cross_entropy") -> pd.DataFrame:
    """For each group of equal `by`, the line of `summarize` of its setting with the lowest mean of `value`."""
    summary = summarize(table, [*by, "setting"], value)
    return summary.loc[summary.groupby(list(by), dropna=False, sort=False)["mean"].idxmin()].reset_index(drop=True)


class Difference(NamedTuple):
    """A mean paired difference and its 95 % interval.

    Attributes:
        mean: Over the pairs.
        low: 2.5th percentile of bootstrapped means.
        high: 97.5th percentile.
        n: Number of pairs.
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

    Raises:
        ValueError: If the settings were not tried on the same prompts.
    """
    first, second = (table[table["setting"] == one].set_index("prompt_index")[value].sort_index() for one in (a, b))
    if not first.index.equals(second.index) or not len(first):
        raise ValueError(
            f"settings {a} and {b} have {len(first)} and {len(second)} prompts that are not the same; sweep both on all"
        )
    pairs = (first - second).to_numpy(float)
    drawn = np.random.default_rng(seed).integers(len(pairs), size=(resamples, len(pairs)))
    low, high = np.quantile(pairs[drawn].mean(1), [0.025, 0.975])
    return Difference(float(pairs.mean()), float(low), float(high), len(pairs))


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
    position, excess = np.log2(curve[x].to_numpy(float)), curve["mean"].to_numpy(float) - curve["mean"].min() - tolerance
    best = int(np.argmin(excess))
    ends = []
    for step in (-1, 1):
        at = best
        while 0 <= at + step < len(excess) and excess[at + step] <= 0:
            at += step
        end = position[at]
        if 0 <= at + step < len(excess):  # crossed the tolerance between two values
            end += (position[at + step] - end) * excess[at] / (excess[at] - excess[at + step])
        ends.append(end)
    return float(ends[1] - ends[0])


def like_feature(firing_rate: np.ndarray, feature: int, exclude: Sequence[int] = (), seed: int = 0) -> int:
    """A random live feature that fires about as often as `feature`: a control.

    It is drawn from the 20 whose firing rates are nearest; arguments and errors are those of `like_in_rate`, and the seed of
    the draw.
    """
    return int(np.random.default_rng(seed).choice(like_in_rate(firing_rate, feature, exclude)[:20]))


def like_in_rate(firing_rate: np.ndarray, feature: int, exclude: Sequence[int] = ()) -> np.ndarray:
    """The other live features, those first whose firing rates are nearest on a logarithmic scale.

    Args:
        firing_rate: Share of tokens on which each feature fires, such as from `reconstruction`.
        feature: The feature to be like; it is left out itself.
        exclude: Features that are no controls, such as those of the other roles.

    Raises:
        ValueError: If no other feature fires.
    """
    candidates = np.setdiff1d(np.flatnonzero(firing_rate > 0), [feature, *exclude])
    if not len(candidates) or firing_rate[feature] == 0:
        raise ValueError(
            f"feature {feature} fires on {firing_rate[feature]:.2%} of tokens, {len(candidates)} others fire; give more texts"
        )
    distance = np.abs(np.log(firing_rate[candidates]) - np.log(firing_rate[feature]))
    return candidates[np.argsort(distance, kind="stable")]
