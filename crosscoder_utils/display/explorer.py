"""A page that shows the stored completions of a sweep without a kernel: choose a setting and a prompt, and read."""

import json
import math
from importlib.resources import files

import pandas as pd
from IPython.display import HTML

from crosscoder_utils.analysis.tables import methods_with_points
from crosscoder_utils.io.checked_tables import checked_table
from crosscoder_utils.io.validation import whole_number

_MEASURES = {
    "cross_entropy": "cross-entropy (nats per token)",
    "completion_cross_entropy": "cross-entropy of the completion",
    "activation_before": "mean activation, clean run",
    "activation_after": "mean activation, intervened run",
    "relative_edit_norm": "relative edit norm",
    "overshoot": "overshoot below the threshold",
}
_DEFAULTS = {"role": "any", "ablated": "feature", "label": "untouched", "completion": "failed"}


def explorer(table: pd.DataFrame, n_prompts: int | None = None) -> HTML:
    """Controls over the rows of a sweep, with a script that has no dependencies and works from a file.

    Args:
        table: From `ablation_experiment` or `sweep`, whatever was recorded; without a column `role` or `ablated`, all rows are
            of "any" role and of the "feature".
        n_prompts: Number of prompts to offer; by default all.

    Raises:
        ValueError: If the table has no rows, or lacks a column.
    """
    needed = ["prompt_index", "prompt", "setting", "completion", "says_phrase"]
    filled = ["role", "ablated", "method", "point", "label", *_MEASURES]
    table = checked_table("table", table, needed, filled, ["prompt_index", "point", "failed", *_MEASURES])
    table = table.assign(**{name: table[name].astype(object).fillna(text) for name, text in _DEFAULTS.items()})
    if "failed" in table:
        table.loc[table["failed"].fillna(0) != 0, "completion"] = "failed: activations or logits were not finite"
    rows = table if n_prompts is None else table[table["prompt_index"] < whole_number("n_prompts", n_prompts, 1)]
    if not len(rows):
        raise ValueError(
            f"n_prompts={n_prompts} leaves no row of the table; its prompts are {table['prompt_index'].min():g} and more"
        )
    # Many settings give the same completion: the page contains each completion once.
    numbers, texts = pd.factorize(rows["completion"])
    rows = rows.assign(text=numbers)
    rows = rows.assign(method=methods_with_points(rows))
    prompts = rows.drop_duplicates("prompt_index").set_index("prompt_index")["prompt"].sort_index()
    choices = []
    for (role, ablated, method), group in rows.groupby(["role", "ablated", "method"], sort=False):
        settings = [_setting(values) for _, values in group.groupby("setting", sort=False)]
        choices.append({"role": role, "ablated": ablated, "method": method, "settings": settings})
    content = {"prompts": list(prompts), "texts": list(texts), "choices": choices, "measures": list(_MEASURES.values())}
    data = json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")  # else a text could end the script element
    script = (files("crosscoder_utils.display") / "explorer.js").read_text(encoding="utf-8")
    return HTML(
        f'<div class="explorer">{_CONTROLS}<script type="application/json">{data}</script></div><script>{script}</script>'
    )


def _setting(rows: pd.DataFrame) -> dict:
    """A setting's label and, for each prompt, the number of its text, whether it says the phrase, and the measures."""
    answers = [
        [
            row["text"],
            row["says_phrase"] is not pd.NA and bool(row["says_phrase"]),
            *(None if pd.isna(row[c]) else _rounded(row[c]) for c in _MEASURES),
        ]
        for _, row in rows.sort_values("prompt_index").iterrows()
    ]
    return {"label": rows["label"].iloc[0], "answers": answers}


def _rounded(value: float) -> float | None:
    return round(float(value), 3) if math.isfinite(value) else None  # JSON has no infinity


_CONTROLS = """
<div class="explorer-controls">
<label>Feature <select data-choose="role"></select></label>
<label>Ablated <select data-choose="ablated"></select></label>
<label>Method <select data-choose="method"></select></label>
<label>Prompt <select data-choose="prompt"></select></label>
<label>Strength <input type="range" data-choose="strength" min="0" step="1"> <output></output></label>
</div>
<pre class="explorer-text" tabindex="0" aria-live="polite"></pre>
<dl class="explorer-figures"></dl>
<noscript>The explorer needs JavaScript; allow scripts on this page.</noscript>
"""
