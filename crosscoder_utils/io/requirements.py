"""What a model and its crosscoder take, found out before they are fetched: gigabytes to download, and of memory."""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil
import torch
from huggingface_hub import HfApi, try_to_load_from_cache

from crosscoder_utils.io.crosscoder_files import locate
from crosscoder_utils.io.sources import Source, fetch_files, list_files, parse_source, reading
from crosscoder_utils.io.transformers_models import read_config

WORTH_SAYING = 1e9
"""What takes less memory than this, in bytes, and is there already, is loaded without a word."""
_WEIGHTS = re.compile(r"(model(-\d+-of-\d+)?\.safetensors)|(pytorch_model(-\d+-of-\d+)?\.bin)")
_SETTINGS = (".json", ".yaml", ".yml")


def check_requirements(
    name: str, model: str, crosscoder: str | Path | None, dtype: str, copies: int, device: torch.device
) -> None:
    """Say in one line what is going to be downloaded and how much memory it takes.

    Args:
        name: Of the preset.
        model: Source of a model in transformers' format. One whose files are incomplete is left to `read_causal_lm`.
        crosscoder: Source of a crosscoder; None if there is none to read.
        dtype: Data type of the model in memory.
        copies: How many models are made of it.
        device: Where model and crosscoder go.

    Raises:
        FileNotFoundError: If a source does not exist, or cannot be reached and is not in the cache.
        ValueError: If the crosscoder's files name hook points that the model does not have, or the memory does not suffice.
    """
    source = parse_source(model)
    held = list_files(source)
    weights = [file for file in held if _WEIGHTS.fullmatch(file)]
    if "config.json" not in held or not weights:
        return
    config = read_config(model)
    sizes, missing = _sizes(source, _of_one_format(weights))
    stored = getattr(torch, str(config.dtype).removeprefix("torch."), torch.float32)
    blocks = getattr(config.get_text_config(), "num_hidden_layers", None)
    needs = {"the model": copies * sum(sizes) * getattr(torch, dtype).itemsize / stored.itemsize}
    if crosscoder is not None and not str(crosscoder).startswith("wandb:"):
        inner, found = locate(crosscoder)
        settings = [file for file in found.files if file.endswith(_SETTINGS)]
        if blocks is not None:
            check_covered(found.reader.stated_hook_points(fetch_files(inner, settings)), blocks + 1)
        sizes, also = _sizes(inner, [file for file in found.files if file not in settings])
        needs["the crosscoder"], missing = found.reader.memory(sizes), missing + also
    _check_memory(name, needs, missing, device)


def check_covered(hook_points: Sequence[int] | None, n_points: int) -> None:
    """Raise a `ValueError` if a crosscoder covers hook points beyond the model's."""
    if hook_points and max(hook_points) >= n_points:
        raise ValueError(
            f"the crosscoder covers hook points {tuple(hook_points)}, the model has {n_points} (0 after the embedding, l after "
            "block l); load the model it was trained on"
        )


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def _check_memory(name: str, needs: dict[str, float], missing: int, device: torch.device) -> None:
    parts = " and ".join(f"{part} {size / 1e9:.3g} GB" for part, size in needs.items())
    places = {device: sum(needs.values())}
    if device.type == "cuda":  # on its way there, each lies in this machine's memory
        places[torch.device("cpu")] = max(needs.values())
    for place, needed in places.items():
        if needed > free_memory(place):
            raise ValueError(
                f"{name!r} takes {needed / 1e9:.3g} GB of memory on {place} ({parts}), of which "
                f"{free_memory(place) / 1e9:.3g} GB are free; take a narrower crosscoder, a smaller model, dtype: bfloat16, "
                "or a machine with more"
            )
    if missing or sum(needs.values()) > WORTH_SAYING:
        fetched = f"downloads {missing / 1e9:.3g} GB" if missing else "is all here"
        print(f"{name!r} {fetched}; memory on {device}: {parts}", file=sys.stderr)


def _of_one_format(weights: Sequence[str]) -> list[str]:
    """The files that transformers reads: those of safetensors, if there are any."""
    return [file for file in weights if file.endswith(".safetensors")] or list(weights)


def _sizes(source: Source, names: Sequence[str]) -> tuple[list[int], int]:
    """Size of each file in bytes, and the sum of those that are neither here nor in the cache."""
    if source.is_local:
        return [os.path.getsize(Path(source.name, name)) for name in names], 0
    inside = {name: os.path.normpath(Path(source.subfolder, name)) for name in names}
    kept = {name: try_to_load_from_cache(source.name, path, revision=source.revision) for name, path in inside.items()}
    sizes = {name: os.path.getsize(path) for name, path in kept.items() if isinstance(path, str)}
    missing = [name for name in names if name not in sizes]
    if missing:
        with reading(source):
            found = HfApi().model_info(source.name, revision=source.revision, files_metadata=True)
        listed = {file.rfilename: file.size or 0 for file in found.siblings}
        sizes |= {name: listed[inside[name]] for name in missing}
    return [sizes[name] for name in names], sum(sizes[name] for name in missing)
