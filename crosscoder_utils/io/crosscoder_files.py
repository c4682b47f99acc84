"""Crosscoder files: the package's own format, and through `other_formats` those of other libraries."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from crosscoder_utils.crosscoder import Crosscoder
from crosscoder_utils.io import other_formats
from crosscoder_utils.io.files import read_json, read_safetensors, whole_file, write_json
from crosscoder_utils.io.sources import fetch_folder

WEIGHTS, CONFIG = "crosscoder.safetensors", "config.json"
_TENSORS = ("W_enc", "b_enc", "threshold", "W_dec", "b_dec")


def save_crosscoder(crosscoder: Crosscoder, folder: str | Path) -> None:
    """Write `config.json` and `crosscoder.safetensors` to a folder, each atomically."""
    folder = Path(folder)
    config = {
        "format": "crosscoder_utils",
        "n_points": crosscoder.n_points,
        "d_model": crosscoder.d_model,
        "n_features": crosscoder.n_features,
        "center": crosscoder.center,
        "hook_points": crosscoder.hook_points,
        "k": crosscoder.k,
    }
    with whole_file(folder / WEIGHTS) as aside:
        save_file({name: getattr(crosscoder, name).detach().cpu().contiguous() for name in _TENSORS}, aside)
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
    """Read a crosscoder in this package's format or another library's; the files present decide which.

    - this package: `config.json` and `crosscoder.safetensors`
    - the model-diffing replication of early 2025 and its successor crosscode: `model_cfg.yaml` and `model.pt`
    - a residual SAE of SAELens: `cfg.json` and `sae_weights.safetensors`

    Arguments fill in what the files leave out and override what they state.

    Args:
        source: A folder, ``owner/name[/subfolder][@revision]`` on the hub, or ``wandb:entity/project/artifact:version``.
        center: Whether the crosscoder was trained on a centred residual stream, such as TransformerLens 2 gives.
        hook_points: Hook points of the model that it covers.
        scaling_factors: Factor on the activations at each hook point, for weights into which it is not folded.
        threshold: One threshold for all features, in place of TopK or BatchTopK.
        model_index: Which model's weights to take from a crosscoder over several models. The contribution of the other
            models to its pre-activations is then missing.

    Raises:
        FileNotFoundError: If the source or one of its files is missing.
        ValueError: If a file is damaged or has no known format, or if an argument is needed that was not given.
    """
    folder = fetch_folder(source, ["*.json", "*.yaml", "*.safetensors", "*.pt"])
    if (folder / other_formats.PICKLE).is_file() or (folder / other_formats.PICKLE_CONFIG).is_file():
        crosscoder = other_formats.read_pickled(folder, scaling_factors, model_index, threshold)
    elif (folder / other_formats.SAE_CONFIG).is_file():
        crosscoder = other_formats.read_saelens(folder, threshold)
    else:
        crosscoder = _read_own(folder)
    changes = {"center": center, "hook_points": None if hook_points is None else tuple(hook_points)}
    crosscoder = replace(crosscoder, **{name: value for name, value in changes.items() if value is not None})
    _check_finite(crosscoder, folder)
    return crosscoder if threshold is None else crosscoder.with_threshold(threshold)


def _read_own(folder: Path) -> Crosscoder:
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} is missing; a crosscoder folder holds {CONFIG} and {WEIGHTS}")
    config = read_json(folder / CONFIG)
    if config.get("format") != "crosscoder_utils":
        raise ValueError(
            f"{folder / CONFIG} says format {config.get('format')!r}, not 'crosscoder_utils'; write it with save_crosscoder"
        )
    tensors = read_safetensors(folder / WEIGHTS)
    missing = [name for name in _TENSORS if name not in tensors]
    if missing:
        raise ValueError(f"{folder / WEIGHTS} lacks {', '.join(missing)}; it needs {', '.join(_TENSORS)}")
    hook_points = config.get("hook_points")
    return Crosscoder(
        **{name: tensors[name] for name in _TENSORS},
        center=config.get("center", False),
        hook_points=None if hook_points is None else tuple(hook_points),
        k=config.get("k"),
    )


def _check_finite(crosscoder: Crosscoder, folder: Path) -> None:
    for name in _TENSORS:
        tensor = getattr(crosscoder, name)
        bad = ~torch.isfinite(tensor)
        if name == "threshold":
            bad &= tensor != -torch.inf  # no threshold, with TopK
        if bad.any():
            raise ValueError(
                f"{name} of the crosscoder in {folder} has {int(bad.sum())} values that are NaN or infinite; the training run "
                "diverged or the file is damaged: use an earlier checkpoint"
            )
