"""The tables that a page of results consists of: what `experiments` has measured, formatted to be read."""

from itertools import combinations

import pandas as pd

from crosscoder_utils.comparisons import paired_difference, sensitivity
from crosscoder_utils.evaluation import summarize


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
            "chosen on": [f"{mean:.2f} ± {error:.2f}" for mean, error in zip(best["mean"], best["standard_error"])],
            "held out": [f"{mean:.2f} ± {error:.2f}" for mean, error in zip(best["held_out_mean"], best["held_out_error"])],
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


def sensitivities(table: pd.DataFrame, limit: float) -> pd.DataFrame:
    """Over how many doublings of its hyperparameter each method stays within 0.3 nats of its best, at each hook point.

    A plus says that the stretch reaches the end of the grid, so that the number is a lower bound.

    Args:
        table: From `experiments.ablation_experiment`.
        limit: Cross-entropy; methods whose best mean is above it are left out, since what never works is never sensitive.
    """
    rows = []
    own = table[table["target"] == "feature"]
    for (role, method, point), settings in own.groupby(["role", "method", "point"], dropna=False, sort=False):
        x = _hyperparameter(method)
        summary = summarize(settings, [x]).sort_values(x)
        means = summary["mean"].to_numpy()
        if means.min() < limit:
            near, best = means <= means.min() + 0.3, means.argmin()
            at_end = near[: best + 1].all() or near[best:].all()
            doublings = f"{sensitivity(summary, x):.1f}{'+' if at_end else ''}"
            rows.append({"feature": role, "method": _place(method, point), "best": means.min(), "doublings": doublings})
    return pd.DataFrame(rows)


def control_margins(draws: pd.DataFrame) -> pd.DataFrame:
    """Per role and method: share of stories and, for each control, its mean over the draws (the least and the most of any
    draw) and the *margin*, the mean control's cross-entropy minus the feature's, paired over the prompts.

    Args:
        draws: From `experiments.control_draws`.
    """
    rows = []
    for (role, method), own in draws.groupby(["role", "method"], sort=False):
        shares = own.groupby(["target", "draw"], sort=False)["is_story"].mean()
        means = own.groupby(["target", "prompt_index"], sort=False)["cross_entropy"].mean()
        means = means.rename_axis(["setting", "prompt_index"]).reset_index()
        line = {"feature": role, "method": method, "stories": f"{shares['feature'].mean():.0%}"}
        for target in shares.index.unique("target").drop("feature"):
            of_draws = shares[target]
            line[f"stories, {target}"] = f"{of_draws.mean():.0%} ({of_draws.min():.0%} to {of_draws.max():.0%})"
            line[f"margin, {target}"] = f"{paired_difference(means, target, 'feature'):.2f}"
        rows.append(line)
    return pd.DataFrame(rows)


def stories_by_strength(table: pd.DataFrame, role: str, target: str) -> pd.DataFrame:
    """Share of stories at every strength, for the feature of `role` and for a control: where does either begin to work?

    Methods and hook points at which neither reaches half are left out, as are strengths at which neither gives any.

    Args:
        table: From `experiments.ablation_experiment`.
        role: Whose feature.
        target: The control, one of `experiments.TARGETS`.
    """
    rows = []
    own = table[(table["role"] == role) & table["target"].isin(["feature", target])]
    for (method, point), settings in own.groupby(["method", "point"], dropna=False, sort=False):
        x = _hyperparameter(method)
        shares = settings.pivot_table(index=x, columns="target", values="is_story", aggfunc="mean").astype(float)
        if shares.to_numpy().max() >= 0.5:
            shown = [
                f"{value:g}: {feature:.0%} / {control:.0%}"
                for value, feature, control in zip(shares.index, shares["feature"], shares[target])
                if max(feature, control) > 0
            ]
            rows.append({"method": _place(method, point), f"stories: feature / {target}": f"{x} {', '.join(shown)}"})
    return pd.DataFrame(rows)


def _hyperparameter(method: str) -> str:
    return "lr" if method == "perturbation" else "scale"


def _place(method: str, point: float) -> str:
    return method if pd.isna(point) else f"{method}, point {point:g}"


def _parameters(row: pd.Series) -> str:
    return ", ".join(f"{name} {row[name]:g}" for name in ("point", "scale", "lr") if pd.notna(row[name]))
