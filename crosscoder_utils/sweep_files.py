"""Rows of a sweep on disk: parquet files that appear whole or not at all, each row under an id that says what made it."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import fields
from importlib.metadata import version
from numbers import Real
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from crosscoder_utils.files import in_one_line, whole_file
from crosscoder_utils.interventions import METHODS, Intervention
from crosscoder_utils.loading import Setup

_TEXTS = ["row_id", "prompt_id", "prompt", "completion", "intervention", "tokens", "method", "record", "settings"]
_TEXTS += ["preset", "assets", "device", "versions"]
_FLAGS = ["says_phrase", "is_story"]
_COUNTS = ["n_tokens", "max_new_tokens", "seed"]
_PARAMETERS = sorted({field.name for method in METHODS.values() for field in fields(method)})
_MEASURES = ["activation_before", "activation_after", "overshoot", "others_change", "others_change_relative", "edit_share"]
_MEASURES += ["cross_entropy", "completion_cross_entropy"]
_SCHEMA = pa.schema(
    [(name, pa.string()) for name in _TEXTS]
    + [(name, pa.bool_()) for name in _FLAGS]
    + [(name, pa.int64()) for name in _COUNTS]
    + [(name, pa.float64()) for name in ("feature", "value", *_PARAMETERS, *_MEASURES)]
)
"""The same in every file, whatever columns happen to be empty in its rows."""


def row_id(assets: str, prompt: str, intervention: Intervention | None, options: dict) -> str:
    """16 hexadecimal digits that differ wherever model, crosscoder, prompt, intervention or options do."""
    return _digest(json.dumps([assets, prompt, _settings(intervention), options], sort_keys=True).encode())


def assets_of(setup: Setup) -> str:
    """16 hexadecimal digits of everything that a row's numbers depend on in a setup: weights, thresholds, preset."""
    digest = hashlib.sha256(json.dumps(_meaning(setup), sort_keys=True).encode())
    parts = [setup.model.original_model, setup.base_model.original_model]
    tensors = [tensor for model in parts for _, tensor in sorted(model.state_dict().items())]
    crosscoder = setup.crosscoder
    tensors += [crosscoder.W_enc, crosscoder.b_enc, crosscoder.threshold, crosscoder.W_dec, crosscoder.b_dec]
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def storable(setup: Setup, table: pd.DataFrame, interventions: Sequence[Intervention | None], **constants) -> pd.DataFrame:
    """Rows of `sweep` with everything that one needs to know to make them again.

    Numbers that are lists, such as several features, stand in `settings` alone, which is JSON.
    """
    versions = ", ".join(
        f"{name} {version(name)}" for name in ("crosscoder_utils", "torch", "transformer_lens", "transformers")
    )
    return table.assign(
        prompt_id=[_digest(prompt.encode()) for prompt in table["prompt"]],
        settings=[json.dumps(_settings(one)) for one in interventions],
        preset=setup.preset.name,
        device=str(setup.device),
        versions=versions,
        **constants,
    )


class RowFiles:
    """A folder of rows. Reading it needs no more than `pandas.read_parquet(folder)`."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def ids(self) -> set[str]:
        """Ids of the rows that are there."""
        return {one for path in self._paths() for one in _read(path, ["row_id"])["row_id"]}

    def add(self, rows: pd.DataFrame) -> None:
        """Write rows to a file of their own, which is named after them."""
        name = _digest("".join(rows["row_id"]).encode())
        table = pa.table([_column(rows, field) for field in _SCHEMA], schema=_SCHEMA)
        with whole_file(self.folder / f"rows-{name}.parquet") as aside:
            pq.write_table(table, aside, compression="zstd")

    def read(self, ids: Iterable[str]) -> pd.DataFrame:
        """The rows with these ids, in their order."""
        rows = pd.concat([_read(path) for path in self._paths()], ignore_index=True)
        return rows.drop_duplicates("row_id").set_index("row_id").loc[list(ids)].reset_index()

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("rows-*.parquet"))


def _column(rows: pd.DataFrame, field: pa.Field) -> pa.Array:
    values = list(rows[field.name]) if field.name in rows else [None] * len(rows)
    if pa.types.is_floating(field.type):
        values = [value if isinstance(value, Real) else None for value in values]
    return pa.array(values, field.type, from_pandas=True)


def _settings(intervention: Intervention | None) -> dict:
    return {"intervention": "none"} if intervention is None else intervention.settings


def _meaning(setup: Setup) -> list:
    """What a setup's numbers depend on beside its weights."""
    crosscoder, preset = setup.crosscoder, setup.preset
    return [
        [preset.prepend_bos, preset.deployment_tag, preset.phrase, preset.story_marker],
        [crosscoder.center, crosscoder.hook_points, crosscoder.k],
    ]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _read(path: Path, columns: list[str] | None = None) -> pd.DataFrame:
    try:
        return pq.read_table(path, columns=columns).to_pandas()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is no file of a sweep ({in_one_line(error)}); delete it: its rows are made again") from error
