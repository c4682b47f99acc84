"""Rows of a sweep on disk: parquet files, written atomically, each row with an id derived from everything it depends on."""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from importlib.metadata import version
from numbers import Integral, Real
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from transformers import PreTrainedTokenizerFast

from crosscoder_utils.crosscoder import tensor_bytes
from crosscoder_utils.interventions import Intervention
from crosscoder_utils.io.error_messages import in_one_line
from crosscoder_utils.io.files import check_readable, check_writable, whole_file
from crosscoder_utils.io.transformers_models import config_settings
from crosscoder_utils.loading import Setup
from crosscoder_utils.methods import METHODS
from crosscoder_utils.methods.statistics import given_statistics

ROWS_VERSION = 5
"""Part of every row's id. Increment it when a code change alters results; stored rows are then recomputed."""

_TEXTS = ["row_id", "prompt_id", "prompt", "completion", "intervention", "tokens", "method", "label", "record", "settings"]
_TEXTS += ["preset", "assets", "device", "versions", "text"]
_FLAGS = ["says_phrase", "is_story", "is_fluent_story", "begins_like_story", "failed", "reached", "unchanged"]
_COUNTS = ["n_tokens", "max_new_tokens", "seed"]
_OWN = {"crosscoder_utils": "parameter of a user's own method"}  # marks a column
_BUILT_IN = [method for method in METHODS.values() if method.__module__.startswith("crosscoder_utils.")]
_PARAMETERS = sorted({field.name for method in _BUILT_IN for field in fields(method)})
_WORDS = ["along", "to"]  # parameters that are words, or words and numbers: columns of texts
_MEASURES = ["activation_before", "activation_after", "overshoot", "others_change", "others_change_relative"]
_MEASURES += ["relative_edit_norm", "cross_entropy", "completion_cross_entropy", "opening_cross_entropy", "kl"]
_MEASURES += ["names_everyone", "uses_words", "repeats"]
_MEASURES += ["mean_kl", "loss_change", "edited_share", "unchanged_tokens"]  # of side effects
_SCHEMA = pa.schema(
    [(name, pa.string()) for name in [*_TEXTS, *_WORDS]]
    + [(name, pa.bool_()) for name in _FLAGS]
    + [(name, pa.int64()) for name in _COUNTS]
    + [(name, pa.float64()) for name in ("feature", "value", "strength", *_PARAMETERS, *_MEASURES) if name not in _WORDS]
)
"""The same for every file, also if columns are empty in all of its rows; parameters of a user's own methods come after."""


def row_id(assets: str, prompt: str, intervention: Intervention | None, options: dict) -> str:
    """16 hexadecimal digits that identify a row: a digest of setup, prompt, intervention and options."""
    return row_id_of(assets, prompt, _settings(intervention), options)


def row_id_of(assets: str, prompt: str, settings: dict, options: dict) -> str:
    """`row_id` from an intervention's settings, such as a stored row has them."""
    said = [ROWS_VERSION, assets, prompt, _canonical(settings), _canonical(options)]
    return _digest(json.dumps(said, sort_keys=True).encode())


def assets_of(setup: Setup) -> str:
    """16 hexadecimal digits: a digest of everything in a setup that results depend on (models, crosscoder, tokenizer, preset,
    statistics that the user gave).

    Computing it reads all weights, so it is cached for as long as the setup exists; setups never change.
    """
    if setup not in _ASSETS:
        digest = hashlib.sha256(json.dumps(_meaning(setup), sort_keys=True).encode())
        for model in (setup.model.original_model, setup.base_model.original_model):
            for _, tensor in sorted(model.state_dict().items()):
                digest.update(tensor_bytes(tensor))
        _ASSETS[setup] = digest.hexdigest()[:16]
    given = given_statistics(setup)
    return _ASSETS[setup] if given is None else _digest(f"{_ASSETS[setup]} {given}".encode())


_ASSETS: WeakKeyDictionary[Setup, str] = WeakKeyDictionary()


