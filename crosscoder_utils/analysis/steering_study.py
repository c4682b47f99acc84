"""Steering against the deployment tag: where in the model, how strongly, and from which token on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from crosscoder_utils.analysis.argument_checks import checked_features
from crosscoder_utils.analysis.discovery import activation_statistics, conditions
from crosscoder_utils.analysis.screen import make_intervention
from crosscoder_utils.analysis.statistics import best_settings
from crosscoder_utils.analysis.studies import with_others
from crosscoder_utils.analysis.sweeps import sweep
from crosscoder_utils.interventions import Intervention
from crosscoder_utils.io.validation import Progress, numbers, several, whole_number
from crosscoder_utils.loading import Setup
from crosscoder_utils.methods import ManyLayers, Perturbation, SingleLayer
from crosscoder_utils.prompts import from_marker

N_TEXTS = 50
"""Training texts of each kind on which usual activations are measured."""
Setting = tuple[str, str, float, int]
"""A role, a way, a strength in multiples of the usual activation, and the first token, counted from the marker's first."""


@dataclass(frozen=True, eq=False)
class SteeringStudy:
    """What `steering_study` measured. Tables have the columns of `sweep`, and `role`, `where`, `multiple`, `first token`.

    Attributes:
        features: Role -> feature, "other 1", "other 2", ... among them.
        firing: One row per feature: `role`, `usual_activation` (its mean over the tokens of ordinary texts on which it fires),
            `fires ordinary`, `fires deployment` (shares of tokens).
        steered: The first feature in every way and the others along the decoder, at every strength.
        clamped: The first feature, clamped along the decoder in place of steered.
        best: The best strength of the first feature, by way; from `best_settings`.
        moved: These, from every other first token.
    """

    features: dict[str, int]
    firing: pd.DataFrame
    steered: pd.DataFrame
    clamped: pd.DataFrame
    best: pd.DataFrame
    moved: pd.DataFrame


def steering_study(
    setup: Setup,
    features: Mapping[str, int],
    folder: str | Path,
    strengths: Sequence[float],
    starts: Sequence[int],
    start: int = -3,
    n_candidates: int = 2,
    learning_rate: float = 0.1,
    n_prompts: int = 20,
    max_new_tokens: int = 80,
    seed: int = 0,
    progress: Progress = False,
) -> SteeringStudy:
    """Steer and clamp features on deployment prompts, from a token near the story marker on.

    Ways are "point 0", "point 1", ..., where the decoder vector is added at one hook point; "all points"; and "perturbation",
    which clamps the first feature's pre-activation by gradient descent.

    Args:
        setup: From `load`; the preset must have data and a story marker.
        features: Role -> feature.
        folder: Folder of the stored rows, as for `sweep`.
        strengths: Multiples of each feature's usual activation.
        starts: Other first tokens for the best strengths of the first feature.
        start: The first token that is steered, counted from the marker's first.
        n_candidates: How many other features are steered as well: those that are more active on ordinary texts by most.
        learning_rate: Of the perturbation.
        n_prompts: Number of prompts.
        max_new_tokens: As for `generate`.
        seed: As for `generate`.
        progress: As for `sweep`.

    Raises:
        ValueError: If an argument is out of range, or a first token lies outside a prompt; before anything is computed.
        IndexError: If the crosscoder has no such feature.
    """
    features = checked_features(setup, features)
    strengths, starts = numbers("strengths", strengths), several("starts", starts, "whole numbers")
    ways = {f"point {point}": SingleLayer(point) for point in range(setup.n_points)} | {"all points": ManyLayers(1.0)}
    ways |= {"perturbation": Perturbation(learning_rate)}
    prompts = setup.prompts(whole_number("n_prompts", n_prompts, 1), deployment=True)
    for one in (start, *starts):
        scope = from_marker(setup.preset.story_marker, one)
        for prompt in prompts:
            scope.bounds(prompt, setup.tokenizer)  # raises where there is no such token
    statistics = activation_statistics(conditions(setup, N_TEXTS))
    features = with_others(features, statistics, n_candidates, "ordinary")
    usual = statistics["mean ordinary"] / statistics["fires ordinary"]

    def intervention(action: str, role: str, where: str, multiple: float, first: int) -> Intervention:
        method, feature = ways[where], features[role]
        action = "clamp" if method.searches else action
        scope = from_marker(setup.preset.story_marker, first)
        return make_intervention(setup, action, feature, float(multiple * usual[feature]), method, scope)

    def run(settings: Sequence[Setting], action: str = "steer") -> pd.DataFrame:
        own = [intervention(action, *setting) for setting in settings]
        table = sweep(setup, prompts, own, max_new_tokens, seed, progress=progress, folder=folder)
        return table.join(pd.DataFrame(settings, columns=["role", "where", "multiple", "first token"]), on="setting")

    first, along = next(iter(features)), [where for where, method in ways.items() if not method.searches]
    tried = [(role, where) for role in features for where in (ways if role == first else along)]
    steered = run([(*one, multiple, start) for one in tried for multiple in strengths])
    clamped = run([(first, where, multiple, start) for where in along for multiple in strengths], "clamp")
    own = steered[steered["role"] == first]
    best = best_settings(own, by=["where"]).merge(own[["setting", "multiple"]].drop_duplicates())
    moved = run([(first, row.where, row.multiple, token) for row in best.itertuples() for token in starts])
    firing = statistics.loc[list(features.values()), ["fires ordinary", "fires deployment"]].rename_axis("feature")
    firing = firing.assign(role=list(features), usual_activation=usual).reset_index()
    return SteeringStudy(features, firing, steered, clamped, best, moved)
