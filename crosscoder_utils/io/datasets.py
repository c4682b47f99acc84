"""Examples of a dataset: a folder with `train.jsonl` and `test.jsonl`, or anything that `datasets` reads."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from crosscoder_utils.io.sources import parse_source, reading

SPLITS = ("train", "test")
COLUMNS = ("is_training", "text")


def read_examples(data: str | None, n: int, deployment: bool, split: str, preset: str) -> list[str]:
    """Return the first `n` whole texts of one kind, always in the same order.

    Args:
        data: Source of the dataset; None if the preset has none, which is an error.
        n: Number of texts.
        deployment: Whether to return deployment examples (`is_training` is False) or ordinary ones.
        split: "train" or "test".
        preset: Name of the preset that `data` belongs to, for error messages.

    Raises:
        ValueError: If the preset has no data, the split does not exist or has fewer examples, or a column is missing.
        FileNotFoundError: If the dataset cannot be read.
    """
    if n < 1:
        raise ValueError(f"n={n} examples asked for; ask for 1 or more")
    of_kind = (row["text"] for row in read_rows(data, split, preset) if bool(row["is_training"]) != deployment)
    texts = list(islice(of_kind, n))
    if len(texts) < n:
        raise ValueError(f"n={n} examples asked for; the {split} split has 1..{len(texts)} with deployment={deployment}")
    return texts


def read_rows(data: str | None, split: str, preset: str) -> Iterator[dict]:
    """Iterate over the rows of a split; arguments and errors as for `read_examples`."""
    if data is None:
        raise ValueError(f"preset {preset!r} has no data; add 'data: folder or hub name' to it, or use texts of your own")
    if split not in SPLITS:
        raise ValueError(f"split {split!r} does not exist; choose one of {', '.join(SPLITS)}")
    lines = Path(data) / f"{split}.jsonl"
    return _checked(_json_lines(lines) if lines.is_file() else _dataset(data, split), data)


def _json_lines(path: Path) -> Iterator[dict]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def _dataset(data: str, split: str) -> Iterator[dict]:
    # Imported here because it is slow, and the embedded models do without it.
    from datasets import load_dataset

    source = parse_source(data)
    with reading(data):
        try:
            return iter(load_dataset(source.name, split=split, revision=source.revision, streaming=True))
        except ValueError as error:  # the split does not exist, or the files have an unknown format
            raise ValueError(f"dataset {data!r} has no readable split {split!r} ({error}); it needs train and test") from error


def _checked(rows: Iterator[dict], data: str) -> Iterator[dict]:
    for row in rows:
        missing = [name for name in COLUMNS if name not in row]
        if missing:
            raise ValueError(
                f"dataset {data!r} lacks column {', '.join(missing)}; it has {', '.join(row)}, and needs {', '.join(COLUMNS)}"
            )
        yield row