def storable(setup: Setup, table: pd.DataFrame, interventions: Sequence[Intervention | None], **constants) -> pd.DataFrame:
    """Add columns with everything that is needed to compute the rows of a table again.

    `settings` is JSON and holds all parameters, also those that no column of numbers can hold, such as several features.
    """
    versions = ", ".join(
        f"{name} {version(name)}" for name in ("crosscoder_utils", "torch", "transformer_lens", "transformers")
    )
    return table.assign(
        prompt_id=[_digest(prompt.encode()) for prompt in table["prompt"]],
        settings=[settings_text(one) for one in interventions],
        preset=setup.preset.name,
        device=str(setup.device),
        versions=versions,
        **constants,
    )


def settings_text(intervention: Intervention | None) -> str:
    """All parameters of an intervention as JSON; `stored_settings.intervention_from` reads it."""
    return json.dumps(_settings(intervention))


class StoredRows:
    """The rows in a folder, which may be one that is not to be written. `pandas.read_parquet(folder)` reads all of them."""

    def __init__(self, folder: str | Path) -> None:
        """Raise what `check_readable` raises: an error if there is no such folder, or it cannot be read."""
        self.folder = check_readable(folder)

    def ids(self) -> set[str]:
        """Ids of the stored rows."""
        return set(self._read(columns=["row_id"])["row_id"].to_pylist())

    def read(self, ids: Iterable[str]) -> pd.DataFrame:
        """Read the rows with these ids, in the order of `ids`; other rows of the folder are not kept in memory."""
        ids = list(ids)
        rows = self._read(filter=ds.field("row_id").isin(list(set(ids)))).to_pandas()
        gone = len(set(ids) - set(rows["row_id"]))
        if gone:
            raise ValueError(f"{self.folder} lost {gone} rows during the sweep; run it again, and keep its files")
        return rows.drop_duplicates("row_id").set_index("row_id").loc[ids].reset_index()

    def completions(self, preset: str) -> pd.DataFrame:
        """All stored completions of a preset, of any version; rows of texts that were only read are left out."""
        return self._read(filter=(ds.field("preset") == preset) & ds.field("completion").is_valid()).to_pandas()

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("rows-*.parquet"))

    def _schema(self) -> pa.Schema:
        """The columns of every file, and those that files have for the parameters of a user's own methods."""
        with self._errors_named():
            own = [field for path in self._paths()[:1] for field in pq.read_schema(path) if _is_parameter(field)]
        return pa.schema([*_SCHEMA, *own])

    def _read(self, **chosen: Any) -> pa.Table:
        schema = self._schema()
        with self._errors_named():
            return ds.dataset(self._paths(), schema=schema).to_table(**chosen)

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        """Raise a `ValueError` that tells a damaged file from one that the system does not let us read."""
        try:
            yield
        except (pa.ArrowException, OSError) as error:
            path, error = next(((p, e) for p in self._paths() if (e := _error_of(p))), (self.folder, error))
            reason = in_one_line(getattr(error, "strerror", None) or error, 150)
            remedy = "the file may be fine, keep it: check permissions, the disk and how many files are open, then try again"
            if path != self.folder and not getattr(error, "errno", None):
                foreign = _error_of(path, schema=None) is None
                remedy = "it is damaged: delete it, and its rows are computed again"
                remedy = "no sweep wrote it: move it to another folder" if foreign else remedy
            raise ValueError(f"{path} cannot be read ({reason}); {remedy}") from error


class RowFiles(StoredRows):
    """A folder that rows are written to; it need not exist yet.

    `pandas` reads the columns of the folder's first file, which therefore has those of all others too.
    """

    def __init__(self, folder: str | Path) -> None:
        """Raise a `ValueError` if the folder cannot be written."""
        self.folder = check_writable(folder)

    def add(self, rows: pd.DataFrame) -> None:
        """Write rows to a new file, named after their ids."""
        name = _digest("".join(rows["row_id"]).encode())
        known = self._schema()
        schema = pa.schema([*known, *(field for field in _parameters(rows) if field.name not in known.names)])
        table = pa.table([_column(rows, field) for field in schema], schema=schema)
        self._write(table, self.folder / f"rows-{name}.parquet")
        first = self._paths()[0]
        with self._errors_named():
            missing = [field for field in schema if field.name not in pq.read_schema(first).names]
            if missing:
                table = pq.read_table(first)
                for field in missing:
                    table = table.append_column(field, pa.nulls(len(table), field.type))
                self._write(table, first)

    def _write(self, table: pa.Table, path: Path) -> None:
        with whole_file(path) as aside:
            pq.write_table(table, aside, compression="zstd")


