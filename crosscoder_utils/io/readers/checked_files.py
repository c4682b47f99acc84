"""Open files that other people wrote. Whatever is wrong with one ends in one line with the file, the reason and a remedy.

No code in a file is executed: pickles and NumPy archives are read as tensors only, YAML as plain data only.
"""

import errno
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from crosscoder_utils.io.error_messages import in_one_line
from crosscoder_utils.io.files import read_json, read_safetensors, read_yaml
from crosscoder_utils.io.readers.settings import Settings
from crosscoder_utils.io.readers.tensors import Tensors

_POINTER = b"version https://git-lfs"


def open_json(path: Path, holds: str) -> Settings:
    """Settings of a JSON file; `holds` names the files of such a folder, for the error if this one is missing.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it cannot be read, or is not a mapping. The other functions here raise the same.
    """
    return Settings(path, _read(path, holds, read_json))


def open_yaml(path: Path, holds: str) -> Settings:
    """Settings of a YAML file."""
    return Settings(path, _read(path, holds, read_yaml))


def open_safetensors(path: Path, holds: str) -> Tensors:
    """Tensors of a safetensors file."""
    return Tensors(path, _read(path, holds, read_safetensors))


def open_pickle(path: Path, holds: str) -> Tensors:
    """Tensors of a file that `torch.save` wrote; one that holds anything else is refused."""
    return Tensors(path, _read(path, holds, _read_pickle))


def open_npz(path: Path, holds: str) -> Tensors:
    """Arrays of a NumPy archive, as tensors."""
    return Tensors(path, _read(path, holds, _read_npz))


def _read(path: Path, holds: str, read):
    _check_file(path, holds)
    with _in_one_line(path):
        return read(path)


def _check_file(path: Path, holds: str) -> None:
    """Raise an error unless `path` is a file that can be opened and holds something."""
    with _in_one_line(path):
        try:
            with path.open("rb") as file:
                start = file.read(len(_POINTER))
        except FileNotFoundError:
            raise FileNotFoundError(f"{path} is missing; {holds}") from None
        except IsADirectoryError:
            raise ValueError(f"{path} is a folder, not a file; {holds}") from None
    if not start:
        raise ValueError(f"{path} is empty (0 bytes); fetch it again")
    if start == _POINTER:
        raise ValueError(f"{path} is a pointer of Git LFS, not the file itself; run `git lfs pull`, or use `hf download`")


@contextmanager
def _in_one_line(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except PermissionError as error:
        raise ValueError(
            f"{path} may not be read by your user ({in_one_line(error.strerror)}); ask its owner for permission, or change it "
            "with chmod; the file itself may be in order"
        ) from error
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read: the system reports {in_one_line(error.strerror or error)!r}; the file itself may be in "
            "order, try again once that is resolved"
        ) from error
    except Exception as error:  # parsers of damaged files end in any error of Python's
        if isinstance(error, ValueError) and str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path} is damaged ({in_one_line(error) or type(error).__name__}); fetch it again") from error


def _read_pickle(path: Path) -> Mapping[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "global" not in str(error).lower():
            raise ValueError(f"{path} is damaged or cut short ({_last_sentence(error)}); fetch it again") from error
        raise ValueError(
            f"{path} holds more than tensors, and reading it might run code; get it as safetensors, or from a source you trust "
            "and save its state dict again"
        ) from error
    except (RuntimeError, EOFError, zipfile.BadZipFile, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # EINVAL: it looked beyond the end
            raise
        raise ValueError(f"{path} is damaged or cut short ({in_one_line(error)}); fetch it again") from error
    if not isinstance(state, Mapping) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise ValueError(f"{path} is not a state dict of tensors; save the model's state_dict()")
    return dict(state)


def _last_sentence(error: Exception) -> str:
    """The part of torch's long advice that says what is wrong."""
    return in_one_line(str(error).rpartition("WeightsUnpickler error:")[2] or error)


def _read_npz(path: Path) -> Mapping[str, Tensor]:
    archive = np.load(path, allow_pickle=False)
    if isinstance(archive, np.ndarray):
        raise ValueError(f"{path} is a single array, not a NumPy archive; save it with numpy.savez")
    with archive:
        arrays = {name: archive[name] for name in archive.files}
    strange = [name for name, array in arrays.items() if array.dtype.kind not in "fiub"]
    if strange:
        raise ValueError(f"{path} holds arrays of no numbers: {', '.join(strange)}; save them as float32")
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
