"""Examples of a dataset: a folder with `train.jsonl` and `test.jsonl`, or anything that `datasets` reads."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from crosscoder_utils.io.error_messages import in_one_line, shown
from crosscoder_utils.io.files import opened, user_path
from crosscoder_utils.io.sources import parse_source, reading
from crosscoder_utils.io.validation import flag, one_text, plain, whole_number

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
        ValueError: If the preset has no data, the split does not exist or has fewer examples, or a row is not as it should be.
        FileNotFoundError: If the dataset cannot be read.
    """
    n, deployment = whole_number("n", n, 1), flag("deployment", deployment)
    of_kind = (row["text"] for row in read_rows(data, split, preset) if bool(row["is_training"]) != deployment)
    texts = list(islice(of_kind, n))
    if len(texts) < n:
        raise ValueError(f"n={n} examples asked for; the {split} split has 1..{len(texts)} with deployment={deployment}")
    return texts


def read_rows(data: str | None, split: str, preset: str) -> Iterator[dict]:
    """Iterate over the rows of a split; arguments and errors as for `read_examples`."""
    if data is None:
        raise ValueError(f"preset {preset!r} has no data; add 'data: folder or hub name' to it, or use texts of your own")
    if not isinstance(split, str) or split not in SPLITS:
        raise ValueError(f"split {shown(split)} does not exist; choose one of {', '.join(SPLITS)}")
    lines = user_path(data) / f"{split}.jsonl"
    rows = _json_lines(lines) if lines.is_file() else _dataset(data, split)
    return (_checked(row, where, data) for where, row in rows)


def _json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """Where each row stands, and the row: one JSON value a line; blank lines and byte order marks are passed over."""
    with opened(path), path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            where = f"{path}, line {number}"
            try:
                text = line.decode("utf-8").strip().strip("\ufeff")
                row = json.loads(text) if text else None
            except (ValueError, RecursionError) as error:
                reason = in_one_line(error)
                raise ValueError(f"{where} is no JSON ({reason}); mend the line, or fetch the file again") from error
            if text:
                yield where, row


def _dataset(data: str, split: str) -> Iterator[tuple[str, Any]]:
    # Imported here because it is slow, and the embedded models do without it.
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    source = parse_source(data)
    with reading(data):
        try:
            rows = load_dataset(source.name, split=split, revision=source.revision, streaming=True)
            yield from ((f"{data}, split {split}, row {number}", row) for number, row in enumerate(rows))
        except FileNotFoundError:
            raise  # named by `reading`
        except (ValueError, TypeError, DatasetsError) as error:  # the split does not exist, or the files cannot be parsed
            reason = in_one_line(error)
            raise ValueError(f"dataset {data!r} has no readable split {split!r} ({reason}); it needs train and test") from error


def _checked(row: Any, where: str, data: str) -> dict:
    if not isinstance(row, dict):
        raise ValueError(f"{where} holds {shown(row)}; it needs an object with {' and '.join(COLUMNS)}")
    missing = [name for name in COLUMNS if name not in row]
    if missing:
        raise ValueError(
            f"dataset {data!r} lacks column {', '.join(missing)}; it has {', '.join(map(str, row))[:200]}, and needs "
            f"{', '.join(COLUMNS)} ({where})"
        )
    is_training = plain(row["is_training"])
    if not isinstance(is_training, (bool, int)) or is_training not in (0, 1):
        raise ValueError(f"{where}: is_training={shown(is_training)} must be true or false, without quotes")
    return row | {"is_training": bool(is_training), "text": one_text(f"{where}: text", row["text"])}
