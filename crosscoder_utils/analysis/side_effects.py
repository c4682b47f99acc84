"""Side effects: what interventions do to ordinary texts, where they should do nothing."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from crosscoder_utils.analysis.argument_checks import checked_setup, checked_texts, readable
from crosscoder_utils.analysis.store import check_columns, settings_text
from crosscoder_utils.analysis.stored_settings import interventions_of
from crosscoder_utils.analysis.sweeps import Options, Row, Task, Workers, computed_rows
from crosscoder_utils.engine import text_requests
from crosscoder_utils.forward import run
from crosscoder_utils.generation import as_rows, generate, make_requests
from crosscoder_utils.interventions import Intervention
from crosscoder_utils.io.files import check_writable
from crosscoder_utils.io.validation import Progress, Texts, flag, instance, instances, whole_number
from crosscoder_utils.loading import Setup
from crosscoder_utils.prompts import split_at_marker

N_TEXTS = 40
_EDITS = ["edited_share", "relative_edit_norm"]
_MEANS = ["mean_kl", "loss_change", *_EDITS, "unchanged", "unchanged_tokens"]
Named = list[tuple[str, Intervention | None]]
"""Settings as text, and what they name."""
_ENDED = -1
"""Stands for the end-of-text token, which is not among a completion's ids."""


@dataclass(frozen=True)
class SideEffectOptions(Options):
    """Options of a sweep, and a mark in the rows' ids: what is compared with the untouched model."""

    compared: str = "whole text and its completion"


@dataclass(frozen=True)
class SideEffectTask(Task):
    """A part of the missing rows; in place of a prompt each has a whole text."""

    def table(self, setup: Setup, progress: Progress) -> pd.DataFrame:
        return compared_rows(setup, self.rows, self.options, progress)


def side_effects(
    setup: Setup,
    interventions: pd.DataFrame | Iterable[Intervention | None] | Intervention | None,
    n_texts: int = N_TEXTS,
    max_new_tokens: int = 80,
    folder: str | Path | None = None,
    workers: Workers | None = None,
    progress: bool = True,
    rows_per_file: int = 480,
    texts: Texts | None = None,
) -> pd.DataFrame:
    """Measure what interventions do to ordinary held-out texts, read as they are and written anew from their prompts.

    A text's prompt ends with its story marker; of a text without one, or a preset without one, the whole text is completed.

    Args:
        setup: From `load`; without `texts`, the preset must have data.
        interventions: One or several, or a table of `sweep`, whose different settings are taken.
        n_texts: Number of texts, the first of `setup.examples(n_texts, deployment=False)`; those that are longer than the
            context are left out.
        max_new_tokens: As for `generate`.
        folder: Folder in which computed rows are stored, one per intervention and text; a call that was interrupted goes on
            from there. None keeps them in memory only.
        workers: What computes the rows, such as `RayWorkers`; by default, this process.
        progress: Whether to show a progress bar.
        rows_per_file: Number of rows that are computed together and stored in one file.
        texts: Texts of your own in place of the preset's, one or several; `n_texts` is then ignored.

    Returns:
        One row per intervention, or per different value of the table's column `settings`, in the order given. Means over the
        texts; NaN for an intervention with a text that `failed`.

        - `settings`, by which `sweep` names the intervention too; `intervention`, `feature`, `method`, `label`, `strength`
        - `n_texts`; `failed`: whether an edit or a logit was infinite or NaN on one of them
        - `mean_kl`: KL(untouched || intervened) of the prediction made at each token, in nats per token; `kl_error`, its
          standard error over texts (NaN for a single one)
        - `loss_change`: intervened minus untouched loss, in nats per token
        - `edited_share`: share of the tokens that were edited
        - `relative_edit_norm`: largest norm of the edit, relative to the residual stream's
        - `unchanged`: share of the greedy completions of the texts' prompts that are the untouched ones, token by token
        - `unchanged_tokens`: share of the untouched completion's tokens before the first that differs

    Raises:
        ValueError: If there is no intervention or no text, or neither `texts` nor data; and whatever `generate` raises. All
            before any text is read.
        IndexError: If a feature or hook point does not exist.

    Example:
        >>> side_effects(setup, [Ablate(feature, ManyLayers(scale=s)) for s in (0.5, 1.0, 2.0)])[["label", "mean_kl"]]
    """
    named = _named(interventions)
    options = SideEffectOptions(whole_number("max_new_tokens", max_new_tokens, 1), 0, "nothing")
    rows_per_file, progress = whole_number("rows_per_file", rows_per_file, 1), flag("progress", progress)
    if workers is not None:
        instance("workers", workers, Workers, "give RayWorkers(n=2), or leave it out")
    texts = _ordinary_texts(setup, n_texts) if texts is None else checked_texts(setup, texts, stories=True)
    different = dict(named)  # equal ones are computed once
    rows = [(one, text) for text in texts for one in different.values()]  # those of one text share the clean run
    _check_rows(setup, rows, max_new_tokens)
    folder = None if folder is None else check_writable(folder)
    table = computed_rows(setup, rows, options, folder, workers, progress, rows_per_file, SideEffectTask, "side effects")
    found = _summarized(table, len(texts), list(different))
    return pd.DataFrame([_described(text, one) | found[text] for text, one in named])


