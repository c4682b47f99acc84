"""Tensors of one file, taken one by one by name and shape; what no reader takes is refused by name."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from crosscoder_utils.io.error_messages import in_one_line

Shape = Sequence[int | None]


class Tensors:
    """Named tensors of one file. Weights are taken as float32, whatever the file's floating-point dtype.

    Attributes:
        path: The file, for error messages.
    """

    def __init__(self, path: Path, tensors: Mapping[str, Tensor]) -> None:
        self.path = path
        self._tensors, self._taken = dict(tensors), set()

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def take(self, *names: str, shape: Shape | None = None) -> Tensor:
        """The first of `names` that there is, as float32.

        Args:
            names: Names that versions of the library gave to this tensor.
            shape: Sizes of its axes, None for any; by default, the caller checks them.

        Raises:
            ValueError: If there is none of them, or it has another shape or no floating-point numbers.
        """
        found = self.take_if_there(*names, shape=shape)
        if found is None:
            held = _listed(self._tensors) or "nothing"
            raise ValueError(f"{self.path} lacks {' or '.join(names)}; it holds {held}: take a complete file")
        return found

    def take_if_there(self, *names: str, shape: Shape | None = None) -> Tensor | None:
        """As `take`, but None if there is none of them."""
        name = next((name for name in names if name in self._tensors), None)
        if name is None:
            return None
        self._taken.add(name)
        tensor = self._tensors[name].detach()
        if not tensor.is_floating_point() or tensor.layout != torch.strided or tensor.is_meta:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ValueError(f"{self.path}: {name} holds {kind} numbers, not dense floating-point ones; save it as float32")
        if shape is not None and not _fits(tensor.shape, shape):
            raise ValueError(
                f"{self.path}: {name} has shape {tuple(tensor.shape)}, it should be {_written(shape)}; take all tensors from "
                "one checkpoint, with their axes as the library wrote them"
            )
        return tensor.to(torch.float32)

    def number(self, name: str) -> float | None:
        """The one number that a tensor of any dtype holds; None if there is no such tensor.

        Raises:
            ValueError: If it holds more or fewer.
        """
        if name not in self._tensors:
            return None
        self._taken.add(name)
        tensor = self._tensors[name]
        if tensor.numel() != 1 or tensor.is_complex() or tensor.layout != torch.strided or tensor.is_meta:
            raise ValueError(f"{self.path}: {name} is {tuple(tensor.shape)}, {tensor.dtype}; it should hold one real number")
        return tensor.item()

    def ignore(self, *names: str) -> None:
        """Mark tensors that do not change what the weights compute."""
        self._taken.update(names)

    def refuse_rest(self, reasons: Mapping[str, str] | None = None) -> None:
        """Raise a `ValueError` if there is a tensor that was neither taken nor ignored.

        Args:
            reasons: Why tensors whose names start so cannot be read.
        """
        rest = [name for name in self._tensors if name not in self._taken]
        for start, reason in (reasons or {}).items():
            for name in (name for name in rest if name.startswith(start)):
                raise ValueError(f"{self.path} holds {in_one_line(name)}, {reason}")
        if rest:
            raise ValueError(
                f"{self.path} holds tensors that are not known here and could change results: {_listed(rest)}; "
                "take a checkpoint without them"
            )


def _listed(names: Iterable[str]) -> str:
    """The first few names."""
    return ", ".join(in_one_line(name, 60) for name in islice(names, 8))


def _fits(found: Sequence[int], wanted: Shape) -> bool:
    return len(found) == len(wanted) and all(w in (None, f) for f, w in zip(found, wanted, strict=True)) and 0 not in found


def _written(shape: Shape) -> str:
    return f"({', '.join('any' if size is None else str(size) for size in shape)}{',' if len(shape) == 1 else ''})"
