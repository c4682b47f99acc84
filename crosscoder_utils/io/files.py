"""Atomic writes, reads of JSON, YAML and safetensors with clear errors, and checksums."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any
from uuid import uuid4

import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from crosscoder_utils.io.error_messages import in_one_line, shown

MANIFEST = "manifest.json"


class _PlainLoader(yaml.SafeLoader):
    """`yaml.SafeLoader` that reads Python tuples as lists."""


_PlainLoader.add_constructor("tag:yaml.org,2002:python/tuple", _PlainLoader.construct_yaml_seq)


def user_path(path: str | Path) -> Path:
    """A path as a user gives it, with `~` expanded.

    Raises:
        ValueError: If it is no path, or the system does not let us look at it.
    """
    if not isinstance(path, (str, os.PathLike)) or not str(path) or "\0" in str(path):
        raise ValueError(f"path {shown(path)} must be a text or a Path, such as 'outputs/rows'")
    try:
        path = Path(path).expanduser()
        os.fsencode(path)  # a name that the locale cannot write
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"path {shown(str(path))} cannot be looked at ({_reason(error)}); give another path") from error
    return path


def beside(value: Any, folder: Path) -> Any:
    """A source, or a list or mapping with sources; folders and GGUF files beside a file become absolute paths."""
    if isinstance(value, dict):
        return value | {"source": beside(value["source"], folder)} if "source" in value else value
    if isinstance(value, list):
        return [beside(one, folder) if isinstance(one, str) else one for one in value]
    path = user_path(folder / value) if isinstance(value, str) and value else None
    if path is not None and (path.is_dir() or (path.suffix == ".gguf" and path.is_file())):
        return str((folder / value).resolve())
    return value


def check_readable(folder: str | Path) -> Path:
    """The path of a folder whose files can be listed; nothing is written there.

    Raises:
        FileNotFoundError: If it does not exist.
        ValueError: If it is a file, or the system does not allow reading it.
    """
    folder = user_path(folder)
    if not folder.exists():
        raise FileNotFoundError(f"folder {folder} does not exist; check the path")
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file; give the path of the folder that it is in")
    try:
        os.listdir(folder)
    except OSError as error:
        raise ValueError(f"folder {folder} cannot be read ({_reason(error)}); check its permissions and the disk") from error
    return folder


def check_writable(folder: str | Path) -> Path:
    """The path of a folder in which files can be written; it need not exist yet, and is not made.

    Raises:
        ValueError: If it is a file, or the system does not allow writing there.
    """
    folder = user_path(folder)
    nearest = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    if not nearest.is_dir():
        raise ValueError(f"{nearest} is a file, so {folder} cannot be a folder; give another folder")
    try:
        with TemporaryFile(dir=nearest):
            os.listdir(nearest)
    except OSError as error:
        raise ValueError(
            f"{folder} cannot be written ({_reason(error)}); give another folder, or allow writing there"
        ) from error
    return folder


def check_writable_file(path: str | Path) -> Path:
    """The path of a file that can be written, in a folder that need not exist yet; errors as for `check_writable`."""
    path = user_path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the path of a file in it, such as {path / 'name'}")
    check_writable(path.parent)
    return path


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path to write to; leaving the context moves it to `path`, an exception deletes it.

    Readers therefore see the former file or the new one, never a part. Several processes may write the same path at once, each
    to its own temporary file; the last one to finish wins.

    Raises:
        OSError: If the disk is full.
        ValueError: If the system does not allow writing there.
    """
    path = user_path(path)
    aside = _aside(path)
    with _errors_named(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield aside
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)


