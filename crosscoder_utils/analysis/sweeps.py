"""A grid of settings, every one on the same prompts, as one table; kept on disk where it has to survive."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import pandas as pd
from tqdm import tqdm

from crosscoder_utils.analysis.metrics import overshoot, score
from crosscoder_utils.analysis.store import RowFiles, assets_of, row_id, storable
from crosscoder_utils.generation import generate
from crosscoder_utils.interventions import Ablate, Intervention, ManyLayers, Perturbation, SingleLayer
from crosscoder_utils.loading import Setup

_ROWS_PER_FILE = 480

SINGLE_LAYER_SCALES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
MANY_LAYERS_SCALES = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0)
LEARNING_RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64)

Row = tuple[Intervention | None, str]


def ablation_grid(
    feature: int,
    n_points: int,
    single_layer_scales: Sequence[float] = SINGLE_LAYER_SCALES,
    many_layers_scales: Sequence[float] = MANY_LAYERS_SCALES,
    learning_rates: Sequence[float] = LEARNING_RATES,
    steps: int = 15,
    random: int | None = None,
) -> list[Ablate]:
    """Every method over its hyperparameter: by default, the grid of the post.

    Args:
        feature: What to ablate.
        n_points: Number of hook points; the single layer method is tried at each.
        single_layer_scales: Scales at each hook point.
        many_layers_scales: Scales at all of them at once.
        learning_rates: Of the perturbation.
        steps: Gradient steps of the perturbation.
        random: Seed of the random directions of a control; None is the feature itself.
    """
    methods = [SingleLayer(point, float(s), random) for point in range(n_points) for s in single_layer_scales]
    methods += [ManyLayers(float(s), random) for s in many_layers_scales]
    methods += [Perturbation(float(lr), steps, random) for lr in learning_rates]
    return [Ablate(feature, method) for method in methods]


@dataclass(frozen=True)
class Options:
    """What all rows of a sweep have in common; see `generate`."""

    max_new_tokens: int
    seed: int
    record: str


@dataclass(frozen=True)
class Task:
    """Some rows that a sweep still lacks.

    Attributes:
        rows: What to compute.
        row_ids: Their ids, from `sweep_files.row_id`.
        options: What they have in common.
        assets: Digest of the setup they belong to.
    """

    rows: Sequence[Row]
    row_ids: Sequence[str]
    options: Options
    assets: str

    def run(self, setup: Setup, progress: Callable[[int], object] | bool = False) -> pd.DataFrame:
        """The rows' table, with all that is stored."""
        table = compute_rows(setup, self.rows, self.options, progress)
        made_with = {"row_id": list(self.row_ids), "assets": self.assets} | asdict(self.options)
        return storable(setup, table, [intervention for intervention, _ in self.rows], **made_with)


class Workers(Protocol):
    """Something that runs tasks elsewhere, such as `ray_workers.RayWorkers`."""

    def run(self, setup: Setup, tasks: Sequence[Task]) -> Iterator[pd.DataFrame]:
        """What `Task.run` gives for each task, in any order, as it comes."""


def sweep(
    setup: Setup,
    prompts: Sequence[str],
    interventions: Sequence[Intervention | None],
    max_new_tokens: int = 80,
    seed: int = 0,
    record: str = "target",
    progress: bool = True,
    folder: str | Path | None = None,
    workers: Workers | None = None,
) -> pd.DataFrame:
    """Complete every prompt under every intervention and score the completions.

    With a `folder`, rows are written there as they come, and those that are there already are not computed again: a sweep
    that was interrupted goes on where it stopped, and one whose grid has grown computes what is new. A row counts as
    there if it has the same weights, configuration, tokenizer, prompt, intervention, `max_new_tokens`, `seed` and `record`.
    `pandas.read_parquet(folder)` reads all that was ever written to a folder.

    Args:
        setup: From `load`.
        prompts: Deployment prompts.
        interventions: The grid; None is the untouched model.
        max_new_tokens: As for `generate`.
        seed: As for `generate`.
        record: As for `generate`.
        progress: Show a progress bar.
        folder: Where rows are kept.
        workers: Who computes the rows that `folder` lacks; by default, this process.

    Returns:
        One line per intervention and prompt: `setting` and `prompt_index`, the columns of `Generations.to_frame`, those
        of `score`, `overshoot`, and, with a folder, what the rows were made with.

    Raises:
        ValueError: What `generate` raises; if there is nothing to do, or a file in `folder` that cannot be read, or if
            there are workers without a folder.
    """
    if workers is not None and folder is None:
        raise ValueError("workers need a folder to keep their rows in; give folder=")
    options = Options(max_new_tokens, seed, record)
    rows = [(one, prompt) for one in interventions for prompt in prompts]
    if not rows:
        raise ValueError(f"{len(interventions)} interventions on {len(prompts)} prompts is nothing to do; give one of each")
    index = pd.MultiIndex.from_product([range(len(interventions)), range(len(prompts))], names=["setting", "prompt_index"])
    if folder is None:
        table = compute_rows(setup, rows, options, progress)
    else:
        table = _compute_missing(setup, rows, options, progress, RowFiles(folder), workers)
    return pd.concat([index.to_frame(index=False), table], axis=1)


def compute_rows(
    setup: Setup, rows: Sequence[Row], options: Options, progress: bool | Callable[[int], object] = False
) -> pd.DataFrame:
    """Complete, score and tabulate some rows of a sweep, in their order."""
    interventions, prompts = zip(*rows, strict=True)
    generations = generate(
        setup, prompts, interventions, options.max_new_tokens, seed=options.seed, record=options.record, progress=progress
    )
    table = pd.concat([generations.to_frame(), score(setup, generations)], axis=1)
    return table.assign(overshoot=overshoot(setup, generations)) if options.record != "nothing" else table


def _compute_missing(
    setup: Setup, rows: Sequence[Row], options: Options, progress: bool, files: RowFiles, workers: Workers | None
) -> pd.DataFrame:
    assets = assets_of(setup)
    ids = [row_id(assets, prompt, intervention, asdict(options)) for intervention, prompt in rows]
    tasks = _tasks(rows, ids, files.ids(), options, assets)
    n_missing = sum(len(task.rows) for task in tasks)
    with tqdm(
        total=len(set(ids)), initial=len(set(ids)) - n_missing, desc="sweep", unit="row", mininterval=2, disable=not progress
    ) as bar:
        if workers is None:
            for task in tasks:
                files.add(task.run(setup, bar.update))
        else:
            for table in workers.run(setup, tasks):
                files.add(table)
                bar.update(len(table))
    return files.read(ids)


def _tasks(rows: Sequence[Row], ids: Sequence[str], there: set[str], options: Options, assets: str) -> list[Task]:
    """What is not there yet, once each.

    The *whole* grid is cut into parts: a row is then computed beside the same rows as in a sweep that nothing interrupted,
    and rounds in the same way.
    """
    tasks, known = [], set(there)
    for start in range(0, len(rows), _ROWS_PER_FILE):
        missing = []
        for number in range(start, min(start + _ROWS_PER_FILE, len(rows))):
            if ids[number] not in known:
                known.add(ids[number])
                missing.append(number)
        if missing:
            tasks.append(Task([rows[i] for i in missing], [ids[i] for i in missing], options, assets))
    return tasks
