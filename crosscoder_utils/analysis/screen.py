"""The causal screen: intervene on every feature of a dictionary, one at a time, and rank them by what that does."""

import math
from collections.abc import Sequence
from dataclasses import replace
from numbers import Real
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool

from crosscoder_utils.analysis.attribution import estimated_effects
from crosscoder_utils.analysis.screen_arguments import checked_estimate, checked_prompts, checked_running, checked_settings
from crosscoder_utils.analysis.screen_rows import ScreenOptions, ScreenTask, known_scores
from crosscoder_utils.analysis.sweeps import Workers, computed_rows
from crosscoder_utils.analysis.untouched import Firing, firing_of, usual_activations
from crosscoder_utils.generation import Generation, as_rows, generate
from crosscoder_utils.interventions import Ablate, Clamp, Intervention, Steer
from crosscoder_utils.io.torch_defaults import own_settings
from crosscoder_utils.io.validation import Progress
from crosscoder_utils.loading import Setup
from crosscoder_utils.methods.base import Method, SearchMethod
from crosscoder_utils.prompts import TokenScope

ACTIONS: dict[str, type[Intervention]] = {"ablate": Ablate, "steer": Steer, "clamp": Clamp}
N_EXAMPLES = 40
"""Training examples of each condition on which a feature's usual activation is measured, unless texts are given."""
KEEP = 100
_RATES = {"says_phrase": "phrase_rate", "is_story": "story_rate", "is_fluent_story": "fluent_rate"}
_EFFECTS = ["kl", "cross_entropy", *_RATES, "relative_edit_norm"]


@own_settings
def screen(
    setup: Setup,
    prompts: Sequence[str],
    method: Method,
    action: str = "ablate",
    features: Sequence[int] | None = None,
    strengths: Sequence[float] | None = None,
    tokens: str | TokenScope = "all",
    max_new_tokens: int = 24,
    estimate: bool | str = False,
    keep: int | None = None,
    texts: Sequence[str] | None = None,
    progress: Progress = True,
    output_dir: str | Path | None = None,
    ray: Workers | None = None,
    rows_per_file: int = 480,
) -> pd.DataFrame:
    """Intervene on each feature alone and complete every prompt.

    *Exact shortcut*: where an ablated feature fires on no token of the untouched prompt and completion within the scope,
    nothing would be edited, so the untouched values are the feature's. The cost grows with the features that fire, not with
    the dictionary.

    Args:
        setup: From `load`.
        prompts: Prompts to complete greedily. Choose on training prompts, and confirm on others.
        method: How to intervene.
        action: "ablate"; "steer", which adds `strengths` times the feature's usual activation times the method's directions;
            or "clamp", which moves the feature to `strengths` times its usual activation.
        features: Features to try; None means all.
        strengths: Multiples of a feature's usual activation (its mean where it fires on `texts`), for "steer" and "clamp";
            by default 1. The table has a row for each feature and strength.
        tokens: Where to intervene, as in an intervention.
        max_new_tokens: Length of completions; a few dozen tokens suffice to tell a story from a phrase.
        estimate: True adds the column `estimate`, from one backward pass per prompt; "first" also runs only the `keep`
            features with the largest absolute estimates. It sees edits of the prompt and what they do to the first token, and
            so ranks features by `kl` well, and by `cross_entropy_change` badly where they fire on the completion only.
        keep: How many features to run with `estimate="first"`; by default 100.
        texts: Where usual activations are measured; by default 40 training examples of each condition, or, of a setup without
            data, the untouched prompts and completions.
        progress: As for `sweep`.
        output_dir: Folder in which computed rows are stored, one per intervention and prompt. Started again after it was
            interrupted, the screen computes what is missing and gives the same table.
        ray: What computes the rows, such as `RayWorkers`; by default, this process.
        rows_per_file: Number of rows that are computed together and stored in one file.

    Returns:
        One row per feature (and strength), strongest first. Ablations are ordered by `cross_entropy_change`; steering and
        clamping by the share of completions that turned into the phrase, or from the phrase into a story, then by `kl`; all
        by `kl` where the setup has no tag or no base model. Means over the prompts, in nats where not shares:

        - `feature`; with "steer" and "clamp", `strength` and `value` (strength times usual activation)
        - `fires`: share of the scope's tokens of untouched prompts and completions on which it fires
        - `last_token`: its activation on the last prompt token
        - `ran`: whether any prompt was run. If an ablated feature never fires, it is False, and the row the untouched one; of a
          feature that was left out (no usual activation, or not among the `keep` best), effects are NaN
        - `kl`: KL(untouched || intervened) of the completion's first token
        - `cross_entropy` (per token, see `score`) and `cross_entropy_change` from the untouched completions
        - `phrase_rate`, `story_rate`, `fluent_rate`: shares of the completions; see `score`
        - `relative_edit_norm`: largest norm of the edit, relative to the residual stream's
        - `estimate`: estimated change of the scalar that `attribution.estimated_effects` describes

    Raises:
        ValueError: If there is no prompt, feature or strength, a strength is 0, or the arguments do not go together; and
            whatever `generate` raises.
        IndexError: If a feature does not exist.

    Example:
        >>> screen(setup, setup.prompts(4, deployment=True, split="train"), ManyLayers(scale=1.0)).head(10)
    """
    prompts, max_new_tokens = checked_prompts(setup, prompts, tokens, max_new_tokens)
    chosen, strengths = checked_settings(setup, method, action, features, strengths, ACTIONS)
    estimate, keep = checked_estimate(estimate, keep)
    texts, progress, rows_per_file = checked_running(setup, texts, progress, output_dir, ray, rows_per_file)
    as_rows(setup, prompts, make_intervention(setup, action, chosen[0], 1.0, method, tokens))
    untouched = generate(setup, prompts, None, max_new_tokens, record="nothing")
    firing = firing_of(setup, untouched, tokens)
    table = _settings(setup, chosen, strengths, action, untouched, texts)
    table["fires"], table["last_token"] = firing.share[table["feature"]], firing.last_token[table["feature"]]
    if estimate:
        table["estimate"] = _estimates(setup, prompts, method, action, tokens, strengths, table)

    runs, left_out = _to_run(table, firing, action, KEEP if keep is None else keep, estimate == "first")
    made = {
        row: make_intervention(setup, action, int(table["feature"][row]), float(table["value"][row]), method, tokens)
        for row in np.flatnonzero(runs.any(1))
    }
    at = np.argwhere(runs.T)[:, ::-1]  # rows of one prompt stand together: they share the clean run
    rows, options = [(made[row], prompts[prompt]) for row, prompt in at], ScreenOptions(max_new_tokens, 0, "target")
    found = computed_rows(setup, rows, options, output_dir, ray, progress, rows_per_file, ScreenTask, "screen")
    known = known_scores(setup, untouched).assign(kl=0.0, relative_edit_norm=0.0)
    return _ranked(setup, _with_effects(table, known, found, at, left_out).assign(ran=runs.any(1)), action, known)


