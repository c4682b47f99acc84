"""What `studies` measures, formatted for reading."""

from itertools import combinations

import pandas as pd

from crosscoder_utils.analysis.metrics import summarize
from crosscoder_utils.analysis.statistics import paired_difference, sensitivity, stretch_around_best
from crosscoder_utils.analysis.studies import CONTROLS
from crosscoder_utils.io.checked_tables import checked_table
from crosscoder_utils.io.validation import finite_number


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
        table: From `studies.ablation_experiment`, whose selection split is taken, or from `sweep`, with its columns.
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
    if "split" in table:  # held-out prompts saw the best settings only
        table = table[table["split"] == "selection"]
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


def off_against_stories(table: pd.DataFrame) -> pd.DataFrame:
    """Whether it is being off that brings stories: settings counted by where the feature ends.

    A setting leaves the feature *off* if its mean overshoot is above 0, and gives stories if half of its completions are.

    Args:
        table: From `studies.ablation_experiment`.

    Returns:
        One row per role: `off`, the number of the feature's own settings that turn it off; `off, few stories`, those of them
        that give no stories; `random, on`, the number of settings with random directions that leave it on; and `random, on,
        stories`, those of them that give stories.
    """
    table = checked_table("table", table, ["role", "ablated", "setting", "overshoot", "is_story"], [], ["overshoot"])
    means = table.groupby(["role", "ablated", "setting"], sort=False)[["overshoot", "is_story"]].mean().reset_index()
    off, stories = means["overshoot"] > 0, means["is_story"] >= 0.5
    own, random = means["ablated"] == "feature", means["ablated"] == "random direction"
    counted = {"off": own & off, "off, few stories": own & off & ~stories, "random, on": random & ~off}
    counted["random, on, stories"] = counted["random, on"] & stories
    return pd.DataFrame(counted).groupby(means["role"], sort=False).sum().reset_index()


def sweep_in_words(table: pd.DataFrame, best: pd.DataFrame, steps: pd.DataFrame) -> list[str]:
    """What an experiment shows, in Markdown: a paragraph for each role.

    Args:
        table: From `studies.ablation_experiment`.
        best: From `studies.best_by_method`.
        steps: From `studies.steps_experiment`.
    """
    table = checked_table("table", table, ["split", "role", "method", "ablated", "setting", "is_story"])
    best = checked_table("best", best, ["role", "method", "held_out_stories"])
    steps = checked_table("steps", steps, ["role", "steps", "is_story"], numbers=["steps"])
    selection = table[table["split"] == "selection"]
    off, said = off_against_stories(selection).set_index("role"), []
    for role, own in best.groupby("role", sort=False):
        settings = selection[selection["role"] == role].groupby(["ablated", "setting"])["is_story"].mean()
        highest, counted = settings.groupby("ablated").max(), off.loc[role]
        controls = [f"{kind}s on up to {highest[kind]:.0%}" for kind in CONTROLS if kind in highest]
        gradient = steps[steps["role"] == role].groupby("steps")["is_story"].mean()
        sentences = [
            f"**{role}.** On held-out prompts the best settings give stories on "
            + ", ".join(f"{share:.0%} ({method})" for method, share in zip(own["method"], own["held_out_stories"])),
            f"At any setting, {' and '.join(controls)}" if controls else "There were no controls",
            f"The feature is off on average in {counted['off']} settings, of which {counted['off, few stories']} give stories "
            "on less than half of the prompts",
            f"Random directions leave it on under {counted['random, on']} settings, of which {counted['random, on, stories']} "
            "give stories on half or more",
            f"With {gradient.index.min():g} to {gradient.index.max():g} gradient steps, stories come on "
            + " to ".join(dict.fromkeys(f"{share:.0%}" for share in (gradient.min(), gradient.max()))),
        ]
        said.append(". ".join(sentences) + ".")
    return said


def methods_with_points(table: pd.DataFrame) -> list[str]:
    """Each row's method and, if it has one, its hook point: "single layer, point 1". Rows without intervention: "untouched"."""
    table = checked_table("table", table, filled=["method", "point"], numbers=["point"])
    return [
        "untouched" if pd.isna(method) else method if pd.isna(point) else f"{method}, point {point:g}"
        for method, point in zip(table["method"], table["point"])
    ]