@contextmanager
def whole_files(folder: str | Path) -> Iterator[Path]:
    """Yield a temporary folder; leaving the context moves its files into `folder`, an exception deletes it.

    For libraries that write several files of their own naming, such as `save_pretrained`. Every file appears whole; errors are
    those of `whole_file`.
    """
    folder = user_path(folder)
    aside = _aside(folder / "files")
    with _errors_named(folder):
        try:
            aside.mkdir(parents=True)
            yield aside
            for path in sorted(aside.iterdir()):
                os.replace(path, folder / path.name)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


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
def _errors_named(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
            raise OSError(
                errno.ENOSPC, f"no space left to write {path}; free some, or choose another folder; nothing was changed"
            ) from error
        raise ValueError(
            f"{path} cannot be written ({_reason(error)}); give another path, or allow writing there; nothing was changed"
        ) from error


@contextmanager
def opened(path: str | Path) -> Iterator[None]:
    """Within the context, errors of the system while reading `path` become one line.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is a folder, or the system does not allow reading it.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} does not exist; check the path, or fetch or make the file again") from error
    except IsADirectoryError as error:
        raise ValueError(f"{path} is a folder; give the path of a file") from error
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({_reason(error)}); the file itself may be fine: check its permissions and the disk, then "
            "try again"
        ) from error


def _reason(error: Exception) -> str:
    """What the system said, without the path."""
    return getattr(error, "strerror", None) or in_one_line(error, 100)


def read_text(path: str | Path) -> str:
    """Read a text file as UTF-8, whatever the locale; a byte order mark is left out.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is not UTF-8, or cannot be read.
    """
    path = user_path(path)
    with opened(path):
        content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 (byte {error.start}); save it as UTF-8, or fetch it again") from error


def read_json(path: str | Path) -> Any:
    """Read a JSON file; errors as for `read_text`, and a `ValueError` if the file is not valid JSON."""
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # a ValueError also for numbers of thousands of digits
        raise ValueError(f"{path} is no JSON ({in_one_line(error)}); fetch it or make it again") from error


def read_yaml(path: str | Path) -> dict:
    """Read a YAML file of plain data; errors as for `read_text`.

    Raises:
        ValueError: If the file is not valid YAML, contains Python objects, or is not a mapping of names.
    """
    text = read_text(path)
    try:
        found = yaml.load(text, Loader=_PlainLoader)
    except Exception as error:  # PyYAML raises errors of every kind, such as a KeyError for `!!bool maybe`
        reason = in_one_line(error)
        raise ValueError(f"{path} cannot be read as YAML of plain data ({reason}); write numbers and texts only") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds {type(found).__name__}, not keys and values; write lines such as 'name: my-model'")
    for key in found:
        if not isinstance(key, str):
            raise ValueError(f"{path} has the key {shown(key)}, which is no text; write names, or put it in quotes")
    return found


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is not a safetensors file, is truncated, or cannot be read.
    """
    path = user_path(path)
    with opened(path):
        path.open("rb").close()  # raises what the system says; safetensors has its own words
        try:
            return load_file(path)
        except (SafetensorError, KeyError, AttributeError) as error:  # the last two: a dtype that torch lacks
            reason = in_one_line(error)
            raise ValueError(f"{path} is not a readable safetensors file ({reason}); convert it, or fetch it again") from error


def write_manifest(folder: str | Path) -> None:
    """Write `manifest.json`: the sha256 of every file in `folder` and its subfolders."""
    folder = user_path(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    checksums = {path.relative_to(folder).as_posix(): _sha256(path) for path in files}
    write_json(folder / MANIFEST, checksums)


def check_manifest(folder: str | Path) -> None:
    """Check every file that `manifest.json` lists against its checksum.

    Raises:
        FileNotFoundError: If the manifest or a file it lists is missing.
        ValueError: If a file's checksum differs.
    """
    folder = user_path(folder)
    remedy = "install the package again, or restore the file from the repository"
    if not (folder / MANIFEST).is_file():
        raise FileNotFoundError(f"{folder / MANIFEST} is missing; {remedy}")
    listed = read_json(folder / MANIFEST)
    if not isinstance(listed, dict):
        raise ValueError(f"{folder / MANIFEST} holds {type(listed).__name__}, not names and checksums; {remedy}")
    for name, expected in listed.items():
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} is missing; {remedy}")
        found = _sha256(folder / name)
        if found != expected:
            raise ValueError(f"{folder / name} was altered: sha256 {found[:12]}…, expected {str(expected)[:12]}…; {remedy}")


def _sha256(path: Path) -> str:
    with opened(path):
        return hashlib.sha256(path.read_bytes()).hexdigest()
