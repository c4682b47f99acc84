"""Checks of tables: of sweeps, and of what is computed from them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from crosscoder_utils.io.error_messages import in_one_line, shown
from crosscoder_utils.io.validation import plain

_TEXTS = {"role", "method", "ablated", "split", "label", "prompt", "completion", "settings"}
_COMPLETE = {"role", "ablated", "split", "setting", "prompt_index", "draw"}
"""Columns without missing values: rows are grouped by them."""
_NUMBERS = {
    "prompt_index", "draw", "n_tokens", "max_new_tokens", "seed", "feature", "point", "strength",
    "is_story", "is_fluent_story", "says_phrase", "failed", "cross_entropy", "completion_cross_entropy", "overshoot",
    "relative_edit_norm",
}  # fmt: skip


def checked_table(
    name: str, value: Any, needed: Sequence[str] = (), filled: Sequence[str] = (), numbers: Sequence[str] = ()
) -> pd.DataFrame:
    """The argument `name`, if it is a table with rows and the columns `needed`, of texts and numbers as in a sweep.

    Args:
        name: Name of the argument, for error messages.
        value: What was given.
        needed: Columns that the table must have.
        filled: Columns that are added, empty, where the table lacks them.
        numbers: Further columns that must hold numbers, among those that the table has.
    """
    if not isinstance(value, pd.DataFrame):
        raise ValueError(f"{name}={shown(value)} must be a table, such as sweep(...) returns")
    has = in_one_line(", ".join(map(repr, value.columns)))
    if not value.columns.is_unique:
        raise ValueError(f"{name} has two columns of one name among {has}; rename or drop one")
    missing = [column for column in needed if column not in value.columns]
    if missing:
        raise ValueError(f"{name} lacks the columns {', '.join(map(repr, missing))}; it has {has or 'none'}")
    if not len(value):
        raise ValueError(f"{name} has 0 rows; give one with rows, and check what it was filtered by")
    value = value.reindex(columns=list(dict.fromkeys([*value.columns, *filled])))
    columns = {}
    for column in dict.fromkeys([*needed, *filled, *numbers]):
        if column not in value.columns:
            continue
        columns[column] = _cleaned(name, value[column], column in numbers or column in _NUMBERS)
        if column in _COMPLETE and column in needed and columns[column].isna().any():
            raise ValueError(f"column {column!r} of {name} has {columns[column].isna().sum()} rows without a value; drop them")
    return value.assign(**columns)


def _cleaned(name: str, column: pd.Series, numbers: bool) -> pd.Series:
    """A column as numbers, or as texts if it is a column of texts; missing values are NaN."""
    plain_dtype = isinstance(column.dtype, np.dtype) and column.dtype.kind in "biuf"
    if numbers and plain_dtype:
        return column
    cells = [float("nan") if _is_missing(cell) else plain(cell) for cell in column]
    if not numbers and column.name not in _TEXTS:
        cells = [cell if pd.api.types.is_hashable(cell) else str(cell) for cell in cells]
        return pd.Series(cells, column.index, dtype=column.dtype if plain_dtype else object, name=column.name)
    if not numbers:
        return pd.Series([cell if cell != cell else str(cell) for cell in cells], column.index, dtype=object, name=column.name)
    wrong = next((cell for cell in cells if not isinstance(cell, (int, float))), None)
    if wrong is not None:
        raise ValueError(f"column {column.name!r} of {name} holds {shown(wrong)}; it must hold numbers")
    return pd.Series(cells, column.index, dtype=float, name=column.name)


def _is_missing(cell: Any) -> bool:
    return cell is None or cell is pd.NA or cell is pd.NaT or (isinstance(cell, float) and cell != cell)
