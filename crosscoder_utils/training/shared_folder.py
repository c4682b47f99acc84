"""A folder that may be shared: a crosscoder's or an adapter's files, nothing else, and nothing private in them."""

import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Literal

import torch

from crosscoder_utils.io.crosscoder_files import load_crosscoder
from crosscoder_utils.io.error_messages import shown
from crosscoder_utils.io.files import read_json, read_safetensors, read_text, user_path
from crosscoder_utils.io.readers.own import CONFIG, WEIGHTS
from crosscoder_utils.training.loop import CHECKPOINT
from crosscoder_utils.training.recipe_file import FIGURES, RECIPE

CARD = "README.md"
_ADAPTER_CONFIG, _ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_FILES = {"crosscoder": (CONFIG, WEIGHTS), "adapter": (_ADAPTER_CONFIG, _ADAPTER_WEIGHTS)}
_OPTIONAL = (RECIPE, FIGURES, CARD)
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}")
_PATH = re.compile(r"(?:^|[\s\"'`(=:])(~/[^\s\"'`)]+|/[\w.-]+/[^\s\"'`)]*|[A-Za-z]:\\[^\s\"'`)]*)")
_HUB_SOURCE = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*/[\w.-]+)(/[\w./-]+)?(@[\w./-]+)?")
_REPOSITORY = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?P<inside>(/[\w.-]*[\w-])*)", re.ASCII)


@dataclass(frozen=True)
class SharedFolder:
    """A folder that was found to hold what it should.

    Attributes:
        folder: Its path.
        kind: What it holds.
        config: Content of its `config.json` or `adapter_config.json`, as it may be read by others: no path of this machine.
        names: Names of its files.
    """

    folder: Path
    kind: Literal["crosscoder", "adapter"]
    config: dict
    names: tuple[str, ...]

    @classmethod
    def read(cls, folder: str | Path) -> "SharedFolder":
        """Look at a folder, and read its weights once.

        Raises:
            FileNotFoundError: If it does not exist, or a file is missing.
            ValueError: If it holds something else, a file is damaged, or a text in it has a token or a path of this machine.
        """
        folder = user_path(folder)
        if not folder.is_dir():
            raise FileNotFoundError(f"{shown(str(folder))} is no folder; give one that holds a crosscoder or an adapter")
        names = tuple(sorted(path.name for path in folder.iterdir()))
        if CHECKPOINT in names:
            raise ValueError(f"{folder} holds {CHECKPOINT}: its training is not done; run the same training command again")
        kind = next((kind for kind, files in _FILES.items() if set(files) & set(names)), None)
        if kind is None:
            needed = "; ".join(f"{' and '.join(files)} of {kind}s" for kind, files in _FILES.items())
            raise ValueError(f"{folder} holds neither a crosscoder nor an adapter ({needed}); give the folder of one")
        others = [name for name in names if name not in (*_FILES[kind], *_OPTIONAL)]
        if others:
            raise ValueError(
                f"{folder} holds {', '.join(others[:5])}{' and more' * (len(others) > 5)}, which is no file of a {kind}; move "
                f"it elsewhere: only {', '.join((*_FILES[kind], *_OPTIONAL))} are uploaded"
            )
        config = _crosscoder_config(folder) if kind == "crosscoder" else _adapter_config(folder)
        shared = cls(folder, kind, config, names)
        for name in names:
            if not name.endswith(".safetensors"):
                _check_private(folder / name, shared.content(name))
        return shared

    def has(self, name: str) -> bool:
        return name in self.names

    def content(self, name: str) -> Path | bytes:
        """What to upload as file `name`."""
        if name == _ADAPTER_CONFIG:
            return (json.dumps(self.config, indent=2) + "\n").encode()
        return self.folder / name


def text_of(content: Path | bytes) -> str:
    return content.decode() if isinstance(content, bytes) else read_text(content)


def split_repository(repo: str) -> tuple[str, str]:
    """A repository's name, ``owner/name``, and the folder inside it, empty for its top; a `ValueError` if `repo` is neither."""
    found = _REPOSITORY.fullmatch(repo) if isinstance(repo, str) else None
    if found is None or ".." in repo or "--" in found["name"]:  # the hub allows neither
        raise ValueError(f"repo={shown(repo)} must be 'owner/name', or 'owner/name/folder' for a folder in a repository")
    return found["name"], found["inside"].strip("/")


def hub_repository(source: str | None) -> str | None:
    """The repository's name, ``owner/name``, if a source as recipes write it is on the hub."""
    found = _HUB_SOURCE.fullmatch(source or "")
    return None if found is None else found["name"]


def _crosscoder_config(folder: Path) -> dict:
    load_crosscoder(folder)  # raises what is wrong with it
    return read_json(folder / CONFIG)


def _adapter_config(folder: Path) -> dict:
    config = read_json(folder / _ADAPTER_CONFIG)
    if not isinstance(config, dict) or "peft_type" not in config:
        raise ValueError(f"{folder / _ADAPTER_CONFIG} is no configuration of peft; write it with save_pretrained")
    for name, tensor in read_safetensors(folder / _ADAPTER_WEIGHTS).items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name} of the adapter in {folder} is NaN or infinite; the training run diverged: train it again")
    base = config.get("base_model_name_or_path")
    # peft writes the path of a local model; it is not read when the adapter is loaded.
    return config | {"base_model_name_or_path": base if not base or hub_repository(base) else _last_part(base)}


def _last_part(path: str) -> str:
    return PureWindowsPath(path).name if "\\" in path else PurePosixPath(path).name


def _check_private(path: Path, content: Path | bytes) -> None:
    text = text_of(content)
    if _TOKEN.search(text):
        raise ValueError(f"{path} holds a token of the hub; take it out, and make it invalid if anyone may have seen it")
    found = _PATH.search(text)
    if found:
        raise ValueError(f"{path} holds a path of this machine ({shown(found[1])}); take it out")
