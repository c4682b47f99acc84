"""Files: crosscoders in our format, safetensors with clear errors, and checksums."""

import hashlib
import json
import os
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from crosscoder_utils.crosscoder import Crosscoder

WEIGHTS, CONFIG, MANIFEST = "crosscoder.safetensors", "config.json", "manifest.json"
_TENSORS = ("W_enc", "b_enc", "threshold", "W_dec", "b_dec")


def save_crosscoder(crosscoder: Crosscoder, folder: str | Path) -> None:
    """Write `config.json` and `crosscoder.safetensors`; each appears whole or not at all."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "format": "crosscoder_utils",
        "activation": "jumprelu",
        "n_points": crosscoder.n_points,
        "d_model": crosscoder.d_model,
        "n_features": crosscoder.n_features,
        "center": crosscoder.center,
    }
    aside = folder / f"{WEIGHTS}.partial"
    save_file({name: getattr(crosscoder, name).detach().cpu().contiguous() for name in _TENSORS}, aside)
    os.replace(aside, folder / WEIGHTS)
    aside = folder / f"{CONFIG}.partial"
    aside.write_text(json.dumps(config, indent=2) + "\n")
    os.replace(aside, folder / CONFIG)


def load_crosscoder(folder: str | Path) -> Crosscoder:
    """Read a crosscoder that `save_crosscoder` wrote.

    Raises:
        FileNotFoundError: If one of the two files is missing.
        ValueError: If a file is damaged, of another format, or lacks a tensor.
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} is missing; a crosscoder folder holds {CONFIG} and {WEIGHTS}")
    try:
        config = json.loads((folder / CONFIG).read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{folder / CONFIG} is no JSON ({error}); fetch or train the crosscoder again") from error
    if config.get("format") != "crosscoder_utils":
        raise ValueError(
            f"{folder / CONFIG} says format {config.get('format')!r}, not 'crosscoder_utils'; write it with save_crosscoder"
        )
    tensors = read_safetensors(folder / WEIGHTS)
    missing = [name for name in _TENSORS if name not in tensors]
    if missing:
        raise ValueError(f"{folder / WEIGHTS} lacks {', '.join(missing)}; it needs {', '.join(_TENSORS)}")
    return Crosscoder(**{name: tensors[name] for name in _TENSORS}, center=config.get("center", False))


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        ValueError: If the file is no safetensors, or cut short.
    """
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is no readable safetensors file ({error}); convert it, or fetch it again") from error


def write_manifest(folder: str | Path) -> None:
    """List the sha256 of every file below `folder` in its `manifest.json`."""
    folder = Path(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    checksums = {path.relative_to(folder).as_posix(): _sha256(path) for path in files}
    (folder / MANIFEST).write_text(json.dumps(checksums, indent=2) + "\n")


def check_manifest(folder: str | Path) -> None:
    """Compare every file that `manifest.json` lists with its checksum.

    Raises:
        FileNotFoundError: If the manifest or a file it lists is missing.
        ValueError: If a file is not the one that was listed.
    """
    folder = Path(folder)
    remedy = "install the package again, or restore the file from the repository"
    if not (folder / MANIFEST).is_file():
        raise FileNotFoundError(f"{folder / MANIFEST} is missing; {remedy}")
    for name, expected in json.loads((folder / MANIFEST).read_text()).items():
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} is missing; {remedy}")
        found = _sha256(folder / name)
        if found != expected:
            raise ValueError(f"{folder / name} was altered: sha256 {found[:12]}…, expected {expected[:12]}…; {remedy}")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
