"""Statistics of a sweep: the best setting, paired differences with intervals, sensitivity to the hyperparameter.

All settings of a sweep see the same prompts, so settings are compared prompt by prompt. The standard errors of the two means
would overstate the uncertainty of their difference.
"""

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from crosscoder_utils.io.checked_tables import checked_table
from crosscoder_utils.io.error_messages import in_one_line, shown
from crosscoder_utils.io.validation import chosen, finite_number, plain, several, whole_number

NEEDED = ["setting", "n_tokens", "cross_entropy", "is_story", "says_phrase"]
"""Columns of a sweep that `best_settings` compares settings by."""
TOLERANCE = 0.05
"""Settings whose share of stories is so near the highest count as equally good; then the smallest edit decides."""
_NUMBERS = [*NEEDED[1:], "is_fluent_story", "strength", "relative_edit_norm", "failed"]
RATES = {"stories": "is_story", "fluent_stories": "is_fluent_story"}
"""Shares of stories, and the columns of a sweep that they are means of; see `score`."""


def rates_in(table: pd.DataFrame) -> dict[str, str]:
    """Those of `RATES` that a table has; rows that were stored by earlier versions do not know all of them."""
    return {share: column for share, column in RATES.items() if column in table and table[column].notna().all()}


def best_settings(
    table: pd.DataFrame, by: Sequence[str] = ("role", "method"), tolerance: float | None = None, rate: str = "stories"
) -> pd.DataFrame:
    """The best setting of each group of a sweep; every table, figure and notebook chooses by this rule.

    The best setting has the lowest mean cross-entropy. With a `tolerance` it is the *gentlest* good one: of the settings whose
    share of stories (`rate`) is within `tolerance` of the group's highest share, the one with the smallest mean relative edit
    norm. Settings under which more than half of the completions are empty are left out, because the score of an empty
    completion covers only the prompt; and so are settings with a row that failed, because the others say nothing about it.

    Args:
        table: From `sweep`, with the columns of `by`; rows without a method or a hook point need not have such a column.
        by: Columns that define the groups.
        tolerance: As a share of the prompts, such as 0.05.
        rate: With a tolerance, which share of stories counts: "stories", or "fluent_stories", which are below `FLUENT_LIMIT`.

    Returns:
        One row per group, in the order of the table: the columns of `by`; `setting`, `label` and `strength`; `mean` and
        `standard_error` of the cross-entropy over prompts; `stories`, `fluent_stories` (where the table has
        `is_fluent_story`) and `says_phrase`, shares of completions; and `relative_edit_norm`, the mean over prompts
        (NaN if the sweep did not record it).
    """
    by = [by] if isinstance(by, str) else several("by", by, "columns")
    tolerance = None if tolerance is None else finite_number("tolerance", tolerance, 0)
    rate = chosen("rate", rate, RATES)
    # A sweep in memory lacks columns that are empty in all of its rows.
    filled = [name for name in by if name in ("method", "point")] + ["label", "strength", "relative_edit_norm", "failed"]
    needed = list(dict.fromkeys([*(name for name in by if name not in filled), *NEEDED, RATES[rate]]))
    rows = checked_table("table", table, needed, filled, _NUMBERS)
    keys = list(dict.fromkeys([*by, "setting", "label", "strength"]))
    columns = {
        "mean": ("cross_entropy", "mean"),
        "standard_error": ("cross_entropy", "sem"),
        **{share: (column, "mean") for share, column in ({rate: RATES[rate]} | rates_in(rows)).items()},
        "says_phrase": ("says_phrase", "mean"),
        "relative_edit_norm": ("relative_edit_norm", "mean"),
        "empty": ("n_tokens", lambda n: (n == 0).mean()),
        "failed": ("failed", lambda failed: (failed.fillna(0) != 0).any()),
    }
    settings = rows.groupby(keys, dropna=False, sort=False).agg(**columns).reset_index()
    left_out = (settings.pop("empty") > 0.5) | settings.pop("failed").astype(bool)
    settings = settings[~left_out].astype({name: float for name in [*RATES, "says_phrase"] if name in settings})
    groups = [settings[name] for name in by]
    if tolerance is None:
        ranked = settings.sort_values("mean", kind="stable")
    else:
        most = settings.groupby(groups, dropna=False, sort=False)[rate].transform("max")
        good = settings[settings[rate] >= most - tolerance - 1e-9]
        ranked = good.sort_values("relative_edit_norm", kind="stable")
    return ranked.groupby(list(by), dropna=False, sort=False).head(1).sort_index().reset_index(drop=True)


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """95 % interval of a share, by Wilson's score (1927): it is never empty, not even for none or all of `n`."""
    z = 1.959964  # the normal distribution's 97.5th percentile
    n = whole_number("n", n, 1)
    share = whole_number("successes", successes, 0, n) / n
    centre, spread = share + z**2 / (2 * n), z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(0.0, (centre - spread) / (1 + z**2 / n)), min(1.0, (centre + spread) / (1 + z**2 / n))


