"""Sweeps: every intervention of a grid on every prompt, as one table, stored on disk if a folder is given."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import pandas as pd
from tqdm import tqdm

from crosscoder_utils.analysis.metrics import overshoot, score
from crosscoder_utils.analysis.store import RowFiles, assets_of, check_columns, row_id, settings_text, storable
from crosscoder_utils.generation import RECORDS, as_rows, generate, make_requests
from crosscoder_utils.interventions import Ablate, Intervention
from crosscoder_utils.io.validation import (
    Progress,
    Texts,
    checked_progress,
    chosen,
    instance,
    instances,
    numbers,
    texts,
    whole_number,
)
from crosscoder_utils.loading import Setup
from crosscoder_utils.methods import ManyLayers, Perturbation, SingleLayer

SINGLE_LAYER_SCALES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
MANY_LAYERS_SCALES = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0)
LEARNING_RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64)

Row = tuple[Intervention | None, str]
"""What gives one row of the table: an intervention, or None for none, and a prompt."""


def ablation_grid(
    feature: int,
    n_points: int,
    single_layer_scales: Sequence[float] = SINGLE_LAYER_SCALES,
    many_layers_scales: Sequence[float] = MANY_LAYERS_SCALES,
    learning_rates: Sequence[float] = LEARNING_RATES,
    steps: int = 15,
    random: int | None = None,
) -> list[Ablate]:
    """Ablate a feature with every method over a range of its hyperparameter: by default, the grid of the post.

    Args:
        feature: Feature to ablate.
        n_points: Number of hook points; the single layer method is applied at each of them.
        single_layer_scales: Scales of the single layer method.
        many_layers_scales: Scales of the many layers method.
        learning_rates: Learning rates of the perturbation method.
        steps: Maximum number of gradient steps of the perturbation method.
        random: Seed of random directions, for a control; None for the feature's own directions.
    """
    points = range(whole_number("n_points", n_points, 1, 10_000))
    scales = numbers("single_layer_scales", single_layer_scales)
    methods = [SingleLayer(point, scale, random) for point in points for scale in scales]
    methods += [ManyLayers(scale, random) for scale in numbers("many_layers_scales", many_layers_scales)]
    methods += [Perturbation(lr, steps, random) for lr in numbers("learning_rates", learning_rates)]
    return [Ablate(feature, method) for method in methods]


@dataclass(frozen=True)
class Options:
    """Arguments of `generate` that all rows of a sweep share."""

    max_new_tokens: int
    seed: int
    record: str


@dataclass(frozen=True)
class Task:
    """A part of a sweep's missing rows, to be computed together.

    Attributes:
        rows: Interventions and prompts.
        row_ids: Ids of the rows, from `store.row_id`.
        options: Arguments of `generate` that the rows share.
        assets: Digest of the setup, from `store.assets_of`.
    """

    rows: Sequence[Row]
    row_ids: Sequence[str]
    options: Options
    assets: str

    def run(self, setup: Setup, progress: Progress = False) -> pd.DataFrame:
        """Compute the rows; return their table with all columns that are stored."""
        made_with = {"row_id": list(self.row_ids), "assets": self.assets} | asdict(self.options)
        return storable(setup, self.table(setup, progress), [intervention for intervention, _ in self.rows], **made_with)

    def table(self, setup: Setup, progress: Progress) -> pd.DataFrame:
        """What is computed."""
        return compute_rows(setup, self.rows, self.options, progress)


@runtime_checkable
class Workers(Protocol):
    """Runs tasks in other processes, such as `ray_workers.RayWorkers`."""

    def run(self, setup: Setup, tasks: Sequence[Task]) -> Iterator[pd.DataFrame]:
        """Yield the result of `Task.run` for every task, in any order."""


def sweep(
    setup: Setup,
    prompts: Texts,
    interventions: Iterable[Intervention | None] | Intervention | None,
    max_new_tokens: int = 80,
    seed: int = 0,
    record: str = "target",
    progress: Progress = True,
    folder: str | Path | None = None,
    workers: Workers | None = None,
    rows_per_file: int = 480,
) -> pd.DataFrame:
    """Complete every prompt under every intervention and score the completions.

    With a `folder`, rows are stored as they are computed, and stored rows are not computed again: an interrupted sweep resumes
    where it stopped, and a sweep with a larger grid computes the new settings only. A stored row is reused if weights,
    configuration, tokenizer, prompt, intervention, `max_new_tokens`, `seed` and `record` are equal.
    `pandas.read_parquet(folder)` reads everything that was ever stored in a folder.

    Args:
        setup: From `load`.
        prompts: Deployment prompts, one or several.
        interventions: The grid, one or several; None stands for the untouched model.
        max_new_tokens: As for `generate`.
        seed: As for `generate`.
        record: As for `generate`.
        progress: Whether to show a progress bar; or a function that is called with the number of rows that have just ended,
            stored ones at once.
        folder: Folder of the stored rows; None keeps them in memory only.
        workers: What computes the rows that `folder` lacks; by default, this process.
        rows_per_file: Number of rows that are computed together and stored in one file.

    Returns:
        One row per intervention and prompt: `setting` (index of the intervention) and `prompt_index`, the columns of
        `Generations.to_frame`, those of `score`, `overshoot`, `settings` (all parameters as JSON) and, with a folder, the
        others of `store.storable`.

    Raises:
        ValueError: If there are no interventions or no prompts, if workers are given without a folder, or if `folder` cannot
            be written or a file in it not be read; and whatever `generate` raises. All before the first row is computed.
    """
    if workers is not None and folder is None:
        raise ValueError("workers need a folder to store their rows in; give folder=")
    if workers is not None:
        instance("workers", workers, Workers, "give RayWorkers(n=2), or leave it out")
    max_new_tokens, rows_per_file = (
        whole_number("max_new_tokens", max_new_tokens, 1),
        whole_number("rows_per_file", rows_per_file, 1),
    )
    progress = checked_progress(progress)
    options = Options(max_new_tokens, whole_number("seed", seed), chosen("record", record, RECORDS))
    prompts = texts("prompts", prompts)
    interventions = instances(
        "interventions", interventions, Intervention, "give Ablate(feature, method) or None", or_none=True
    )
    rows = [(one, prompt) for one in interventions for prompt in prompts]
    if not rows:
        raise ValueError(
            f"{len(interventions)} interventions on {len(prompts)} prompts is nothing to do; give at least one of each"
        )
    make_requests(setup, *as_rows(setup, [prompt for _, prompt in rows], [one for one, _ in rows]), max_new_tokens)
    check_columns(interventions)
    index = pd.MultiIndex.from_product([range(len(interventions)), range(len(prompts))], names=["setting", "prompt_index"])
    if folder is None:
        table = compute_rows(setup, rows, options, progress).assign(settings=[settings_text(one) for one, _ in rows])
    else:
        table = computed_rows(setup, rows, options, folder, workers, progress, rows_per_file, Task, "sweep")
    return pd.concat([index.to_frame(index=False), table], axis=1)


def compute_rows(setup: Setup, rows: Sequence[Row], options: Options, progress: Progress = False) -> pd.DataFrame:
    """Complete and score some rows of a sweep; return their table, in their order."""
    interventions, prompts = zip(*rows, strict=True)
    generations = generate(
        setup, prompts, interventions, options.max_new_tokens, seed=options.seed, record=options.record, progress=progress
    )
    table = pd.concat([generations.to_frame(), score(setup, generations)], axis=1)
    return table.assign(overshoot=overshoot(setup, generations)) if options.record != "nothing" else table


def computed_rows(
    setup: Setup,
    rows: Sequence[Row],
    options: Options,
    folder: str | Path | None,
    workers: Workers | None,
    progress: Progress,
    rows_per_file: int,
    kind: type[Task],
    name: str,
) -> pd.DataFrame:
    """The table of some rows, in their order; those that `folder` has are read, the others computed and stored there.

    `kind` of task computes them, and `name` stands before the progress bar.
    """
    files = None if folder is None else RowFiles(folder)
    assets, stored = assets_of(setup), set() if files is None else files.ids()
    ids = [row_id(assets, prompt, intervention, asdict(options)) for intervention, prompt in rows]
    tasks = missing_tasks(rows, ids, stored, options, assets, rows_per_file, kind)
    total, missing = len(set(ids)), sum(len(task.rows) for task in tasks)
    tables: list[pd.DataFrame] = []
    keep = tables.append if files is None else files.add
    hidden = progress is not True
    with tqdm(total=total, initial=total - missing, desc=name, unit="row", mininterval=2, disable=hidden) as bar:
        advance = bar.update
        if callable(progress):
            advance = progress
            advance(total - missing)
        if workers is None:
            for task in tasks:
                keep(task.run(setup, advance))
        else:
            for table in workers.run(setup, tasks):
                keep(table)
                advance(len(table))
    if files is not None:
        return files.read(ids)
    return pd.concat(tables).set_index("row_id").loc[ids].reset_index() if tables else pd.DataFrame()


def missing_tasks(
    rows: Sequence[Row],
    ids: Sequence[str],
    stored: set[str],
    options: Options,
    assets: str,
    size: int,
    kind: type[Task],
) -> list[Task]:
    """Tasks for the rows that are not stored yet; rows with equal ids are computed once.

    The *whole* grid is split into parts of `size` rows, and the stored rows are left out of them: a row is then computed beside
    nearly the same rows, and rounded in the same way, whether or not the sweep was interrupted.
    """
    tasks, known = [], set(stored)
    for start in range(0, len(rows), size):
        missing = []
        for number in range(start, min(start + size, len(rows))):
            if ids[number] not in known:
                known.add(ids[number])
                missing.append(number)
        if missing:
            tasks.append(kind([rows[i] for i in missing], [ids[i] for i in missing], options, assets))
    return tasks
