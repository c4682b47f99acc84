"""The tables of the results page: what `studies` measures, formatted for reading."""

from itertools import combinations

import pandas as pd

from crosscoder_utils.analysis.metrics import summarize
from crosscoder_utils.analysis.statistics import (
    RATES,
    Difference,
    crossed_difference,
    paired_difference,
    rates_in,
    sensitivity,
    stretch_around_best,
)
from crosscoder_utils.io.checked_tables import checked_table
from crosscoder_utils.io.validation import finite_number


def best_in_words(best: pd.DataFrame) -> pd.DataFrame:
    """For each role and method: the best setting, and mean and standard error of the cross-entropy on both splits.

    Args:
        best: From `studies.best_by_method`.

    Returns:
        `feature` (its role), `best setting`, `selection`, `held out`, and `stories` and `fluent stories` (where `best` has
        them), shares of held-out completions.
    """
    numbers = ["mean", "standard_error", "held_out_mean", "held_out_error", "held_out_stories"]
    best = checked_table("best", best, ["role", "label", *numbers], numbers=[*numbers, "held_out_fluent_stories"])
    shares = {share.replace("_", " "): best[f"held_out_{share}"] for share in RATES if f"held_out_{share}" in best}
    return pd.DataFrame(
        {
            "feature": best["role"],
            "best setting": best["label"],
            "selection": [_with_error(mean, error) for mean, error in zip(best["mean"], best["standard_error"])],
            "held out": [_with_error(mean, error) for mean, error in zip(best["held_out_mean"], best["held_out_error"])],
        }
        | {name: [f"{share:.0%}" for share in own] for name, own in shares.items()}
    )


def method_differences(table: pd.DataFrame, best: pd.DataFrame) -> pd.DataFrame:
    """Paired differences in cross-entropy between the methods' best settings, with 95 % intervals, on both splits.

    Args:
        table: From `studies.ablation_experiment`.
        best: From `studies.best_by_method`.
    """
    rows = []
    table = checked_table("table", table, ["split", "setting", "prompt_index", "cross_entropy"])
    best = checked_table("best", best, ["role", "method", "setting"])
    for role, own in best.groupby("role", sort=False):
        for (a, first), (b, second) in combinations(zip(own["method"], own["setting"]), 2):
            splits = {name: paired_difference(prompts, first, second) for name, prompts in table.groupby("split", sort=False)}
            rows.append({"feature": role, "difference": f"{a} minus {b}"} | {name: f"{d:.3f}" for name, d in splits.items()})
    return pd.DataFrame(rows)


def sensitivities(table: pd.DataFrame, limit: float, tolerance: float = 0.3) -> pd.DataFrame:
    """For each method and hook point: the strength from which it works, and over how many doublings it goes on working.

    A strength works if its mean cross-entropy is within `tolerance` of the best mean of that method and hook point.

    Args:
        table: From `studies.ablation_experiment`.
        limit: Cross-entropy; methods whose best mean is not below it are left out, since they work at no strength.
        tolerance: In nats per token.

    Returns:
        `feature` (its role); `method`, with its hook point; `best`, the lowest mean; `from`, the smallest strength of the
        stretch around the best one, and `relative edit norm` there; `doublings` as in `statistics.sensitivity`, with a plus if
        the stretch reaches an end of the grid, so that the number is a lower bound.
    """
    rows, numbers = [], ["strength", "cross_entropy", "relative_edit_norm"]
    limit, tolerance = finite_number("limit", limit), finite_number("tolerance", tolerance, 0)
    table = checked_table("table", table, ["ablated", "role", "method", *numbers[:2]], ["point", "relative_edit_norm"], numbers)
    own = table[(table["ablated"] == "feature") & (table["strength"] > 0) & table["cross_entropy"].notna()]
    own = own.assign(method=methods_with_points(own))
    for (role, method), settings in own.groupby(["role", "method"], sort=False):
        summary = summarize(settings, ["strength"]).sort_values("strength")
        strengths, means = summary["strength"].to_numpy(), summary["mean"].to_numpy()
        if means.min() >= limit:
            continue
        first, last = stretch_around_best(means, tolerance)
        at_end = first == 0 or last == len(means) - 1
        rows.append(
            {
                "feature": role,
                "method": method,
                "best": means.min(),
                "from": strengths[first],
                "relative edit norm": settings.loc[settings["strength"] == strengths[first], "relative_edit_norm"].mean(),
                "doublings": f"{sensitivity(summary, tolerance):.1f}{'+' if at_end else ''}",
            }
        )
    return pd.DataFrame(rows)


def control_margins(draws: pd.DataFrame) -> pd.DataFrame:
    """For each setting and control: the control's share of stories, and the *margins*, feature minus mean control.

    Args:
        draws: From `studies.control_draws`.

    Returns:
        `feature` (role and method) and `control`; `stories`, the feature's share; `control's stories`, the mean share over
        draws with the lowest and the highest; the margins in stories (percentage points) and in cross-entropy (nats per
        token), with 95 % intervals over prompts and draws; `relative edit norm` of the control. Where the draws have
        `is_fluent_story`, there are the same of fluent stories.
    """
    rows, numbers = [], ["is_story", "cross_entropy", "relative_edit_norm"]
    needed = ["role", "method", "ablated", "draw", "prompt_index", *numbers[:2]]
    draws = checked_table("draws", draws, needed, ["relative_edit_norm"], [*numbers, "is_fluent_story"])
    rates = {column: share.replace("_", " ") for share, column in rates_in(draws).items()}
    for (role, method), own in draws.groupby(["role", "method"], sort=False):
        feature = own[own["ablated"] == "feature"].set_index("prompt_index")
        for ablated, control in own[own["ablated"] != "feature"].groupby("ablated", sort=False):
            drawn = {
                value: control.pivot_table(index="draw", columns="prompt_index", values=value, aggfunc="mean").astype(float)
                for value in [*rates, "cross_entropy"]
            }
            if not feature.index.is_unique or not set(drawn["is_story"].columns) <= set(feature.index):
                raise ValueError(
                    f"draws need one row of the feature itself for each prompt of {role}, {method}; give one setting for each "
                    "role and method to control_draws"
                )
            row = {"feature": f"{role}, {method}", "control": ablated}
            for column, name in rates.items():
                shares = drawn[column].mean(axis=1)
                row[name] = f"{feature[column].mean():.0%}"
                row[f"control's {name}"] = f"{shares.mean():.0%} ({shares.min():.0%} to {shares.max():.0%})"
                row[f"margin ({name})"] = f"{_margin(100 * drawn[column], 100 * feature[column]):.0f}"
            row["margin (nats)"] = f"{_margin(drawn['cross_entropy'], feature['cross_entropy']):.2f}"
            rows.append(row | {"relative edit norm": control["relative_edit_norm"].mean()})
    return pd.DataFrame(rows)


def methods_with_points(table: pd.DataFrame) -> list[str]:
    """Each row's method and, if it has one, its hook point: "single layer, point 1". Rows without intervention: "untouched"."""
    table = checked_table("table", table, filled=["method", "point"], numbers=["point"])
    return [
        "untouched" if pd.isna(method) else method if pd.isna(point) else f"{method}, point {point:g}"
        for method, point in zip(table["method"], table["point"])
    ]


def _margin(control: pd.DataFrame, feature: pd.Series) -> Difference:
    """Feature minus control, with an interval over the control's draws and the prompts at once."""
    return crossed_difference(-control.to_numpy(), -feature.loc[control.columns].to_numpy(float))


def _with_error(mean: float, error: float) -> str:
    return f"{mean:.2f}\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{error:.2f}"
