"""A page that shows the stored completions of sweeps without a kernel: a dot for each setting, and the texts behind it."""

import base64
import gzip
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Any

import pandas as pd
from IPython.display import HTML

from crosscoder_utils.analysis.stored_completions import ReferenceTexts, features_of
from crosscoder_utils.display.colours import HUES
from crosscoder_utils.display.html import escaped
from crosscoder_utils.io.checked_tables import checked_table
from crosscoder_utils.io.validation import instance, mapped, one_text
from crosscoder_utils.methods import METHODS

_DEFAULTS = {"preset": "any model", "role": "any", "ablated": "feature", "label": "untouched", "split": "prompts"}
_FILLED = [*_DEFAULTS, "method", "settings", "tokens", "intervention", "is_fluent_story", "failed", "relative_edit_norm"]
_NUMBERS = ["activation_before", "activation_after", "relative_edit_norm"]
VERDICTS = ("fluent story", "says the phrase", "neither", "failed")
_VERDICT_COLOURS = (HUES[2], HUES[1], "inherit", "inherit")


def explorer(table: pd.DataFrame, references: Mapping[str, ReferenceTexts] | None = None, missing: str = "") -> HTML:
    """A scatter of settings (relative edit norm, share of fluent stories), and the texts of the one that is chosen.

    Its script has no dependencies and works from a file. The texts of a feature are compressed, and unpacked when it is chosen.

    Args:
        table: From `stored_completions`, `ablation_experiment` or `sweep`, or several of them in one; without a column `role`
            or `ablated`, all rows are of "any" role and of the "feature".
        references: Preset -> what its texts are compared with; without, there are neither other texts nor activations.
        missing: One line that says which rows are not there.

    Raises:
        ValueError: If the table has no rows, or lacks a column.
    """
    needed, missing = ["prompt_index", "prompt", "setting", "completion", "says_phrase"], one_text("missing", missing)
    table = checked_table("table", table, needed, [*_FILLED, *_NUMBERS], ["prompt_index", *_NUMBERS])
    table = table.assign(**{name: table[name].astype(object).fillna(text) for name, text in _DEFAULTS.items()})
    table = table.assign(completion=table["completion"].fillna(""), verdict=_verdicts(table), name=_method_names(table))
    references = mapped("references", references or {}, _checked, "presets to ReferenceTexts")
    lengths = "max_new_tokens" in table and table["max_new_tokens"].nunique() > 1
    # Each sweep counts its settings from 0: what tells them apart is what they are.
    table["identity"] = [_identity(row) for row in table.to_dict("records")]
    features, settings, chunks = [], [], []
    for number, ((preset, role), own) in enumerate(table.groupby(["preset", "role"], sort=False)):
        features.append([str(preset), str(role)])
        chunk = _Chunk(references.get(preset))
        for (ablated, identity), rows in own.groupby(["ablated", "identity"], sort=False):
            shares = {split: _summary(answers) for split, answers in rows.groupby("split", sort=False)}
            settings.append([identity, number, str(ablated), rows["name"].iloc[0], _label(rows.iloc[0], lengths), shares])
            chunk.add(identity, rows)
        chunks.append(_packed(chunk.content()))
    colours = {"methods": HUES, "verdicts": _VERDICT_COLOURS}
    data = {"features": features, "settings": settings, "verdicts": VERDICTS, "colours": colours, "order": list(METHODS)}
    return HTML(_page(data, chunks, missing))


def _checked(name: str, references: Any) -> ReferenceTexts:
    return instance(name, references, ReferenceTexts, "make it with reference_texts(setup, table)")