class Difference(NamedTuple):
    """A mean paired difference and its 95 % interval.

    Attributes:
        mean: Mean over the pairs.
        low: 2.5th percentile of the bootstrapped means.
        high: 97.5th percentile of the bootstrapped means.
        n: Number of prompts.
    """

    mean: float
    low: float
    high: float
    n: int

    def __format__(self, spec: str) -> str:
        """Mean and interval, each formatted by `spec` (".2f" by default): "+0.30 [-0.10, +0.71]"."""
        mean, low, high = (format(value, f"+{spec or '.2f'}") for value in self[:3])
        return f"{mean} [{low}, {high}]"


def paired_difference(
    table: pd.DataFrame, a: int, b: int, value: str = "cross_entropy", seed: int = 0, resamples: int = 10_000
) -> Difference:
    """Mean over prompts of `value` under setting `a` minus setting `b`, with a percentile bootstrap over prompts.

    Args:
        table: From `sweep`.
        a: A value of the column `setting`.
        b: Another value of that column.
        value: Column to compare.
        seed: Seed of the resampling.
        resamples: Number of bootstrapped means.

    Returns:
        The difference; with a single prompt the ends of its interval are NaN.

    Raises:
        ValueError: If the two settings do not have the same prompts, or a value is missing.
    """
    for name, one in (("a", a), ("b", b)):
        if not isinstance(plain(one), (str, Real)):
            raise ValueError(f"{name}={shown(one)} must be a value of the column `setting`")
    table = checked_table("table", table, ["setting", "prompt_index", value], numbers=[value])
    first, second = (table[table["setting"] == one].set_index("prompt_index")[value].sort_index() for one in (a, b))
    if not first.index.equals(second.index) or not len(first):
        raise ValueError(
            f"settings {a} and {b} have {len(first)} and {len(second)} prompts that are not the same; sweep both on the same "
            "prompts"
        )
    return crossed_difference(first.to_numpy(float)[None], second.to_numpy(float), seed, resamples)


def crossed_difference(
    a: Float[np.ndarray, "draw prompt"], b: Float[np.ndarray, " prompt"], seed: int = 0, resamples: int = 10_000
) -> Difference:
    """Mean of `a` minus mean of `b`, with a percentile bootstrap over the prompts and the draws of `a` at once.

    Both are samples: of all prompts, and of all random directions, for example. With a single draw, only the prompts are
    resampled. Errors and single prompts are as in `paired_difference`.
    """
    a, b = (_numeric_array(name, values) for name, values in (("a", a), ("b", b)))
    if a.ndim != 2 or b.ndim != 1 or a.shape[1:] != b.shape or not a.size:
        raise ValueError(f"a has shape {a.shape} and b {b.shape}; give a [draw, prompt] and b [prompt], with the same prompts")
    seed, resamples = whole_number("seed", seed), whole_number("resamples", resamples, 1)
    pairs = a - b
    if np.isnan(pairs).any():
        raise ValueError(
            f"{np.isnan(pairs).sum()} of {pairs.size} differences are NaN; leave out rows without a value, or compare another "
            "column"
        )
    generator = np.random.default_rng(seed)
    n_draws, n = pairs.shape
    low = high = float("nan")
    if n > 1:
        # Weight of each draw and of each prompt in each resample.
        draws, prompts = (generator.multinomial(k, np.full(k, 1 / k), resamples) / k for k in (n_draws, n))
        low, high = np.quantile((draws @ pairs * prompts).sum(1), [0.025, 0.975])
    return Difference(float(pairs.mean()), float(low), float(high), n)


def sensitivity(summary: pd.DataFrame, tolerance: float = 0.3) -> float:
    """Number of doublings of the hyperparameter over which the mean stays within `tolerance` of its best value.

    Between neighbouring strengths the mean is interpolated linearly in log2(strength). Only the stretch around the best value
    counts. A stretch that reaches an end of the grid is cut off there, so the result is then a lower bound.

    Args:
        summary: From `summarize`, with one row per value of the column `strength`, all above 0.
        tolerance: In units of the mean.

    Returns:
        Doublings; 0 for a single value.
    """
    tolerance = finite_number("tolerance", tolerance, 0)
    summary = checked_table("summary", summary, ["strength", "mean"], numbers=["strength", "mean"])
    if not (summary["strength"] > 0).all() or not np.isfinite(summary[["strength", "mean"]]).all(axis=None):
        raise ValueError("summary needs strengths above 0 and means that are finite; leave out other rows")
    curve = summary.sort_values("strength")
    position, means = np.log2(curve["strength"].to_numpy(float)), curve["mean"].to_numpy(float)
    excess, ends = means - means.min() - tolerance, []
    for step, at in zip((-1, 1), stretch_around_best(means, tolerance)):
        end = position[at]
        if 0 <= at + step < len(excess):  # the mean crosses the tolerance between two strengths
            end += (position[at + step] - end) * excess[at] / (excess[at] - excess[at + step])
        ends.append(end)
    return float(ends[1] - ends[0])


def stretch_around_best(means: Float[np.ndarray, " value"], tolerance: float) -> tuple[int, int]:
    """First and last index of the contiguous stretch around the smallest mean with means at most `tolerance` above it."""
    near = means - means.min() - tolerance <= 0
    first = last = int(means.argmin())
    while first > 0 and near[first - 1]:
        first -= 1
    while last < len(means) - 1 and near[last + 1]:
        last += 1
    return first, last


def _numeric_array(name: str, values: Any) -> np.ndarray:
    try:
        return np.asarray(values, float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be an array of numbers ({in_one_line(error, 100)})") from None
