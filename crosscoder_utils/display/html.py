"""Tokens, texts and tables as HTML. All text from models and prompts is escaped."""

import html
from collections.abc import Sequence

import pandas as pd
from IPython.display import HTML

from crosscoder_utils.analysis.statistics import best_settings


def escaped(text: str) -> str:
    """Escape `text` for HTML and for Plotly's labels, including dollar signs, which would be rendered as a formula."""
    # Plotly decodes numeric character references, but not &quot;.
    return html.escape(text).replace("&quot;", "&#34;").replace("$", "&#36;")


def token_strip(tokens: Sequence[str], values: Sequence[float], title: str = "", top: float | None = None) -> HTML:
    """A text whose tokens are shaded by `values`; hovering shows the value.

    Args:
        tokens: The pieces of the text.
        values: One per token; at 0 or below, a token is not shaded.
        title: Heading.
        top: Value of the darkest shade, by default the largest; strips with the same `top` can be compared.
    """
    top = max(max(values, default=0.0) if top is None else top, 1e-9)
    spans = []
    for token, value in zip(tokens, values, strict=True):
        # Translucent, so that the text keeps its contrast on light and dark pages.
        style = f' style="background:rgba(0,114,178,{0.6 * float(value) / top:.2f})"' if value > 0 else ""
        shown = escaped(token).replace("\n", "⏎<br>")
        spans.append(f'<span{style} title="{float(value):.3f}">{shown}</span>')
    head = f"<strong>{escaped(title)}</strong><br>" if title else ""
    return HTML(f'<div class="tokens">{head}{"".join(spans)}</div>')


def token_strips(strips: Sequence[tuple[str, Sequence[str], Sequence[float]]]) -> HTML:
    """Several token strips below each other, each given as (title, tokens, values)."""
    return HTML("".join(token_strip(tokens, values, title).data for title, tokens, values in strips))


def texts_table(frame: pd.DataFrame, scroll: bool = False) -> HTML:
    """A table whose text cells wrap; all text is escaped.

    Args:
        frame: The table; its index is not shown.
        scroll: Put a long table into a scrolling box.
    """
    shown = frame.map(_cell)
    shown.columns = [escaped(str(name)).replace("_", " ") for name in shown.columns]
    table = shown.to_html(index=False, escape=False, float_format=lambda v: f"{v:.3g}", na_rep="", border=0, classes="texts")
    # A table that is too wide or too tall scrolls, with the keyboard too.
    kind = "texts-wrapper texts-tall" if scroll else "texts-wrapper"
    label = f"Table: {', '.join(shown.columns)}"
    return HTML(f'<div class="{kind}" role="region" tabindex="0" aria-label="{label}">{table}</div>')


def _cell(value: object) -> object:
    """Numbers and missing values are formatted by pandas; everything else, including lists, is escaped as text."""
    if value is None or value is pd.NA or pd.api.types.is_number(value):
        return value
    text = str(value)
    shown = escaped(text).replace("\n", "<br>")
    return f'<div class="long-text">{shown}</div>' if len(text) > 60 else shown


def side_by_side(table: pd.DataFrame, prompt_index: int = 0) -> HTML:
    """Completions of one prompt, each under the best setting (see `best_settings`) of its method and hook point.

    Args:
        table: From `sweep`; the recorded activations are shown too.
        prompt_index: The prompt.
    """
    best = best_settings(table, ["method", "point"])["setting"]
    chosen = table[(table["prompt_index"] == prompt_index) & table["setting"].isin(best)]
    recorded = [name for name in ("activation_before", "activation_after", "others_change_relative") if name in table]
    return texts_table(chosen[["label", "completion", *recorded]].rename(columns={"label": "setting"}))
