"""Feature cards as a figure and as HTML."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from IPython.display import HTML
from jaxtyping import Float
from plotly.subplots import make_subplots

from crosscoder_utils.analysis.feature_cards import FeatureCard
from crosscoder_utils.display.colours import COLOURS
from crosscoder_utils.display.figures import TEMPLATE, point_labels
from crosscoder_utils.display.html import escaped, texts_table, token_strips
from crosscoder_utils.io.validation import instance


def card_figure(card: FeatureCard) -> go.Figure:
    """Three panels: histogram of the activations, decoder norms, and decoder-encoder cosines by hook point."""
    instance("card", card, FeatureCard, "make one with feature_card(setup, encoded_texts, feature)")
    titles = ["tokens by activation, where it fires", "norm of the decoder vector", "cosine of decoder and encoder vector"]
    figure = make_subplots(rows=3, cols=1, subplot_titles=titles, vertical_spacing=0.13)
    middles, widths = (card.bin_edges[1:] + card.bin_edges[:-1]) / 2, card.bin_edges[1:] - card.bin_edges[:-1]
    labels = point_labels(card.hook_points)
    bars = [(middles, card.bin_counts), (labels, card.decoder_norms), (labels, card.decoder_encoder_cosines)]
    for row, (x, y) in enumerate(bars, start=1):
        hover = "%{x:.3g}: %{y} tokens<extra></extra>" if row == 1 else "%{x}: %{y:.3g}<extra></extra>"
        name = titles[row - 1]
        figure.add_bar(x=x, y=y, width=widths if row == 1 else None, hovertemplate=hover, name=name, row=row, col=1)
        figure.update_yaxes(title=("tokens", "norm", "cosine")[row - 1], row=row)
    figure.update_traces(marker_color=COLOURS[0])
    figure.update_xaxes(rangemode="tozero", title={"text": "activation", "standoff": 4}, row=1)
    figure.update_xaxes(showticklabels=False, matches="x3", row=2)  # the same as of the panel below
    figure.update_xaxes(title="hook point", row=3)
    figure.update_yaxes(rangemode="tozero", row=2)
    figure.update_yaxes(range=[min(0, *card.decoder_encoder_cosines) * 1.1, 1], row=3)
    figure.update_annotations(x=0, xanchor="left", font_size=13)
    return figure.update_layout(template=TEMPLATE, height=520, showlegend=False)


def card_bars(card: FeatureCard) -> HTML:
    """The content of `card_figure` as HTML without a script, because not every host of widgets can draw figures in them."""
    instance("card", card, FeatureCard, "make one with feature_card(setup, encoded_texts, feature)")
    counts = [
        (f"{low:.3g} to {high:.3g}: {count} tokens", int(count))
        for low, high, count in zip(card.bin_edges, card.bin_edges[1:], card.bin_counts)
    ]
    labels = point_labels(card.hook_points)
    parts = [
        ("tokens by activation, where it fires", _columns(counts, f"{card.max_activation:.3g}") if counts else "none"),
        ("norm of the decoder vector", _bars(labels, card.decoder_norms, max(float(card.decoder_norms.max()), 1e-9))),
        ("cosine of decoder and encoder vector", _bars(labels, card.decoder_encoder_cosines, 1.0)),
    ]
    blocks = [f'<div style="flex: 1 1 16em; min-width: 0"><strong>{title}</strong>{part}</div>' for title, part in parts]
    return HTML(f'<div style="display: flex; flex-wrap: wrap; gap: 0.75em 2em; margin-bottom: 1em">{"".join(blocks)}</div>')


def _columns(counts: Sequence[tuple[str, int]], largest: str) -> str:
    top = max(count for _, count in counts)
    columns = [
        f'<div title="{words}" style="flex: 1; background: {COLOURS[0]}; height: {100 * count / top:.1f}%"></div>'
        for words, count in counts
    ]
    ends = f'<div style="display: flex; justify-content: space-between"><span>0</span><span>{largest}</span></div>'
    return f'<div style="display: flex; align-items: end; gap: 1px; height: 6em">{"".join(columns)}</div>{ends}'


def _bars(labels: Sequence[str], values: Float[np.ndarray, " point"], top: float) -> str:
    rows = [
        f'<div style="flex: 0 0 7em">{label}</div><div style="flex: 1"><div style="background: {COLOURS[0]}; height: 0.8em; '
        f'width: {100 * max(value, 0) / top:.1f}%"></div></div><div style="flex: 0 0 4em">{value:.3g}</div>'
        for label, value in zip(labels, values)
    ]
    return "".join(f'<div style="display: flex; align-items: center; gap: 0.5em">{row}</div>' for row in rows)


def card_html(card: FeatureCard) -> HTML:
    """The card's summary line, top contexts, promoted and suppressed tokens, and co-firing features."""
    instance("card", card, FeatureCard, "make one with feature_card(setup, encoded_texts, feature)")
    head = f"feature {card.feature} fires on {card.firing_rate:.2%} of {card.n_tokens} tokens in {card.n_texts} texts"
    if card.contexts:
        head += f"; activation there: mean {card.mean_activation:.2f}, largest {card.max_activation:.2f}"
    strips = [
        (f"text {c.text}, token {c.position}: {c.activations.max():.2f}", c.tokens, c.activations.tolist())
        for c in card.contexts
    ]
    parts = [
        ("Top contexts", token_strips(strips) if strips else None),
        (f"Direct logit effect, {point_labels(card.hook_points)[-1]}", texts_table(_tokens_table(card))),
        ("Fires on the same tokens", texts_table(card.co_firing) if len(card.co_firing) else None),
    ]
    blocks = [f"<p><strong>{escaped(title)}</strong></p>{part.data if part else '<p>none</p>'}" for title, part in parts]
    return HTML(f"<p>{escaped(head)}</p>{''.join(blocks)}")


def _tokens_table(card: FeatureCard) -> pd.DataFrame:
    """Promoted and suppressed tokens side by side, quoted, so that spaces and line breaks are visible."""
    columns = {}
    for name, table in (("promoted", card.promoted), ("suppressed", card.suppressed)):
        columns[name] = [repr(token) for token in table["token"]]
        columns[f"effect of {name}"] = table["effect"].to_numpy()
    return pd.DataFrame(columns).rename(columns=lambda name: "effect" if name.startswith("effect") else name)
