"""A page that answers without a kernel: choose a setting and a prompt, and read what was computed for them."""

import json
from importlib.resources import files
from numbers import Real

import pandas as pd
from IPython.display import HTML

_COLUMNS = [
    "cross_entropy",
    "completion_cross_entropy",
    "activation_before",
    "activation_after",
    "relative_edit_norm",
    "overshoot",
]


def explorer(table: pd.DataFrame, n_prompts: int | None = None) -> HTML:
    """Controls over the rows of a sweep, with a script that has no dependencies; works from a file.

    Args:
        table: From `ablation_experiment`, or a `sweep` with the columns `role` and `target`, whatever was recorded.
        n_prompts: The first prompts to offer; by default all.
    """
    rows = table if n_prompts is None else table[table["prompt_index"] < n_prompts]
    # Many settings write the same text: each stands in the page once.
    numbers, texts = pd.factorize(rows["completion"])
    rows = rows.assign(text=numbers)
    # Without a folder, a sweep has only columns that something is in.
    rows = rows.reindex(columns=list(dict.fromkeys([*rows.columns, "method", "point", "scale", "lr", *_COLUMNS])))
    prompts = rows.drop_duplicates("prompt_index").set_index("prompt_index")["prompt"].sort_index()
    choices = []
    for keys, group in rows.groupby(["role", "target", "method", "point"], dropna=False, sort=False):
        strengths = [_strength(values) for _, values in group.groupby("setting", sort=False)]
        role, target, method, point = keys
        place = "untouched" if pd.isna(method) else method if pd.isna(point) else f"{method}, point {point:g}"
        choices.append({"role": role, "target": target, "method": place, "strengths": strengths})
    data = json.dumps({"prompts": list(prompts), "texts": list(texts), "choices": choices}, separators=(",", ":"))
    data = data.replace("<", "\\u003c")  # else a text could end the script element
    script = (files("crosscoder_utils.display") / "explorer.js").read_text()
    return HTML(
        f'<div class="explorer">{_CONTROLS}<script type="application/json">{data}</script></div><script>{script}</script>'
    )


def _strength(rows: pd.DataFrame) -> dict:
    answers = [
        [row["text"], bool(row["says_phrase"]), *(None if pd.isna(row[c]) else round(float(row[c]), 3) for c in _COLUMNS)]
        for _, row in rows.sort_values("prompt_index").iterrows()
    ]
    return {"name": _strength_name(rows.iloc[0]), "answers": answers}


def _strength_name(row: pd.Series) -> str:
    for name, value in (("scale", row["scale"]), ("learning rate", row["lr"])):
        if isinstance(value, Real) and pd.notna(value):
            return f"{name} {value:g}"
    return f"setting {row['setting']}"  # none, the default, or one number for each point


_CONTROLS = """
<div class="explorer-controls">
<label>Feature <select data-choose="role"></select></label>
<label>Ablated <select data-choose="target"></select></label>
<label>Method <select data-choose="method"></select></label>
<label>Prompt <select data-choose="prompt"></select></label>
<label>Strength <input type="range" data-choose="strength" min="0" step="1"> <output></output></label>
</div>
<pre class="explorer-text" tabindex="0" aria-live="polite"></pre>
<dl class="explorer-figures"></dl>
<noscript>The explorer is a script; allow it for this page.</noscript>
"""
