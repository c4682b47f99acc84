"""Rows of a sweep on disk: parquet files that appear whole or not at all, each row under an id that says what made it."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import fields
from importlib.metadata import version
from numbers import Integral, Real
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from transformers import PreTrainedConfig, PreTrainedTokenizerFast

from crosscoder_utils.crosscoder import tensor_bytes
from crosscoder_utils.interventions import METHODS, Intervention
from crosscoder_utils.io.errors import in_one_line
from crosscoder_utils.io.files import whole_file
from crosscoder_utils.loading import Setup

ROWS_VERSION = 1
"""Part of every row's id. Raise it when code changes what a row says, so that rows of the code before are made again."""

_TEXTS = ["row_id", "prompt_id", "prompt", "completion", "intervention", "tokens", "method", "record", "settings"]
_TEXTS += ["preset", "assets", "device", "versions"]
_FLAGS = ["says_phrase", "is_story"]
_COUNTS = ["n_tokens", "max_new_tokens", "seed"]
_PARAMETERS = sorted({field.name for method in METHODS.values() for field in fields(method)})
_MEASURES = [
    "activation_before",
    "activation_after",
    "overshoot",
    "others_change",
    "others_change_relative",
    "relative_edit_norm",
]
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
    said = [ROWS_VERSION, assets, prompt, _canonical(_settings(intervention)), _canonical(options)]
    return _digest(json.dumps(said, sort_keys=True).encode())


def assets_of(setup: Setup) -> str:
    """16 hexadecimal digits of everything that a row's numbers depend on in a setup: models, crosscoder, tokenizer, preset.

    Kept for as long as the setup is there: nothing in it changes, and all weights are read to make them.
    """
    if setup not in _ASSETS:
        digest = hashlib.sha256(json.dumps(_meaning(setup), sort_keys=True).encode())
        for model in (setup.model.original_model, setup.base_model.original_model):
            for _, tensor in sorted(model.state_dict().items()):
                digest.update(tensor_bytes(tensor))
        _ASSETS[setup] = digest.hexdigest()[:16]
    return _ASSETS[setup]


_ASSETS: WeakKeyDictionary[Setup, str] = WeakKeyDictionary()


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
        return {one for path in self._paths() for one in _table(path, columns=["row_id"])["row_id"].to_pylist()}

    def add(self, rows: pd.DataFrame) -> None:
        """Write rows to a file of their own, which is named after them."""
        name = _digest("".join(rows["row_id"]).encode())
        table = pa.table([_column(rows, field) for field in _SCHEMA], schema=_SCHEMA)
        with whole_file(self.folder / f"rows-{name}.parquet") as aside:
            pq.write_table(table, aside, compression="zstd")

    def read(self, ids: Iterable[str]) -> pd.DataFrame:
        """The rows with these ids, in their order; of a folder with many more, no more than these are held in memory."""
        ids = list(ids)
        tables = [_table(path, filters=[("row_id", "in", set(ids))]) for path in self._paths()]
        rows = pa.concat_tables(tables, promote_options="permissive").to_pandas()
        return rows.drop_duplicates("row_id").set_index("row_id").loc[ids].reset_index()

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
    """What a setup's numbers depend on beside its models' weights."""
    preset = setup.preset
    return [
        [preset.prepend_bos, preset.deployment_tag, preset.phrase, preset.story_marker],
        setup.crosscoder.digest(),
        _config(setup.model.original_model.config),
        _config(setup.base_model.original_model.config),
        _tokenizer(setup.tokenizer),
    ]


def _config(config: PreTrainedConfig) -> dict:
    """What weights alone do not say, such as an activation function or a window; neither a path nor a library's version."""
    settings = json.loads(config.to_json_string(use_diff=True))
    return {k: v for k, v in settings.items() if not k.startswith("_") and k != "transformers_version"}


def _tokenizer(tokenizer: PreTrainedTokenizerFast) -> list:
    """How a text is cut, and what ends it; not how the last batch happened to be padded and cut short."""
    settings = json.loads(tokenizer.backend_tokenizer.to_str())
    settings |= {"padding": None, "truncation": None}
    return [settings, tokenizer.eos_token_id, tokenizer.bos_token_id]


def _canonical(value: Any) -> Any:
    """The same for equal values, whatever their type; an option that is None is as one that does not exist (yet)."""
    if isinstance(value, dict):
        return {key: _canonical(one) for key, one in value.items() if one is not None}
    if isinstance(value, (list, tuple)):
        return [_canonical(one) for one in value]
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) or float(value).is_integer() else float(value)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _table(path: Path, **chosen: Any) -> pa.Table:
    try:
        return pq.read_table(path, **chosen)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is no file of a sweep ({in_one_line(error)}); delete it: its rows are made again") from error
