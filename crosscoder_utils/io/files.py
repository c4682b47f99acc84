"""Files that appear whole or not at all, readable ones with clear errors, and checksums."""

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from crosscoder_utils.io.errors import in_one_line

MANIFEST = "manifest.json"


class _PlainLoader(yaml.SafeLoader):
    """`yaml.safe_load`, with tuples read as lists."""


_PlainLoader.add_constructor("tag:yaml.org,2002:python/tuple", _PlainLoader.construct_yaml_seq)


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield a path to write to; when the context is left it takes the place of `path`, by an exception it is deleted.

    Several may write the same path at once, each to a file of its own: the last to end has its own there, whole.

    Raises:
        OSError: If the disk is full, with a line that says so.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid4().hex[:12]}.partial")  # readers of folders pass over dotted names
    try:
        yield aside
        os.replace(aside, path)
    except (OSError, SafetensorError) as error:
        if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
            raise OSError(
                errno.ENOSPC, f"no space left to write {path}; free some, or choose another folder; nothing was changed"
            ) from error
        raise
    finally:
        aside.unlink(missing_ok=True)


def read_json(path: str | Path) -> dict:
    """Read a JSON file.

    Raises:
        ValueError: If it is none.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no JSON ({error}); fetch or make it again") from error


def read_yaml(path: str | Path) -> dict:
    """Read a YAML file of plain data.

    Raises:
        ValueError: If it is no YAML, has an object of Python in it, or is no mapping.
    """
    try:
        found = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_PlainLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = in_one_line(error)
        raise ValueError(f"{path} cannot be read as YAML of plain data ({reason}); write numbers and texts only") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds {type(found).__name__}, not keys and values; write lines such as 'name: my-model'")
    return found


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
    with whole_file(folder / MANIFEST) as aside:
        aside.write_text(json.dumps(checksums, indent=2) + "\n")


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
    for name, expected in read_json(folder / MANIFEST).items():
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} is missing; {remedy}")
        found = _sha256(folder / name)
        if found != expected:
            raise ValueError(f"{folder / name} was altered: sha256 {found[:12]}…, expected {expected[:12]}…; {remedy}")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
