"""What a reader of one format is."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from crosscoder_utils.crosscoder import Crosscoder
from crosscoder_utils.io.readers.options import Options


class Reader(ABC):
    """One format of crosscoder folders.

    Subclasses name the files that tell the format and define `read`. A format whose files lie in subfolders, or whose names
    have numbers in them, also defines `files`.

    Attributes:
        name: The library that writes it.
        layout: Its files in words, for error messages and the book.
        marks: A folder that holds one of these is in this format.
        others: Files that it holds beside them.
        several_models: Whether a crosscoder may be over several models, of which the caller chooses one.
    """

    name: ClassVar[str]
    layout: ClassVar[str]
    marks: ClassVar[tuple[str, ...]] = ()
    others: ClassVar[tuple[str, ...]] = ()
    several_models: ClassVar[bool] = False

    @property
    def holds(self) -> str:
        """What a folder of this format holds, for error messages."""
        return f"a {self.name} folder holds {self.layout}"

    def matches(self, names: Sequence[str]) -> bool:
        """Whether a folder with these files, named relative to it, is in this format."""
        return bool(self.files(names))

    def files(self, names: Sequence[str]) -> list[str]:
        """Those of a folder's files, named relative to it, that this format needs; none if it is another format."""
        if not any(name in names for name in self.marks):
            return []
        return [name for name in (*self.marks, *self.others) if name in names]

    def stated_hook_points(self, folder: Path) -> Sequence[int] | None:
        """The model's hook points, as far as small files state them that can be read before the weights are there."""
        return None

    def memory(self, sizes: Sequence[int]) -> float:
        """Bytes of memory that the weights take at least, given the sizes of their files in bytes."""
        return sum(sizes)

    @abstractmethod
    def read(self, folder: Path, options: Options) -> Crosscoder:
        """Read the crosscoder in `folder`.

        Raises:
            FileNotFoundError: If a file is missing.
            ValueError: If a file is damaged, holds what cannot be read exactly, or an argument is needed that was not given.
        """
