"""Tokens, texts and tables as HTML. Text from models and prompts is escaped: it is shown, never interpreted."""

import html
from collections.abc import Sequence

import pandas as pd
from IPython.display import HTML


def escaped(text: str) -> str:
    """`text` for HTML and for Plotly's labels; dollar signs too, so that no formula is made of them."""
    # Plotly knows numbers of characters, but not &quot;.
    return html.escape(text).replace("&quot;", "&#34;").replace("$", "&#36;")


def token_strip(tokens: Sequence[str], values: Sequence[float], title: str = "", top: float | None = None) -> HTML:
    """Text whose tokens are shaded by `values` (not at all at 0, most at `top`, by default the largest); hover shows the value.

    Give several strips the same `top` to compare them.
    """
    top = max(max(values, default=0.0) if top is None else top, 1e-9)
    spans = []
    for token, value in zip(tokens, values, strict=True):
        # Half transparent, so that the text keeps its contrast on light and dark pages.
        style = f' style="background:rgba(0,114,178,{0.6 * float(value) / top:.2f})"' if value > 0 else ""
        shown = escaped(token).replace("\n", "⏎<br>")
        spans.append(f'<span{style} title="{float(value):.3f}">{shown}</span>')
    head = f"<strong>{escaped(title)}</strong><br>" if title else ""
    return HTML(f'<div class="tokens">{head}{"".join(spans)}</div>')


def token_strips(strips: Sequence[tuple[str, Sequence[str], Sequence[float]]]) -> HTML:
    """Several strips, each a (title, tokens, values), below each other."""
    return HTML("".join(token_strip(tokens, values, title).data for title, tokens, values in strips))


def texts_table(frame: pd.DataFrame, scroll: bool = False) -> HTML:
    """A table whose text cells wrap; all text is escaped, dollar signs too, so that no formula is made of them.

    Args:
        frame: Shown without its index.
        scroll: Put a long table into a box that scrolls.
    """
    shown = frame.map(_cell)
    shown.columns = [escaped(str(name)).replace("_", " ") for name in shown.columns]
    table = shown.to_html(index=False, escape=False, float_format=lambda v: f"{v:.3g}", na_rep="", border=0, classes="texts")
    # What is too wide or too tall scrolls, also by keyboard.
    kind = "texts-wrapper texts-tall" if scroll else "texts-wrapper"
    label = f"Table: {', '.join(shown.columns)}"
    return HTML(f'<div class="{kind}" role="region" tabindex="0" aria-label="{label}">{table}</div>')


def _cell(value: object) -> object:
    """Numbers and gaps are left to pandas; everything else, lists of tokens too, is text."""
    if value is None or value is pd.NA or pd.api.types.is_number(value):
        return value
    text = str(value)
    shown = escaped(text).replace("\n", "<br>")
    return f'<div class="long-text">{shown}</div>' if len(text) > 60 else shown


def side_by_side(table: pd.DataFrame, prompt_index: int = 0) -> HTML:
    """Completions of one prompt, each under the best setting (lowest mean cross-entropy) of its method and hook point.

    Args:
        table: From `sweep`, its `setting` column replaced by names; of the activations, those that it recorded are shown.
        prompt_index: Which prompt.
    """
    means = table.groupby(["method", "point", "setting"], dropna=False, sort=False)["cross_entropy"].mean().reset_index()
    best = means.loc[means.groupby(["method", "point"], dropna=False, sort=False)["cross_entropy"].idxmin(), "setting"]
    chosen = table[(table["prompt_index"] == prompt_index) & table["setting"].isin(best)]
    recorded = [name for name in ("activation_before", "activation_after", "others_change_relative") if name in table]
    return texts_table(chosen[["setting", "completion", *recorded]])
