"""The quantitative experiments that the book reports: every method over its grid, with controls, on two sets of prompts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool

from crosscoder_utils.analysis.discovery import encode_texts
from crosscoder_utils.analysis.metrics import score, token_losses
from crosscoder_utils.analysis.statistics import like_feature, like_features
from crosscoder_utils.analysis.sweeps import Workers, ablation_grid, sweep
from crosscoder_utils.generation import generate
from crosscoder_utils.interventions import Ablate, Method, Perturbation, method_from
from crosscoder_utils.loading import Setup
from crosscoder_utils.prompts import remove_tag

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
    targets: Sequence[str] = TARGETS,
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
        targets: Which of `TARGETS` to ablate.
        **grid: As for `ablation_grid`.

    Returns:
        The columns of `sweep`; `role`; `target`, one of `TARGETS`; and `set`, "chosen on" or "held out".
    """
    prompts = setup.prompts(n_prompts + n_held_out, deployment=True)
    fires = _fires(setup, len(prompts)) if "like feature" in targets else None
    kinds, interventions = [], []
    for role, feature in features.items():
        for target in targets:
            ablated = feature
            if target == "like feature":
                ablated = like_feature(_where(fires, feature), feature, list(features.values()), seed)
            own = ablation_grid(ablated, setup.n_points, random=seed if target == "random direction" else None, **grid)
            kinds += [(role, target)] * len(own)
            interventions += own
    table = sweep(setup, prompts, interventions, max_new_tokens, seed, "target", progress, folder, workers)
    roles, ablated = zip(*(kinds[setting] for setting in table["setting"]), strict=True)
    sets = ["chosen on" if i < n_prompts else "held out" for i in table["prompt_index"]]
    return table.assign(role=roles, target=ablated, set=sets)


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


def control_draws(
    setup: Setup,
    features: Mapping[str, int],
    table: pd.DataFrame,
    settings: Sequence[int],
    folder: str | Path,
    n_like: int = 10,
    n_random: int = 10,
) -> pd.DataFrame:
    """Settings on the held-out prompts, each beside several draws of its controls with the same parameters.

    One random direction, or one other feature, may happen to do what others do not.

    Args:
        setup: From `load`.
        features: Role -> feature; those of all roles are kept out of the controls.
        table: From `ablation_experiment`.
        settings: Some of its settings whose target is the feature.
        folder: Where rows are kept.
        n_like: Other features, those nearest in firing rate.
        n_random: Random directions, with seeds 0, 1, ...

    Returns:
        The columns of `sweep`; `role`; `target`, one of `TARGETS`; `draw`, 0 for the feature itself; and `setting`, that of
        the feature.
    """
    prompts = table[table["set"] == "held out"].drop_duplicates("prompt_index")["prompt"].tolist()
    made = {"max_new_tokens": int(table["max_new_tokens"].iloc[0]), "seed": int(table["seed"].iloc[0])}
    lines = table.drop_duplicates("setting").set_index("setting")
    fires = _fires(setup, table["prompt_index"].nunique()) if n_like else None
    kinds, interventions = [], []
    for setting in settings:
        role, method = lines.at[setting, "role"], method_from(json.loads(lines.at[setting, "settings"]))
        for target, drawn in _targets(role, method, features, fires, n_like, n_random).items():
            kinds += [(role, target, draw, setting) for draw in range(len(drawn))]
            interventions += drawn
    rows = sweep(setup, prompts, interventions, progress=False, folder=folder, **made)
    columns = pd.DataFrame([kinds[i] for i in rows["setting"]], columns=["role", "target", "draw", "setting"])
    return rows.assign(**columns)


def _targets(
    role: str, method: Method, features: Mapping[str, int], fires: Sequence[np.ndarray] | None, n_like: int, n_random: int
) -> dict[str, list[Ablate]]:
    feature = features[role]
    others = like_features(_where(fires, feature), feature, list(features.values()))[:n_like].tolist() if n_like else []
    return {
        "feature": [Ablate(feature, method)],
        "like feature": [Ablate(other, method) for other in others],
        "random direction": [Ablate(feature, replace(method, random=seed)) for seed in range(n_random)],
    }


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


def best_by_method(table: pd.DataFrame, tolerance: float | None = None) -> pd.DataFrame:
    """Per role and method, the feature's best setting on the prompts to choose on, and how it does on the held-out ones.

    Best is the lowest mean cross-entropy. Many strengths may be about as good: with a `tolerance`, it is the *gentlest* of
    them, the one with the smallest edit among those that give that nearly as many stories as any. Settings under which most
    completions are empty are passed over, since of an empty completion only the prompt is scored.

    Args:
        table: From `ablation_experiment`.
        tolerance: In shares of the prompts, such as 0.05.

    Returns:
        `role`, `method`, `setting`, `point`, `scale`, `lr`; `mean` and `standard_error` of the cross-entropy on the first
        set; `relative_edit_norm`, the mean over its prompts of the largest edit as a share of the stream; and, on the second set,
        `held_out_mean`, `held_out_error` and `stories`, the share of completions.
    """
    own = table[table["target"] == "feature"]
    first, second = own[own["set"] == "chosen on"], own[own["set"] == "held out"]
    keys = ["role", "method", "setting", "point", "scale", "lr"]
    columns = {
        "mean": ("cross_entropy", "mean"),
        "standard_error": ("cross_entropy", "sem"),
        "relative_edit_norm": ("relative_edit_norm", "mean"),
        "share": ("is_story", "mean"),
        "empty": ("n_tokens", lambda n: (n == 0).mean()),
    }
    lines = first.groupby(keys, dropna=False, sort=False).agg(**columns).reset_index()
    lines = lines[lines.pop("empty") <= 0.5]
    share, groups = lines.pop("share").astype(float), ["role", "method"]
    if tolerance is None:
        ranked = lines.sort_values("mean", kind="stable")
    else:
        most = share.groupby([lines[name] for name in groups], sort=False).transform("max")
        ranked = lines[share >= most - tolerance - 1e-9].sort_values("relative_edit_norm", kind="stable")
    best = ranked.groupby(groups, sort=False).head(1).sort_values("setting").reset_index(drop=True)
    held_out = second.groupby("setting").agg(
        held_out_mean=("cross_entropy", "mean"), held_out_error=("cross_entropy", "sem"), stories=("is_story", "mean")
    )
    return best.join(held_out, on="setting")


def whole_curves(table: pd.DataFrame, best: pd.DataFrame) -> list[int]:
    """The settings that differ from one of `best` (from `best_by_method`) in nothing but the strength."""
    keys = ["role", "method", "point"]
    own = table[table["target"] == "feature"].drop_duplicates("setting")
    return own.merge(best[keys], on=keys)["setting"].tolist()


def _fires(setup: Setup, n: int) -> list[Bool[np.ndarray, "token feature"]]:
    """Which features fire on which tokens of `n` training prompts with the tag, and of the same prompts with the phrase."""
    kinds = [setup.prompts(n, deployment=True, split="train"), setup.examples(n, deployment=True, split="train")]
    return [torch.cat([text.activations > 0 for text in encode_texts(setup, texts)]).numpy() for texts in kinds]


def _where(fires: Sequence[Bool[np.ndarray, "token feature"]], feature: int) -> Bool[np.ndarray, "token feature"]:
    """The prompts, unless `feature` fires on the phrase only."""
    prompts, with_phrase = fires
    return prompts if prompts[:, feature].any() else with_phrase
