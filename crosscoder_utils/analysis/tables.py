"""The tables that a page of results consists of: what `experiments` has measured, formatted to be read."""

from itertools import combinations

import pandas as pd

from crosscoder_utils.analysis.metrics import summarize
from crosscoder_utils.analysis.statistics import crossed_difference, paired_difference, sensitivity, stretch_around_best


def best_in_words(best: pd.DataFrame) -> pd.DataFrame:
    """Per role and method: its best setting, and mean and standard error on both sets of prompts.

    Args:
        best: From `experiments.best_by_method`.
    """
    return pd.DataFrame(
        {
            "feature": best["role"],
            "method": best["method"],
            "best setting": [_parameters(row) for _, row in best.iterrows()],
            "chosen on": [_with_error(mean, error) for mean, error in zip(best["mean"], best["standard_error"])],
            "held out": [_with_error(mean, error) for mean, error in zip(best["held_out_mean"], best["held_out_error"])],
            "stories": [f"{share:.0%}" for share in best["stories"]],
        }
    )


def method_differences(table: pd.DataFrame, best: pd.DataFrame) -> pd.DataFrame:
    """Paired differences of the methods' best settings, with 95 % intervals, on both sets of prompts.

    Args:
        table: From `experiments.ablation_experiment`.
        best: From `experiments.best_by_method`.
    """
    rows = []
    for role, own in best.groupby("role", sort=False):
        for (a, first), (b, second) in combinations(zip(own["method"], own["setting"]), 2):
            of_sets = {name: paired_difference(prompts, first, second) for name, prompts in table.groupby("set", sort=False)}
            rows.append({"feature": role, "difference": f"{a} minus {b}"} | {name: f"{d:.3f}" for name, d in of_sets.items()})
    return pd.DataFrame(rows)


def sensitivities(table: pd.DataFrame, limit: float, tolerance: float = 0.3) -> pd.DataFrame:
    """Where each method begins to work at each hook point, and over how many doublings of its strength it goes on doing so.

    Args:
        table: From `experiments.ablation_experiment`.
        limit: Cross-entropy; methods whose best mean is above it are left out, since what never works is never sensitive.
        tolerance: What counts as working: a mean within so many nats of the method's best there.

    Returns:
        `from`, the smallest strength of the grid in the stretch around the best one, and `edit share` there, the mean largest
        edit as a share of the stream; `doublings`, see `comparisons.sensitivity`, with a plus if the stretch reaches an end
        of the grid, so that the number is a lower bound.
    """
    rows = []
    own = table[table["target"] == "feature"]
    for (role, method, point), settings in own.groupby(["role", "method", "point"], dropna=False, sort=False):
        x = _hyperparameter(method)
        summary = summarize(settings, [x]).sort_values(x)
        strengths, means = summary[x].to_numpy(), summary["mean"].to_numpy()
        if means.min() >= limit:
            continue
        first, last = stretch_around_best(means, tolerance)
        at_end = first == 0 or last == len(means) - 1
        rows.append(
            {
                "feature": role,
                "method": method if pd.isna(point) else f"{method}, point {point:g}",
                "best": means.min(),
                "from": f"{x} {strengths[first]:g}",
                "edit share": settings.loc[settings[x] == strengths[first], "relative_edit_norm"].mean(),
                "doublings": f"{sensitivity(summary, x, tolerance):.1f}{'+' if at_end else ''}",
            }
        )
    return pd.DataFrame(rows)


def control_margins(draws: pd.DataFrame) -> pd.DataFrame:
    """Per setting and control: how many stories they give, and the *margins*, feature minus the mean control.

    Args:
        draws: From `experiments.control_draws`.

    Returns:
        `edit share` of the control, the mean largest edit as a share of the stream; `stories`, the feature's share;
        `control's stories`, the mean over the draws, and the least and the most of any draw; the margins in stories (percentage
        points) and in cross-entropy (nats), with 95 % intervals over prompts and draws.
    """
    rows = []
    for (role, method), own in draws.groupby(["role", "method"], sort=False):
        feature = own[own["target"] == "feature"].set_index("prompt_index")
        for target, control in own[own["target"] != "feature"].groupby("target", sort=False):
            stories, losses = (
                control.pivot_table(index="draw", columns="prompt_index", values=value, aggfunc="mean").astype(float)
                for value in ("is_story", "cross_entropy")
            )
            shares = stories.mean(axis=1)
            margins = [
                crossed_difference(-values.to_numpy(), -scale * feature.loc[values.columns, name].to_numpy(float))
                for name, values, scale in (("is_story", 100 * stories, 100), ("cross_entropy", losses, 1))
            ]
            rows.append(
                {
                    "feature": f"{role}, {method}",
                    "control": target,
                    "edit share": control["relative_edit_norm"].mean(),
                    "stories": f"{feature['is_story'].mean():.0%}",
                    "control's stories": f"{shares.mean():.0%} ({shares.min():.0%} to {shares.max():.0%})",
                    "margin (stories)": f"{margins[0]:.0f}",
                    "margin (nats)": f"{margins[1]:.2f}",
                }
            )
    return pd.DataFrame(rows)


def _with_error(mean: float, error: float) -> str:
    return f"{mean:.2f}\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{error:.2f}"


def _hyperparameter(method: str) -> str:
    return "lr" if method == "perturbation" else "scale"


def _parameters(row: pd.Series) -> str:
    return ", ".join(f"{name} {row[name]:g}" for name in ("point", "scale", "lr") if pd.notna(row[name]))