def compared_rows(setup: Setup, rows: Sequence[Row], options: Options, progress: Progress = False) -> pd.DataFrame:
    """Read whole texts and complete their prompts: columns of `Generations.to_frame` and those that `side_effects` averages."""
    interventions, texts = zip(*rows, strict=True)
    different = {text: _prompt(setup, text) for text in dict.fromkeys(texts)}
    prompts = [different[text] for text in texts]
    untouched_loss = dict(zip(different, run(setup, list(different), None).to_frame()["mean_loss"], strict=True))
    untouched = generate(setup, list(different.values()), None, options.max_new_tokens, record="nothing")
    untouched_ids = dict(zip(different, (g.token_ids for g in untouched), strict=True))
    read = run(setup, texts, interventions).to_frame().reindex(columns=["mean_kl", "mean_loss", "failed", *_EDITS])
    read.loc[[one is None for one in interventions], _EDITS] = 0.0
    written = generate(setup, prompts, interventions, options.max_new_tokens, record="nothing", progress=progress)
    shares = [
        math.nan if g.failed else share_before_change(untouched_ids[text], g.token_ids, options.max_new_tokens)
        for text, g in zip(texts, written, strict=True)
    ]
    table = written.to_frame().assign(
        text=texts,
        mean_kl=read["mean_kl"],
        loss_change=read["mean_loss"] - [untouched_loss[text] for text in texts],
        edited_share=read["edited_share"],
        relative_edit_norm=read["relative_edit_norm"],
        unchanged=[share == 1 for share in shares],
        unchanged_tokens=shares,
    )
    return table.assign(failed=table["failed"] | read["failed"])


def share_before_change(untouched: Sequence[int], intervened: Sequence[int], max_new_tokens: int) -> float:
    """Share of a completion's tokens, its end-of-text token included, before the first in which another differs."""
    a, b = ([*ids, _ENDED][:max_new_tokens] for ids in (untouched, intervened))
    same = next((i for i, (one, other) in enumerate(zip(a, b)) if one != other), min(len(a), len(b)))
    return same / len(a)


def pareto_front(costs: Iterable[Real], gains: Iterable[Real]) -> list[int]:
    """Positions of the pairs for which no other has at most the cost and a higher gain, or a lower cost and at least the gain.

    They are sorted by cost. Of equal pairs the first counts, and pairs with a NaN do not.

    Raises:
        ValueError: If there are not as many costs as gains.
    """
    costs, gains = (np.array(list(values), float) for values in (costs, gains))
    if len(costs) != len(gains):
        raise ValueError(f"{len(costs)} costs and {len(gains)} gains are no pairs; give one of each")
    front, best = [], -math.inf
    for i in np.lexsort((-gains, costs)):  # by cost; among equal costs, the highest gain first
        if not math.isnan(costs[i]) and gains[i] > best:
            front.append(int(i))
            best = gains[i]
    return front


def _named(interventions: pd.DataFrame | Iterable[Intervention | None] | Intervention | None) -> Named:
    """Interventions with their settings as text, in the order given.

    Raises:
        ValueError: If there are none, or something else.
    """
    if isinstance(interventions, pd.DataFrame):
        if "settings" not in interventions:
            raise ValueError("the table of interventions lacks the column 'settings'; give one that sweep(...) returned")
        return list(interventions_of(interventions).items())
    remedy = "give Ablate(feature, method), None, or the table of a sweep"
    given = instances("interventions", interventions, Intervention, remedy, or_none=True)
    if not given:
        raise ValueError("interventions=[] leaves nothing to measure; give at least one")
    check_columns(given)
    return [(settings_text(one), one) for one in given]


def _ordinary_texts(setup: Setup, n_texts: int) -> list[str]:
    n_texts = whole_number("n_texts", n_texts, 1)
    texts = readable(setup, checked_setup(setup).examples(n_texts, deployment=False))
    if not texts:
        raise ValueError(
            f"each of the {n_texts} ordinary texts is longer than the context of {setup.preset.context} tokens; give a larger "
            "n_texts"
        )
    return texts


def _prompt(setup: Setup, text: str) -> str:
    """The part of a text that is completed."""
    marker = setup.preset.story_marker
    return text if marker is None or marker not in text else split_at_marker(text, marker)[0]


def _check_rows(setup: Setup, rows: Sequence[Row], max_new_tokens: int) -> None:
    """Raise what `run` and `generate` would."""
    texts, interventions = as_rows(setup, [text for _, text in rows], [one for one, _ in rows])
    text_requests(setup, texts, interventions)
    prompts = [_prompt(setup, text) for text in texts]
    make_requests(setup, prompts, interventions, max_new_tokens)


def _summarized(table: pd.DataFrame, n_texts: int, settings: Sequence[str]) -> dict[str, dict[str, float | bool | int]]:
    """Means over texts by settings; the table has a row for each text and setting, in this order."""
    failed = table["failed"].to_numpy(bool).reshape(n_texts, len(settings)).any(0)
    figures = {}
    for name in _MEANS:
        values = table[name].to_numpy(float).reshape(n_texts, len(settings))
        figures[name] = _unless(failed, values.mean(0))
        if name == "mean_kl":
            figures["kl_error"] = _unless(failed, pd.DataFrame(values).sem().to_numpy())
    columns = {"n_texts": [n_texts] * len(settings), "failed": failed.tolist()} | {k: v.tolist() for k, v in figures.items()}
    return {text: {name: values[i] for name, values in columns.items()} for i, text in enumerate(settings)}


def _unless(failed: np.ndarray, values: Float[np.ndarray, " setting"]) -> Float[np.ndarray, " setting"]:
    return np.where(failed, np.nan, values)


def _described(settings: str, one: Intervention | None) -> dict[str, str | float | int | tuple]:
    row = {"settings": settings, "intervention": "none" if one is None else one.kind}
    if one is None:
        return row
    return row | {"feature": one.feature, "method": one.method.name, "label": one.label, "strength": one.method.strength}
