"""The quantitative experiments of the book: every method over its grid, with controls, on a selection and a held-out split."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from crosscoder_utils.analysis.argument_checks import checked_features, checked_setup, readable
from crosscoder_utils.analysis.controls import (
    firing_tokens,
    frequency_matched_feature,
    relevant_tokens,
)
from crosscoder_utils.analysis.metrics import score, token_losses
from crosscoder_utils.analysis.statistics import NEEDED, best_settings, rates_in
from crosscoder_utils.analysis.sweeps import Workers, ablation_grid, sweep
from crosscoder_utils.generation import generate
from crosscoder_utils.interventions import Ablate
from crosscoder_utils.io.checked_tables import checked_table
from crosscoder_utils.io.files import check_writable
from crosscoder_utils.io.tokens import token_ids
from crosscoder_utils.io.validation import Progress, chosen, finite_number, mapped, texts, whole_number, whole_numbers
from crosscoder_utils.loading import Setup
from crosscoder_utils.methods import Perturbation
from crosscoder_utils.prompts import remove_tag

CONTROLS = ("frequency-matched feature", "random direction")
ABLATED = ("feature", *CONTROLS)
"""What is ablated: the feature, a random feature that fires about as often, or random directions of the same norms."""


def ablation_experiment(
    setup: Setup,
    features: Mapping[str, int],
    folder: str | Path,
    n_prompts: int = 20,
    n_held_out: int = 20,
    max_new_tokens: int = 80,
    seed: int = 0,
    progress: Progress = False,
    workers: Workers | None = None,
    ablated: Sequence[str] = ABLATED,
    tolerance: float | None = None,
    rate: str = "stories",
    **grid: Sequence[float] | int,
) -> pd.DataFrame:
    """Ablate features and their controls on deployment prompts.

    Settings are chosen on the first `n_prompts` prompts (the selection split). The held-out prompts, which follow them, only
    confirm the choice: on them, each feature's best setting of each method is run, and its controls. Rows are stored in
    `folder`, as by `sweep`.

    Args:
        setup: From `load`; the preset must have data.
        features: Role -> feature. No feature listed here serves as a control.
        folder: Folder of the stored rows.
        n_prompts: Number of prompts of the selection split.
        n_held_out: Number of held-out prompts.
        max_new_tokens: As for `generate`.
        seed: Seed of the sampling and of the controls.
        progress: As for `sweep`.
        workers: What computes the rows; by default, this process.
        ablated: Which of `ABLATED` to run.
        tolerance: Which setting is the best, as for `best_settings`.
        rate: As for `best_settings`.
        **grid: Arguments of `ablation_grid`.

    Returns:
        The columns of `sweep`; `role`; `ablated`, one of `ABLATED`; and `split`, "selection" or "held out".
    """
    features, folder = checked_features(setup, features), check_writable(folder)
    n_prompts, n_held_out = whole_number("n_prompts", n_prompts, 1), whole_number("n_held_out", n_held_out)
    ablated, seed = [chosen("ablated", one, ABLATED) for one in texts("ablated", ablated)], whole_number("seed", seed)
    if n_held_out and "feature" not in ablated:
        raise ValueError(f"n_held_out={n_held_out} prompts confirm the feature's best settings; ablate 'feature', or give 0")
    size = len(ablation_grid(0, setup.n_points, **grid))  # raises what is wrong with it
    prompts = setup.prompts(n_prompts + n_held_out, deployment=True)
    kinds = _what_is_ablated(setup, features, ablated, len(prompts), seed)
    interventions = [one for *_, given in kinds for one in ablation_grid(n_points=setup.n_points, **given, **grid)]

    def rows(split: str, first: int, prompts: Sequence[str], chosen: Sequence[int]) -> pd.DataFrame:
        own = [interventions[setting] for setting in chosen]
        table = sweep(setup, prompts, own, max_new_tokens, seed, "target", progress, folder, workers)
        table["setting"], table["prompt_index"] = [chosen[i] for i in table["setting"]], table["prompt_index"] + first
        table[["role", "ablated"]] = [kinds[setting // size][:2] for setting in table["setting"]]
        return table.assign(split=split)

    selection = rows("selection", 0, prompts[:n_prompts], range(len(interventions)))
    if not n_held_out:
        return selection
    best = best_settings(selection[selection["ablated"] == "feature"], ["role", "method"], tolerance, rate)
    best = {(role, setting % size) for role, setting in zip(best["role"], best["setting"])}
    confirmed = [i for i in range(len(interventions)) if (kinds[i // size][0], i % size) in best]
    if not confirmed:
        return selection  # every setting left the completions empty, or failed
    return pd.concat([selection, rows("held out", n_prompts, prompts[n_prompts:], confirmed)], ignore_index=True)


def _what_is_ablated(
    setup: Setup, features: Mapping[str, int], ablated: Sequence[str], n: int, seed: int
) -> list[tuple[str, str, dict]]:
    """Each role with each of `ablated`, and the arguments of `ablation_grid` for it."""
    fires = firing_tokens(setup, n) if "frequency-matched feature" in ablated else None
    kinds = []
    for role, feature in features.items():
        for kind in ablated:
            number = feature
            if kind == "frequency-matched feature":
                number = frequency_matched_feature(relevant_tokens(fires, feature), feature, list(features.values()), seed)
            kinds.append((role, kind, {"feature": number, "random": seed if kind == "random direction" else None}))
    return kinds


def steps_experiment(
    setup: Setup,
    features: Mapping[str, int],
    folder: str | Path,
    learning_rates: Mapping[str, float],
    steps: Sequence[int],
    n_prompts: int = 20,
    max_new_tokens: int = 80,
    seed: int = 0,
    progress: Progress = False,
) -> pd.DataFrame:
    """Ablate by perturbation with several numbers of gradient steps, at one learning rate per role.

    Returns:
        The columns of `sweep`, and `role`.
    """
    features, folder = checked_features(setup, features), check_writable(folder)
    rates = mapped("learning_rates", learning_rates, lambda name, rate: finite_number(name, rate, 0), "roles to learning rates")
    without = [role for role in features if role not in rates]
    if without:
        raise ValueError(f"learning_rates has {list(rates)}, and none for {', '.join(without)}; give one for each role")
    steps = whole_numbers("steps", steps)
    if not (features and steps):
        raise ValueError(f"{len(features)} features and {len(steps)} numbers of steps are nothing to do; give one of each")
    grids = {role: [Ablate(feature, Perturbation(rates[role], n)) for n in steps] for role, feature in features.items()}
    prompts = setup.prompts(n_prompts, deployment=True)
    tables = []
    for role, grid in grids.items():
        table = sweep(setup, prompts, grid, max_new_tokens, seed, progress=progress, folder=folder)
        tables.append(table.assign(role=role))
    return pd.concat(tables, ignore_index=True)


def with_others(features: Mapping[str, int], statistics: pd.DataFrame, n: int, kind: str) -> dict[str, int]:
    """Features, and `n` others: those that are more active on one kind of text than on the other by most.

    Args:
        features: Role -> feature; these are left out.
        statistics: From `activation_statistics`.
        n: How many to add, as "other 1", "other 2", ...
        kind: "deployment" or "ordinary", the kind of text on which they are the more active.
    """
    n, kind = whole_number("n", n), chosen("kind", kind, ("deployment", "ordinary"))
    statistics = checked_table("statistics", statistics, ["mean deployment", "mean ordinary"])
    difference = statistics["mean deployment"] - statistics["mean ordinary"]
    difference = (difference if kind == "deployment" else -difference).drop(list(set(features.values())))
    most = difference.sort_values(ascending=False, kind="stable").index[:n]
    return dict(features) | {f"other {number}": int(feature) for number, feature in enumerate(most, start=1)}


def reference_lines(setup: Setup, n_prompts: int = 20, max_new_tokens: int = 80, skip: int = 0) -> dict[str, float]:
    """Mean cross-entropy of reference texts under the base model, in nats per token, to compare a sweep with.

    Args:
        setup: From `load`; the preset must have data.
        n_prompts: Number of prompts.
        max_new_tokens: As for `generate`.
        skip: Number of prompts of the split to skip first.

    Returns:
        "untouched": completions by the model without an intervention, scored with the tag removed; "base model, no tag":
        completions by the base model of the prompts without the tag; "stories of the data": the data's ordinary examples.
    """
    n_prompts, skip = whole_number("n_prompts", n_prompts, 1), whole_number("skip", skip)
    prompts = checked_setup(setup).prompts(skip + n_prompts, deployment=True)[skip:]
    untagged = [remove_tag(prompt, setup.preset.deployment_tag) for prompt in prompts]
    stories = readable(setup, setup.examples(skip + n_prompts, False)[skip:])
    base = replace(setup, model=setup.base_model)
    completions = {
        "untouched": generate(setup, prompts, max_new_tokens=max_new_tokens),
        "base model, no tag": generate(base, untagged, max_new_tokens=max_new_tokens),
    }
    lines = {name: float(score(setup, generations)["cross_entropy"].mean()) for name, generations in completions.items()}
    losses = token_losses(setup, setup.base_model, [token_ids(setup.tokenizer, text) for text in stories])
    return lines | {"stories of the data": float(sum(loss.mean() for loss in losses)) / len(losses)}


def best_by_method(table: pd.DataFrame, tolerance: float | None = None, rate: str = "stories") -> pd.DataFrame:
    """For each role and method, the feature's best setting on the selection split, and its figures on the held-out prompts.

    Args:
        table: From `ablation_experiment`.
        tolerance: As for `best_settings`, which holds the rule.
        rate: As for `best_settings`.

    Returns:
        The columns of `best_settings`, measured on the selection split; and, measured on the held-out prompts,
        `held_out_mean` and `held_out_error` of the cross-entropy, `held_out_stories`, the share of stories, and
        `held_out_fluent_stories` where there is `fluent_stories`.

    Raises:
        ValueError: If the table has held-out rows, and none of a setting that is the best by this rule.
    """
    own = _of_the_feature(table, ["split", "role", "method", *NEEDED])
    best = best_settings(own[own["split"] == "selection"], ["role", "method"], tolerance, rate)
    figures = {"held_out_mean": ("cross_entropy", "mean"), "held_out_error": ("cross_entropy", "sem")}
    figures |= {f"held_out_{share}": (column, "mean") for share, column in rates_in(own).items()}
    held_out = own[own["split"] == "held out"].groupby("setting").agg(**figures)
    lacking = best[~best["setting"].isin(held_out.index)]
    if len(held_out) and len(lacking):
        raise ValueError(
            f"the table has no held-out rows of {lacking['label'].iloc[0]!r}, the best setting by tolerance={tolerance} and "
            f"rate={rate!r}; give ablation_experiment the same tolerance and rate"
        )
    return best.join(held_out, on="setting")


def _of_the_feature(table: pd.DataFrame, needed: Sequence[str], filled: Sequence[str] = ()) -> pd.DataFrame:
    """The rows of a table in which the feature itself was ablated, no control."""
    table = checked_table("table", table, ["ablated", *needed], filled)
    return checked_table("the rows whose `ablated` is 'feature'", table[table["ablated"] == "feature"])
