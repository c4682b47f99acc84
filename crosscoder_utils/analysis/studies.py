"""The quantitative experiments of the book: every method over its grid, with controls, on a selection and a held-out split."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from crosscoder_utils.analysis.argument_checks import checked_feature, checked_setup, readable
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
from crosscoder_utils.io.validation import chosen, finite_number, mapped, texts, whole_number, whole_numbers
from crosscoder_utils.loading import Setup
from crosscoder_utils.methods import Perturbation
from crosscoder_utils.prompts import remove_tag

ABLATED = ("feature", "frequency-matched feature", "random direction")
"""What is ablated: the feature, a random feature that fires about as often, or random directions of the same norms."""


def ablation_experiment(
    setup: Setup,
    features: Mapping[str, int],
    folder: str | Path,
    n_prompts: int = 20,
    n_held_out: int = 20,
    max_new_tokens: int = 80,
    seed: int = 0,
    progress: bool = False,
    workers: Workers | None = None,
    ablated: Sequence[str] = ABLATED,
    **grid: Sequence[float] | int,
) -> pd.DataFrame:
    """Ablate features and their controls on deployment prompts.

    Settings are chosen on the first `n_prompts` prompts (the selection split). The held-out prompts, which follow them, only
    confirm the choice. Rows are stored in `folder`, as by `sweep`.

    Args:
        setup: From `load`; the preset must have data.
        features: Role -> feature. No feature listed here serves as a control.
        folder: Folder of the stored rows.
        n_prompts: Number of prompts of the selection split.
        n_held_out: Number of held-out prompts.
        max_new_tokens: As for `generate`.
        seed: Seed of the sampling and of the controls.
        progress: Whether to show progress bars.
        workers: What computes the rows; by default, this process.
        ablated: Which of `ABLATED` to run.
        **grid: Arguments of `ablation_grid`.

    Returns:
        The columns of `sweep`; `role`; `ablated`, one of `ABLATED`; and `split`, "selection" or "held out".
    """
    features, folder = _checked_features(setup, features), check_writable(folder)
    n_prompts, n_held_out = whole_number("n_prompts", n_prompts, 1), whole_number("n_held_out", n_held_out)
    ablated, seed = [chosen("ablated", one, ABLATED) for one in texts("ablated", ablated)], whole_number("seed", seed)
    ablation_grid(0, setup.n_points, **grid)  # raises what is wrong with it
    prompts = setup.prompts(n_prompts + n_held_out, deployment=True)
    fires = firing_tokens(setup, len(prompts)) if "frequency-matched feature" in ablated else None
    kinds, interventions = [], []
    for role, feature in features.items():
        for kind in ablated:
            number, random = feature, seed if kind == "random direction" else None
            if kind == "frequency-matched feature":
                number = frequency_matched_feature(relevant_tokens(fires, feature), feature, list(features.values()), seed)
            settings = ablation_grid(number, setup.n_points, random=random, **grid)
            kinds += [(role, kind)] * len(settings)
            interventions += settings
    table = sweep(setup, prompts, interventions, max_new_tokens, seed, "target", progress, folder, workers)
    table[["role", "ablated"]] = [kinds[setting] for setting in table["setting"]]
    return table.assign(split=["selection" if i < n_prompts else "held out" for i in table["prompt_index"]])


def steps_experiment(
    setup: Setup,
    features: Mapping[str, int],
    folder: str | Path,
    learning_rates: Mapping[str, float],
    steps: Sequence[int],
    n_prompts: int = 20,
    max_new_tokens: int = 80,
    seed: int = 0,
) -> pd.DataFrame:
    """Ablate by perturbation with several numbers of gradient steps, at one learning rate per role.

    Returns:
        The columns of `sweep`, and `role`.
    """
    features, folder = _checked_features(setup, features), check_writable(folder)
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
        table = sweep(setup, prompts, grid, max_new_tokens, seed, progress=False, folder=folder)
        tables.append(table.assign(role=role))
    return pd.concat(tables, ignore_index=True)


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
    """
    own = _of_the_feature(table, ["split", "role", "method", *NEEDED])
    best = best_settings(own[own["split"] == "selection"], ["role", "method"], tolerance, rate)
    figures = {"held_out_mean": ("cross_entropy", "mean"), "held_out_error": ("cross_entropy", "sem")}
    figures |= {f"held_out_{share}": (column, "mean") for share, column in rates_in(own).items()}
    held_out = own[own["split"] == "held out"].groupby("setting").agg(**figures)
    return best.join(held_out, on="setting")


def _checked_features(setup: Setup, features: Mapping[str, int]) -> dict[str, int]:
    n_features = checked_setup(setup).crosscoder.n_features
    return mapped("features", features, lambda _, feature: checked_feature(feature, n_features), "roles to features")


def _of_the_feature(table: pd.DataFrame, needed: Sequence[str], filled: Sequence[str] = ()) -> pd.DataFrame:
    """The rows of a table in which the feature itself was ablated, no control."""
    table = checked_table("table", table, ["ablated", *needed], filled)
    return checked_table("the rows whose `ablated` is 'feature'", table[table["ablated"] == "feature"])
