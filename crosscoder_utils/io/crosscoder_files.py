"""Crosscoder files: the package's own format, and through `readers` those of other libraries."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from crosscoder_utils.crosscoder import Crosscoder
from crosscoder_utils.io.files import whole_file, write_json
from crosscoder_utils.io.readers import Found, find_crosscoder
from crosscoder_utils.io.readers.options import Options
from crosscoder_utils.io.readers.own import CONFIG, FORMAT, TENSORS, WEIGHTS
from crosscoder_utils.io.sources import Source, fetch_files, fetch_folder, list_files, local_path, parse_source


def save_crosscoder(crosscoder: Crosscoder, folder: str | Path) -> None:
    """Write `config.json` and `crosscoder.safetensors` to a folder, each atomically."""
    folder = local_path(folder)
    config = {
        "format": FORMAT,
        "n_points": crosscoder.n_points,
        "d_model": crosscoder.d_model,
        "n_features": crosscoder.n_features,
        "center": crosscoder.center,
        "hook_points": None if crosscoder.hook_points is None else [int(point) for point in crosscoder.hook_points],
        "k": None if crosscoder.k is None else int(crosscoder.k),
    }
    with whole_file(folder / WEIGHTS) as aside:
        save_file({name: getattr(crosscoder, name).detach().cpu().contiguous() for name in TENSORS}, aside)
    write_json(folder / CONFIG, config)


def load_crosscoder(
    source: str | Path,
    *,
    center: bool | None = None,
    hook_points: Sequence[int] | None = None,
    scaling_factors: Sequence[float] | None = None,
    threshold: float | None = None,
    model_index: int | None = None,
) -> Crosscoder:
    """Read a crosscoder, or an SAE as one over one hook point, in this package's format or another library's.

    The files present decide which format; the page "Bring your own model and crosscoder" lists what is read. Weights are
    float32 whatever the files' dtype; `Crosscoder.to` converts them. From the hub, only the files that the format needs are
    fetched. A tensor or setting that is not known and could change results is an error.

    Arguments fill in what the files leave out and override what they state.

    Args:
        source: A folder, ``owner/name[/subfolder][@revision]`` on the hub, or ``wandb:entity/project/artifact:version``. If not
            the folder itself but a single one below it holds a crosscoder, that one is read.
        center: Whether the crosscoder was trained on a centred residual stream.
        hook_points: Hook points of the model that it covers, ascending.
        scaling_factors: Factor on the activations at each hook point, for weights into which it is not folded.
        threshold: One threshold for all features, in place of TopK or BatchTopK.
        model_index: Which model's weights to take from a crosscoder over several models. The contribution of the other
            models to its pre-activations is then missing.

    Raises:
        FileNotFoundError: If the source or one of its files is missing.
        ValueError: If a file is damaged or has no known format, or if an argument is needed that was not given, or not valid.
    """
    options = Options(center, hook_points, scaling_factors, threshold, model_index)
    inner, found = locate(source)
    folder, reader = fetch_files(inner, found.files), found.reader
    if options.model_index and not reader.several_models:
        raise ValueError(
            f"model_index={options.model_index} does not exist in {folder}; a {reader.name} folder holds one model"
        )
    crosscoder = reader.read(folder, options)
    if None not in (crosscoder.hook_points, options.hook_points) and crosscoder.hook_points != tuple(options.hook_points):
        raise ValueError(
            f"hook_points={tuple(options.hook_points)}, but the files in {folder} say {crosscoder.hook_points} (0 is after the "
            "embedding, l after block l); leave hook_points out"
        )
    if options.threshold is not None and crosscoder.k is None and (crosscoder.threshold != options.threshold).any():
        raise ValueError(
            f"threshold={options.threshold} cannot replace the thresholds that the features in {folder} have; leave it out: it "
            "is for TopK and BatchTopK"
        )
    changes = {"center": options.center, "hook_points": options.hook_points}
    crosscoder = replace(crosscoder, **{name: value for name, value in changes.items() if value is not None})
    _check_finite(crosscoder, folder)
    return crosscoder if options.threshold is None else crosscoder.with_threshold(options.threshold)


def locate(source: str | Path) -> tuple[Source, Found]:
    """The folder with the crosscoder's files, here or on the hub, and their format; of the hub, nothing is fetched.

    Raises:
        FileNotFoundError: If the source is missing.
        ValueError: If its format is not known, or it holds several crosscoders.
    """
    is_artifact = str(source).startswith("wandb:")
    where = Source(str(fetch_folder(source)), is_local=True) if is_artifact else parse_source(source)
    found = find_crosscoder(list_files(where), str(where))
    if where.is_local:
        return replace(where, name=str(Path(where.name) / found.subfolder)), found
    return replace(where, subfolder="/".join(filter(None, (where.subfolder, found.subfolder)))), found


def _check_finite(crosscoder: Crosscoder, folder: Path) -> None:
    for name in TENSORS:
        tensor = getattr(crosscoder, name)
        if name == "threshold":
            tensor = tensor[tensor != -torch.inf]  # no threshold, with TopK
        # A sum of finite numbers is finite, unless it overflows; looking at each number takes long, and memory.
        parts = [part for part in tensor.flatten().split(2**24) if not torch.isfinite(part.sum())]
        bad = sum(int((~torch.isfinite(part)).sum()) for part in parts)
        if bad:
            raise ValueError(
                f"{name} of the crosscoder in {folder} has {bad} values that are NaN or infinite; the training run diverged or "
                "the file is damaged: use an earlier checkpoint"
            )