def _settings(
    setup: Setup,
    features: Sequence[int],
    strengths: Sequence[float],
    action: str,
    untouched: Sequence[Generation],
    texts: Sequence[str] | None,
) -> pd.DataFrame:
    """A row for each feature and strength, with `value`: strength times usual activation (0 if it never fires)."""
    table = pd.DataFrame({"feature": np.repeat(features, len(strengths)), "strength": np.tile(strengths, len(features))})
    if action == "ablate":
        return table.assign(value=1.0)
    if texts is None and setup.preset.data is None:
        ids = [setup.token_ids(g.prompt) + g.token_ids for g in untouched]
    else:
        ids = [setup.token_ids(text) for text in (_training_texts(setup) if texts is None else texts)]
    return table.assign(value=table["strength"] * usual_activations(setup, ids)[table["feature"]])


def _training_texts(setup: Setup) -> list[str]:
    try:
        return [text for deployment in (True, False) for text in setup.examples(N_EXAMPLES, deployment, split="train")]
    except ValueError as error:
        raise ValueError(f"{error}; or give texts=, on which usual activations are measured") from None


def _estimates(
    setup: Setup,
    prompts: Sequence[str],
    method: Method,
    action: str,
    tokens: str | TokenScope,
    strengths: Sequence[float],
    table: pd.DataFrame,
) -> np.ndarray:
    """The estimate of each row of the table, a mean over prompts."""
    found = np.empty(len(table))
    for number in range(len(strengths)):
        own = slice(number, None, len(strengths))
        size = torch.zeros(setup.crosscoder.n_features, dtype=torch.float64)
        size[table["feature"].to_numpy()[own].copy()] = torch.tensor(table["value"].to_numpy()[own])
        size = size.to(setup.crosscoder.W_dec)
        effects = estimated_effects(setup, prompts, method, ACTIONS[action], tokens, size).mean(0)
        found[own] = effects.double().cpu().numpy()[table["feature"].to_numpy()[own]]
    return found