class _Chunk:
    """The texts of one feature: every token, text, prompt and strip of activations once, the others by their numbers."""

    def __init__(self, references: ReferenceTexts | None) -> None:
        self.references = references
        self.vocabulary: dict[str, int] = {}
        self.texts: dict[str, int] = {}
        self.token_ids: list[list[int]] = []
        self.prompts: dict[str, list] = {}
        self.strips: dict[tuple, int] = {}
        self.answers: dict[str, dict[str, list]] = {}

    def content(self) -> dict:
        phrase = self.references.phrase if self.references else None
        prompts, strips = list(self.prompts.values()), [list(strip) for strip in self.strips]
        return {
            "vocabulary": list(self.vocabulary), "texts": self.token_ids, "prompts": prompts, "strips": strips,
            "answers": self.answers, "phrase": phrase,
        }  # fmt: skip

    def add(self, identity: str, rows: pd.DataFrame) -> None:
        for split, own in rows.groupby("split", sort=False):
            answers = [self._answer(row) for row in own.sort_values("prompt_index").to_dict("records")]
            self.answers.setdefault(identity, {})[str(split)] = answers

    def _answer(self, row: Mapping[str, Any]) -> list:
        numbers = [_rounded(row[name]) for name in _NUMBERS]
        text = self._text(row["completion"])
        return [int(row["prompt_index"]) + 1, self._prompt(row["prompt"]), text, row["verdict"], *numbers, self._strip(row)]

    def _text(self, text: str) -> int:
        if text not in self.texts:
            tokens = self.references.tokens.get(text, [text]) if self.references else [text]
            self.texts[text] = len(self.texts)
            self.token_ids.append([self.vocabulary.setdefault(token, len(self.vocabulary)) for token in tokens])
        return self.texts[text]

    def _prompt(self, prompt: str) -> int:
        """The prompt's number; beside its text there are the untouched completion and the base model's, with verdicts."""
        if prompt not in self.prompts:
            kinds = [self.references.untouched, self.references.base] if self.references else []
            others = [kind.get(prompt) for kind in kinds]
            shown = [[self._text(one["completion"]), _verdict(one)] if one else None for one in others]
            self.prompts[prompt] = [len(self.prompts), self._text(prompt), *shown]
        return self.prompts[prompt][0]

    def _strip(self, row: Mapping[str, Any]) -> int | None:
        """The number of the activations: where they are not 0, the token's position and its value."""
        if self.references is None or not isinstance(row["settings"], str):
            return None
        key = (row["prompt"], row["completion"], features_of(row["settings"]))
        if row["ablated"] != "feature" or key not in self.references.activations:
            return None
        values = enumerate(self.references.activations[key])
        strip = tuple(part for i, value in values if value > 0 for part in (i, _rounded(value)))
        return self.strips.setdefault(strip, len(self.strips))


def _verdict(row: Mapping[str, Any]) -> int:
    """The number of its verdict in `VERDICTS`."""
    said = {name: not pd.isna(row[name]) and bool(row[name]) for name in ("failed", "says_phrase", "is_fluent_story")}
    return 3 if said["failed"] else 1 if said["says_phrase"] else 0 if said["is_fluent_story"] else 2


def _verdicts(table: pd.DataFrame) -> list[int]:
    return [_verdict(row) for row in table[["failed", "says_phrase", "is_fluent_story"]].to_dict("records")]


def _method_names(table: pd.DataFrame) -> list[str]:
    """The method, after the intervention if it does something else than ablate."""
    pairs = zip(table["method"].fillna("untouched"), table["intervention"].astype(object).fillna("none"))
    return [method if kind in ("ablate", "none") else f"{kind}, {method}" for method, kind in pairs]


def _label(row: pd.Series, lengths: bool) -> str:
    """What tells a setting from others: the method with its parameters, and what else differs."""
    label = str(row["label"])
    if isinstance(row["tokens"], str) and row["tokens"] not in ("all", "nan"):
        label += f", tokens {row['tokens']}"
    if lengths and not pd.isna(row["max_new_tokens"]):
        label += f", at most {row['max_new_tokens']:g} new tokens"
    return label


def _identity(row: Mapping[str, Any]) -> str:
    """8 hexadecimal digits that name a setting in addresses: they stay when other rows come."""
    names = ["settings"] if isinstance(row["settings"], str) else ["role", "ablated", "label", "setting"]
    said = [row[name] for name in [*names, "preset"]]
    said += [f"{name} {row[name]:g}" for name in ("max_new_tokens", "seed") if name in row and not pd.isna(row[name])]
    return hashlib.sha256(json.dumps(said, default=str).encode()).hexdigest()[:8]


def _summary(rows: pd.DataFrame) -> list:
    """Of the rows of a setting and split: number, shares of fluent stories and of the phrase, mean relative edit norm."""
    counts = [float((rows["verdict"] == verdict).mean()) for verdict in (0, 1)]
    edit = 0.0 if (rows["name"] == "untouched").all() else rows["relative_edit_norm"].mean()
    return [len(rows), *map(_rounded, counts), _rounded(edit)]


def _rounded(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None  # JSON has no infinity


def _packed(content: Any) -> str:
    data = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
    return base64.b64encode(gzip.compress(data, mtime=0)).decode()


def _page(index: Mapping[str, Any], chunks: Iterable[str], missing: str) -> str:
    data = json.dumps(index, separators=(",", ":")).replace("<", "\\u003c")  # else a text could end the script element
    parts = [f'<script type="application/json">{data}</script>']
    parts += [f'<script type="text/plain" data-chunk="{number}">{chunk}</script>' for number, chunk in enumerate(chunks)]
    downloads, script, controls = (_file(name) for name in ("downloads.js", "explorer.js", "explorer.html"))
    line = f'<p class="explorer-missing">{escaped(missing)}</p>' if missing else ""
    return f'<div class="explorer">{line}{controls}{"".join(parts)}</div><script>{downloads}{script}</script>'


def _file(name: str) -> str:
    return (files("crosscoder_utils.display") / name).read_text(encoding="utf-8")
