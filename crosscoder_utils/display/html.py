"""Tokens, texts and tables as HTML. All text from models and prompts is escaped."""

import html
import math
from collections.abc import Sequence
from numbers import Real

import pandas as pd
from IPython.display import HTML

from crosscoder_utils.analysis.encoded_texts import whole_characters
from crosscoder_utils.analysis.statistics import NEEDED, best_settings
from crosscoder_utils.display.colours import COLOURS, translucent
from crosscoder_utils.io.checked_tables import checked_table
from crosscoder_utils.io.error_messages import shown
from crosscoder_utils.io.validation import finite_number, flag, one_text, plain, several, texts, whole_number


def escaped(text: object) -> str:
    """Escape `text` for HTML and for Plotly's labels, including dollar signs, which would be rendered as a formula."""
    # Plotly decodes numeric character references, but not &quot;.
    return html.escape(str(text)).replace("&quot;", "&#34;").replace("$", "&#36;")


def token_strip(tokens: Sequence[str], values: Sequence[float], title: str = "", top: float | None = None) -> HTML:
    """A text whose tokens are shaded by `values`; hovering shows the value.

    Args:
        tokens: The pieces of the text; an empty one belongs to the character before it, as from `token_texts`.
        values: One per token; at 0 or below and at NaN, a token is not shaded.
        title: Heading.
        top: Value of the darkest shade, by default the largest; strips with the same `top` can be compared.
    """
    tokens, values = texts("tokens", tokens), several("values", plain(values), "numbers")
    if len(tokens) != len(values) or not all(isinstance(value, Real) for value in values):
        raise ValueError(f"{len(values)} values for {len(tokens)} tokens must be one number for each token")
    largest = max((value for value in values if math.isfinite(value)), default=0.0)
    top = max(largest if top is None else finite_number("top", top), 1e-9)
    spans = []
    for token, value in whole_characters(tokens, values):
        opacity = 0.6 * min(float(value) / top, 1)
        style = f' style="background:{translucent(COLOURS[0], opacity)}"' if value > 0 else ""
        shown = escaped(token).replace("\n", "⏎<br>")
        spans.append(f'<span{style} title="{float(value):.3f}">{shown}</span>')
    head = f"<strong>{escaped(one_text('title', title))}</strong><br>" if title else ""
    return HTML(f'<div class="tokens">{head}{"".join(spans)}</div>')


def token_strips(strips: Sequence[tuple[str, Sequence[str], Sequence[float]]]) -> HTML:
    """Several token strips below each other, each given as (title, tokens, values)."""
    strips = several("strips", strips, "(title, tokens, values)")
    for i, strip in enumerate(strips):
        if not isinstance(strip, (tuple, list)) or len(strip) != 3:
            raise ValueError(f"strips[{i}]={shown(strip)} must be (title, tokens, values)")
    return HTML("".join(token_strip(tokens, values, title).data for title, tokens, values in strips))


def texts_table(frame: pd.DataFrame, scroll: bool = False) -> HTML:
    """A table whose text cells wrap; all text is escaped.

    Args:
        frame: The table; its index is not shown.
        scroll: Put a long table into a scrolling box.
    """
    if not isinstance(frame, pd.DataFrame):
        raise ValueError(f"frame={shown(frame)} must be a table")
    cells = frame.map(_cell)
    cells.columns = [escaped(str(name)).replace("_", " ") for name in cells.columns]
    table = cells.to_html(index=False, escape=False, float_format=lambda v: f"{v:.3g}", na_rep="", border=0, classes="texts")
    # A table that is too wide or too tall scrolls, with the keyboard too.
    kind = "texts-wrapper texts-tall" if flag("scroll", scroll) else "texts-wrapper"
    label = f"Table: {', '.join(cells.columns)}"
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
        table: From `sweep`. Each completion stands behind its score; the recorded activations, if any, follow it.
        prompt_index: The prompt.

    Raises:
        ValueError: If the table lacks a column or the prompt, or every setting failed.
    """
    table = checked_table("table", table, ["prompt_index", "completion", *NEEDED], ["label"])
    best = best_settings(table, ["method", "point"])["setting"]
    chosen = table[(table["prompt_index"] == whole_number("prompt_index", prompt_index)) & table["setting"].isin(best)]
    if not len(chosen):
        has = sorted(table["prompt_index"].unique().tolist())
        raise ValueError(
            f"prompt_index={prompt_index} has no completion to show; the table has {shown(has)}, {len(best)} settings"
        )
    chosen = chosen.assign(label=chosen["label"].astype(object).fillna("untouched"))
    recorded = ["activation_before", "activation_after", "others_change_relative"]
    recorded = [name for name in recorded if name in table and table[name].notna().any()]
    columns = ["label", "is_story", "cross_entropy", "completion", *recorded]
    return texts_table(chosen[columns].rename(columns={"label": "setting"}))