def _to_run(
    table: pd.DataFrame, firing: Firing, action: str, keep: int, only_strongest: bool
) -> tuple[Bool[np.ndarray, "setting prompt"], Bool[np.ndarray, " setting"]]:
    """Which prompts have to be run under which setting, and which settings are left out, so that nothing is known of them."""
    features = table["feature"].to_numpy()
    acts = firing.somewhere[:, features].T
    if action != "ablate":
        acts = np.repeat(table["value"].ne(0).to_numpy()[:, None], len(firing.somewhere), axis=1)
    left_out = ~acts.any(1) if action != "ablate" else np.zeros(len(table), dtype=bool)
    if only_strongest:
        size = table["estimate"].abs().fillna(np.inf)  # an estimate that overflowed rules nothing out
        strongest = size.where(acts.any(1), -1.0).groupby(features).max()
        kept = strongest.sort_values(ascending=False, kind="stable").index[:keep]
        left_out |= acts.any(1) & ~np.isin(features, kept)
    return acts & ~left_out[:, None], left_out


def make_intervention(
    setup: Setup, action: str, feature: int | tuple[int, ...], value: float, method: Method, tokens: str | TokenScope
) -> Intervention:
    """One of `ACTIONS` on one or several features; steering multiplies the method's scale by `value`."""
    if action == "clamp":
        return Clamp(feature, value, method, tokens)
    if action == "ablate" or isinstance(method, SearchMethod):  # a search cannot steer, and `Steer` says so
        return ACTIONS[action](feature, method, tokens)
    name, scale = method.strength_name, getattr(method, method.strength_name, math.nan)
    scale = 1 / setup.n_points if scale is None else scale
    if not isinstance(scale, (Real, tuple)):
        raise ValueError(
            f"action='steer' multiplies the method's {name}, which {method} does not have; use ManyLayers or SingleLayer"
        )
    scaled = tuple(value * one for one in scale) if isinstance(scale, tuple) else value * scale
    return Steer(feature, replace(method, **{name: scaled}), tokens)


def _with_effects(
    table: pd.DataFrame, known: pd.DataFrame, found: pd.DataFrame, at: np.ndarray, left_out: np.ndarray
) -> pd.DataFrame:
    """Means over prompts: of the untouched values where nothing was run, of `found` at the settings and prompts in `at`."""
    columns, failed = {}, found["relative_edit_norm"].isna().to_numpy() if len(found) else None
    for name in _EFFECTS:
        values = np.tile(known[name].to_numpy(dtype=float), (len(table), 1))
        values[left_out] = np.nan
        if len(found):
            values[tuple(at.T)] = np.where(failed, np.nan, found[name].to_numpy(dtype=float, na_value=np.nan))
        columns[name] = values.mean(1)
    columns["cross_entropy_change"] = columns["cross_entropy"] - float(known["cross_entropy"].mean())
    return table.assign(**columns)


def _ranked(setup: Setup, table: pd.DataFrame, action: str, known: pd.DataFrame) -> pd.DataFrame:
    """The table as it is returned, strongest first; settings of which nothing is known are last."""
    table = table.rename(columns=_RATES)
    names = ["feature", "strength", "value", "fires", "last_token", "ran", "kl", "cross_entropy", "cross_entropy_change"]
    names += [*_RATES.values(), "relative_edit_norm", "estimate"]
    hidden = {"strength", "value"} if action == "ablate" else set()
    table = table[[name for name in names if name in table and name not in hidden]]
    preset, has_base = setup.preset, setup.base_model is not setup.model
    order = table.assign(_kl=-table["kl"])
    if has_base and preset.deployment_tag is not None and preset.phrase is not None:
        # Ablation can only take the tag's effect away; what adds a direction may bring either behaviour about.
        gains = [table["phrase_rate"] - known["says_phrase"].mean(), table["story_rate"] - known["is_story"].mean()]
        order["_first"] = table["cross_entropy_change"] if action == "ablate" else -np.maximum(*gains)
    by = [name for name in ("_first", "_kl") if name in order]
    return order.sort_values(by, kind="stable")[table.columns].reset_index(drop=True)
