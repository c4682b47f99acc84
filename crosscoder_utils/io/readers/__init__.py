"""Readers of crosscoder folders, one for each format. To add one, write a `Reader` in a file here and list it in `READERS`."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from crosscoder_utils.io.error_messages import in_one_line
from crosscoder_utils.io.readers.crosscode import CrosscodeReader
from crosscoder_utils.io.readers.dictionary_learning import CrossCoderReader
from crosscoder_utils.io.readers.dictionary_learning_saes import DictionaryReader
from crosscoder_utils.io.readers.gemma_scope import GemmaScope1Reader, GemmaScope2Reader, GemmaScopeCrosscoderReader
from crosscoder_utils.io.readers.neelnanda import NeelNandaReader, ReplicationReader
from crosscoder_utils.io.readers.own import OwnReader
from crosscoder_utils.io.readers.reader import Reader
from crosscoder_utils.io.readers.refused import (
    CrossLayerTranscoderReader,
    LlamaScopeReader,
    LlamascopiumReader,
    RefusedReader,
    TranscoderSetReader,
)
from crosscoder_utils.io.readers.saelens import SaelensReader
from crosscoder_utils.io.readers.sparsify import SparsifyReader

READERS: tuple[Reader, ...] = (
    OwnReader(),
    CrosscodeReader(),
    SaelensReader(),
    GemmaScopeCrosscoderReader(),
    GemmaScope2Reader(),
    GemmaScope1Reader(),
    NeelNandaReader(),
    ReplicationReader(),
    CrossCoderReader(),
    DictionaryReader(),
    SparsifyReader(),
    LlamascopiumReader(),
    CrossLayerTranscoderReader(),
    TranscoderSetReader(),
    LlamaScopeReader(),
)
"""In the order in which they are asked; the first that recognises a folder reads it."""


@dataclass(frozen=True)
class Found:
    """A crosscoder among the files of a folder or repository.

    Attributes:
        subfolder: Where it lies, relative to them; empty for the top.
        reader: The reader of its format.
        files: The files that it needs, relative to the subfolder.
    """

    subfolder: str
    reader: Reader
    files: tuple[str, ...]


def find_crosscoder(names: Sequence[str], source: str) -> Found:
    """Find the crosscoder among files: at the top, or in the only subfolder that holds one.

    Args:
        names: Files relative to the source's folder, with ``/`` between folders.
        source: What the user gave, for error messages.

    Raises:
        FileNotFoundError: If there are no files.
        ValueError: If no format is recognised, or several subfolders hold a crosscoder.
    """
    if found := _recognise("", names):
        return found
    found = {}
    for folder, inside in sorted(_by_folder(names).items()):
        above = [str(parent) for parent in PurePosixPath(folder).parents]
        if not any(one in found for one in above) and (one := _recognise(folder, inside)):
            found[folder] = one
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        some = ", ".join(f"'{source.partition('@')[0].rstrip('/')}/{folder}'" for folder in list(found)[:3])
        raise ValueError(
            f"{source} holds {len(found)} folders that may be crosscoders or SAEs; give one of them, such as {some}"
        )
    raise _unknown(names, source)


def _recognise(folder: str, names: Sequence[str]) -> Found | None:
    reader = next((reader for reader in READERS if reader.matches(names)), None)
    return None if reader is None else Found(folder, reader, tuple(reader.files(names)))


def _by_folder(names: Sequence[str]) -> dict[str, list[str]]:
    """Files of every subfolder and of its own subfolders, and as ``../name`` those of the folder above it."""
    below, direct = defaultdict(list), defaultdict(list)
    for name in (PurePosixPath(name) for name in names if not name.startswith("../")):
        direct[name.parent].append(name.name)
        for folder in list(name.parents)[:2]:
            if folder.name:
                below[folder].append(str(name.relative_to(folder)))
    return {str(folder): files + [f"../{name}" for name in direct[folder.parent]] for folder, files in below.items()}


def _unknown(names: Sequence[str], source: str) -> ValueError | FileNotFoundError:
    own = READERS[0]
    if not any(name for name in names if not name.startswith("../")):
        return FileNotFoundError(f"{source}/config.json is missing; {own.holds}, one of another library that library's files")
    held = ", ".join(in_one_line(name, 60) for name in sorted(names)[:6]) + (
        f" and {len(names) - 6} more" if len(names) > 6 else ""
    )
    read = "; ".join(f"{one.layout} ({one.name})" for one in READERS if not isinstance(one, RefusedReader))
    return ValueError(
        f"{source} is in no format that is read here: it holds {held}. Read are: {read}. Convert an SAE with "
        "SAE.from_pretrained(...).save_model(folder) of SAELens, other weights with save_crosscoder(Crosscoder(...), folder)"
    )