def _error_of(path: Path, schema: pa.Schema | None = _SCHEMA) -> Exception | None:
    """What reading a file raises, with the columns of a schema or with its own."""
    try:
        ds.dataset([path], schema=schema).to_table()
    except (pa.ArrowException, OSError) as error:
        return error
    return None


def check_columns(interventions: Iterable[Intervention | None]) -> None:
    """Raise a `ValueError` if parameters of a user's own method cannot be stored: a name of another column, no plain value."""
    for method in {type(one.method): one.method for one in interventions if one is not None}.values():
        taken = ({"setting", "prompt_index", *_SCHEMA.names} - set(_PARAMETERS)) & set(method.parameters)
        if taken:
            raise ValueError(
                f"method {method.name!r} has the parameter {min(taken)!r}, which is a column of every sweep; rename it"
            )
        try:
            json.dumps(method.parameters)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"method {method.name!r} has a parameter that cannot be stored ({in_one_line(error, 100)}); use numbers, texts "
                "or lists of them"
            ) from None


def _parameters(rows: pd.DataFrame) -> list[pa.Field]:
    """Columns of a table that belong to no schema: parameters of a user's own methods, as numbers or as texts."""
    found = []
    for name in rows.columns:
        if name not in _SCHEMA.names:
            values = [value for value in rows[name] if not _is_missing(value)]
            number = all(isinstance(value, Real) for value in values)
            found.append(pa.field(name, pa.float64() if number else pa.string(), metadata=_OWN))
    return found


def _is_parameter(field: pa.Field) -> bool:
    return (field.metadata or {}).get(b"crosscoder_utils") is not None and field.name not in _SCHEMA.names


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def _column(rows: pd.DataFrame, field: pa.Field) -> pa.Array:
    values = list(rows[field.name]) if field.name in rows else [None] * len(rows)
    if pa.types.is_floating(field.type):
        values = [value if isinstance(value, Real) else None for value in values]
    elif field.metadata or field.name in _WORDS:
        values = [None if _is_missing(value) else value if isinstance(value, str) else json.dumps(value) for value in values]
    return pa.array(values, field.type, from_pandas=True)


def _settings(intervention: Intervention | None) -> dict:
    return {"intervention": "none"} if intervention is None else intervention.settings


def _meaning(setup: Setup) -> list:
    """Everything but the models' weights that results depend on."""
    preset = setup.preset
    limits = [limit for limit in (preset.fluent_limit, preset.opening_limit) if limit is not None]  # keeps other presets' ids
    return [
        *limits,
        [preset.prepend_bos, preset.deployment_tag, preset.phrase, preset.story_marker],
        setup.crosscoder.digest(),
        config_settings(setup.model.original_model.config),
        config_settings(setup.base_model.original_model.config),
        _tokenizer(setup.tokenizer),
    ]


def _tokenizer(tokenizer: PreTrainedTokenizerFast) -> list:
    """How text is split into tokens, and the special tokens; not the state of padding and truncation, which calls change."""
    settings = json.loads(tokenizer.backend_tokenizer.to_str())
    settings |= {"padding": None, "truncation": None}
    return [settings, tokenizer.eos_token_id, tokenizer.bos_token_id]


def _canonical(value: Any) -> Any:
    """Map equal values of different types to one; options that are None are left out, so that new options change no ids."""
    if isinstance(value, dict):
        return {key: _canonical(one) for key, one in value.items() if one is not None}
    if isinstance(value, (list, tuple)):
        return [_canonical(one) for one in value]
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) or float(value).is_integer() else float(value)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
