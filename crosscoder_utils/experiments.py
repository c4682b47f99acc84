"""The quantitative experiment that the book reports: every method over its grid, with controls, on two sets of prompts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from crosscoder_utils.comparisons import like_feature, like_in_rate
from crosscoder_utils.evaluation import reconstruction, score, summarize, token_losses
from crosscoder_utils.generation import generate
from crosscoder_utils.interventions import Ablate, Perturbation, method_from
from crosscoder_utils.loading import Setup
from crosscoder_utils.prompts import remove_tag
from crosscoder_utils.sweeps import Workers, ablation_grid, sweep

TARGETS = ("feature", "like feature", "random direction")
"""What is ablated: the feature, a random one that fires about as often, or random directions of the same norms."""


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
    **grid: Sequence[float] | int,
) -> pd.DataFrame:
    """Ablate features and their controls on deployment prompts.

    The first prompts are those that settings are chosen on; the held-out ones, which follow them, are for nothing but
    confirming. Rows are kept in `folder`, as by `sweep`.

    Args:
        setup: From `load`; the preset has to have data.
        features: Role -> feature; those of all roles are kept out of the controls.
        folder: Where rows are kept.
        n_prompts: Prompts to choose on.
        n_held_out: Prompts to confirm on.
        max_new_tokens: As for `generate`.
        seed: Of sampling and of the controls.
        progress: Show progress bars.
        workers: Who computes the rows; by default, this process.
        **grid: As for `ablation_grid`.

    Returns:
        The columns of `sweep`, with `setting` counted over the whole table; `role`; `target`, one of `TARGETS`; and `set`,
        "chosen on" or "held out".
    """
    prompts = setup.prompts(n_prompts + n_held_out, deployment=True)
    controls = like_features(setup, features, seed)
    tables, n_settings = [], 0
    for role, feature in features.items():
        for target in TARGETS:
            ablated = controls[role] if target == "like feature" else feature
            interventions = ablation_grid(ablated, setup.n_points, random=seed if target == TARGETS[2] else None, **grid)
            table = sweep(setup, prompts, interventions, max_new_tokens, seed, "target", progress, folder, workers)
            tables.append(table.assign(role=role, target=target, setting=table["setting"] + n_settings))
            n_settings += len(interventions)
    return _with_sets(pd.concat(tables, ignore_index=True), n_prompts)


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
    """Ablate by perturbation with one learning rate for each role and several numbers of steps; the columns of `sweep`,
    and `role`."""
    prompts = setup.prompts(n_prompts, deployment=True)
    tables = []
    for role, feature in features.items():
        grid = [Ablate(feature, Perturbation(learning_rates[role], n)) for n in steps]
        table = sweep(setup, prompts, grid, max_new_tokens, seed, progress=False, folder=folder)
        tables.append(table.assign(role=role))
    return pd.concat(tables, ignore_index=True)


def like_features(setup: Setup, features: Mapping[str, int], seed: int = 0, n_texts: int = 100) -> dict[str, int]:
    """A control of like firing rate for each role, measured on training texts of both kinds."""
    rates = _firing_rates(setup, n_texts)
    return {role: like_feature(rates, feature, list(features.values()), seed) for role, feature in features.items()}


def _firing_rates(setup: Setup, n_texts: int = 100) -> np.ndarray:
    texts = [text for deployment in (True, False) for text in setup.examples(n_texts, deployment, split="train")]
    return reconstruction(setup, texts).firing_rate


def reference_lines(setup: Setup, n_prompts: int = 20, max_new_tokens: int = 80, skip: int = 0) -> dict[str, float]:
    """Mean cross-entropy under the base model, in nats per token, of what a sweep is compared with.

    The stories of the data with their prompts; what the untouched model writes, tag taken out; and what the base model
    itself writes for the same prompts without the tag. With `skip`, for the prompts after the first so many.
    """
    prompts = setup.prompts(skip + n_prompts, deployment=True)[skip:]
    untagged = [remove_tag(prompt, setup.preset.deployment_tag) for prompt in prompts]
    stories = [
        setup.tokenizer(text, add_special_tokens=False).input_ids for text in setup.examples(skip + n_prompts, False)[skip:]
    ]
    base = replace(setup, model=setup.base_model)
    written = {
        "untouched": generate(setup, prompts, max_new_tokens=max_new_tokens),
        "base model, no tag": generate(base, untagged, max_new_tokens=max_new_tokens),
    }
    lines = {name: float(score(setup, generations)["cross_entropy"].mean()) for name, generations in written.items()}
    losses = token_losses(setup, setup.base_model, stories)
    return lines | {"stories of the data": float(sum(loss.mean() for loss in losses)) / len(losses)}


def best_by_method(table: pd.DataFrame) -> pd.DataFrame:
    """Per role and method, the feature's best setting on the prompts to choose on, and how it does on the held-out ones.

    Args:
        table: From `ablation_experiment`.

    Returns:
        `role`, `method`, `setting`, `point`, `scale`, `lr`; `mean` and `standard_error` of the cross-entropy on the first
        set and, as `held_out_mean` and `held_out_error`, on the second; `stories`, the share of all completions.
    """
    own = table[table["target"] == "feature"]
    keys = ["role", "method", "setting", "point", "scale", "lr"]
    first, second = (summarize(own[own["set"] == name], keys) for name in ("chosen on", "held out"))
    best = first.loc[first.groupby(["role", "method"], sort=False)["mean"].idxmin()].drop(columns="n")
    confirmed = second.set_index("setting").loc[best["setting"], ["mean", "standard_error"]]
    stories = own.groupby("setting")["is_story"].mean().loc[best["setting"]]
    held_out = {"held_out_mean": confirmed["mean"].to_numpy(), "held_out_error": confirmed["standard_error"].to_numpy()}
    return best.assign(**held_out, stories=stories.to_numpy()).reset_index(drop=True)


def control_draws(
    setup: Setup, features: Mapping[str, int], table: pd.DataFrame, best: pd.DataFrame, folder: str | Path, n_draws: int = 10
) -> pd.DataFrame:
    """Each method's best setting on the held-out prompts, beside several draws of each control at the same setting.

    One random direction, or one other feature, may happen to do what others do not.

    Args:
        setup: From `load`.
        features: Role -> feature; those of all roles are kept out of the controls.
        table: From `ablation_experiment`.
        best: From `best_by_method`.
        folder: Where rows are kept.
        n_draws: Random directions, with seeds 0, 1, ...; and features, those nearest in firing rate.

    Returns:
        The columns of `sweep` with `role`, `method`, `target` (one of `TARGETS`) and `draw`; the feature itself is draw 0.
    """
    held_out = table[table["set"] == "held out"]
    prompts = held_out.drop_duplicates("prompt_index")["prompt"].tolist()
    made = {"max_new_tokens": int(table["max_new_tokens"].iloc[0]), "seed": int(table["seed"].iloc[0])}
    rates = _firing_rates(setup)
    tables = []
    for one in best.itertuples():
        method = method_from(json.loads(table.loc[table["setting"] == one.setting, "settings"].iloc[0]))
        feature, drawn = features[one.role], range(n_draws)
        targets = {
            "feature": [Ablate(feature, method)],
            "like feature": [
                Ablate(other, method) for other in like_in_rate(rates, feature, list(features.values()))[:n_draws].tolist()
            ],
            "random direction": [Ablate(feature, replace(method, random=seed)) for seed in drawn],
        }
        for target, interventions in targets.items():
            rows = sweep(setup, prompts, interventions, progress=False, folder=folder, **made)
            tables.append(rows.assign(role=one.role, target=target, draw=rows["setting"]))
    return pd.concat(tables, ignore_index=True)


def _with_sets(table: pd.DataFrame, n_prompts: int) -> pd.DataFrame:
    return table.assign(set=["chosen on" if i < n_prompts else "held out" for i in table["prompt_index"]])
