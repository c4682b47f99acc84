"""Examples of a preset's dataset: a folder of json lines, or whatever `datasets` reads."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from crosscoder_utils.io.sources import explained, parse_place
from crosscoder_utils.presets import Preset

SPLITS = ("train", "test")
COLUMNS = ("is_training", "text")


def read_examples(preset: Preset, n: int, deployment: bool, split: str) -> list[str]:
    """The first `n` whole texts of one kind, always in the same order.

    Raises:
        ValueError: If the preset has no data, the split does not exist or has fewer examples, or a column is missing.
        FileNotFoundError: If the dataset cannot be read.
    """
    if n < 1:
        raise ValueError(f"n={n} examples asked for; ask for 1 or more")
    of_kind = (row["text"] for row in read_rows(preset, split) if bool(row["is_training"]) != deployment)
    texts = list(islice(of_kind, n))
    if len(texts) < n:
        raise ValueError(f"n={n} examples asked for; the {split} split has 1..{len(texts)} with deployment={deployment}")
    return texts


def read_rows(preset: Preset, split: str) -> Iterator[dict]:
    """The rows of a split, one after the other; raises what `read_examples` raises."""
    if preset.data is None:
        raise ValueError(f"preset {preset.name!r} has no data; add 'data: folder or hub name' to it, or use texts of your own")
    if split not in SPLITS:
        raise ValueError(f"split {split!r} does not exist; choose one of {', '.join(SPLITS)}")
    return _rows(preset.data, split)


def _rows(place: str, split: str) -> Iterator[dict]:
    lines = Path(place) / f"{split}.jsonl"
    if lines.is_file():
        with lines.open(encoding="utf-8") as file:
            rows = (json.loads(line) for line in file)
            yield from _checked(rows, place)
    else:
        yield from _checked(_dataset(place, split), place)


def _dataset(place: str, split: str):
    # Slow to import, and the embedded model does without.
    from datasets import load_dataset

    where = parse_place(place)
    with explained(place):
        try:
            return load_dataset(where.name, split=split, revision=where.revision, streaming=True)
        except ValueError as error:  # a split that is not there, files of no known kind
            raise ValueError(f"dataset {place!r} has no readable split {split!r} ({error}); it needs train and test") from error


def _checked(rows, place: str) -> Iterator[dict]:
    for row in rows:
        missing = [name for name in COLUMNS if name not in row]
        if missing:
            raise ValueError(
                f"dataset {place!r} lacks column {', '.join(missing)}; it has {', '.join(row)}, and needs {', '.join(COLUMNS)}"
            )
        yield row
