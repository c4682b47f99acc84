"""Atomic writes, reads of JSON, YAML and safetensors with clear errors, and checksums."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from crosscoder_utils.io.error_messages import in_one_line

MANIFEST = "manifest.json"


class _PlainLoader(yaml.SafeLoader):
    """`yaml.SafeLoader` that reads Python tuples as lists."""


_PlainLoader.add_constructor("tag:yaml.org,2002:python/tuple", _PlainLoader.construct_yaml_seq)


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path to write to; leaving the context moves it to `path`, an exception deletes it.

    Readers therefore see the former file or the new one, never a part. Several processes may write the same path at once, each
    to its own temporary file; the last one to finish wins.

    Raises:
        OSError: If the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = _aside(path)
    try:
        with _full_disk_named(path):
            yield aside
            os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def whole_files(folder: str | Path) -> Iterator[Path]:
    """Yield a temporary folder; leaving the context moves its files into `folder`, an exception deletes it.

    For libraries that write several files of their own naming, such as `save_pretrained`. Every file appears whole.

    Raises:
        OSError: If the disk is full.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    aside = _aside(folder / "files")
    aside.mkdir()
    try:
        with _full_disk_named(folder):
            yield aside
            for path in sorted(aside.iterdir()):
                os.replace(path, folder / path.name)
    finally:
        shutil.rmtree(aside)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically."""
    with whole_file(path) as aside:
        aside.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: str | Path, value: Any) -> None:
    """Write a JSON file atomically, indented by two spaces."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid4().hex[:12]}.partial")  # readers of folders skip names with a leading dot


@contextmanager
def _full_disk_named(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
            raise OSError(
                errno.ENOSPC, f"no space left to write {path}; free some, or choose another folder; nothing was changed"
            ) from error
        raise


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: If the file is not valid JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no JSON ({error}); fetch it or make it again") from error


def read_yaml(path: str | Path) -> dict:
    """Read a YAML file of plain data.

    Raises:
        ValueError: If the file is not valid YAML, contains Python objects, or is not a mapping.
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
        ValueError: If the file is not a safetensors file, or is truncated.
    """
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a readable safetensors file ({error}); convert it, or fetch it again") from error


def write_manifest(folder: str | Path) -> None:
    """Write `manifest.json`: the sha256 of every file in `folder` and its subfolders."""
    folder = Path(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    checksums = {path.relative_to(folder).as_posix(): _sha256(path) for path in files}
    write_json(folder / MANIFEST, checksums)


def check_manifest(folder: str | Path) -> None:
    """Check every file that `manifest.json` lists against its checksum.

    Raises:
        FileNotFoundError: If the manifest or a file it lists is missing.
        ValueError: If a file's checksum differs.
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
