"""Feature cards as a figure and as HTML."""

import pandas as pd
import plotly.graph_objects as go
from IPython.display import HTML
from plotly.subplots import make_subplots

from crosscoder_utils.feature_cards import FeatureCard
from crosscoder_utils.plots import COLOURS, TEMPLATE, point_labels
from crosscoder_utils.text_views import escaped, texts_table, token_strips


def card_figure(card: FeatureCard) -> go.Figure:
    """Three panels below each other: activations where the feature fires, decoder norms, decoder-encoder cosines."""
    titles = ["tokens by activation, where it fires", "norm of the decoder vector", "cosine of decoder and encoder vector"]
    figure = make_subplots(rows=3, cols=1, subplot_titles=titles, vertical_spacing=0.13)
    middles, widths = (card.bin_edges[1:] + card.bin_edges[:-1]) / 2, card.bin_edges[1:] - card.bin_edges[:-1]
    labels = point_labels(card.hook_points)
    bars = [(middles, card.bin_counts), (labels, card.decoder_norms), (labels, card.decoder_encoder_cosines)]
    for row, (x, y) in enumerate(bars, start=1):
        hover = "%{x:.3g}: %{y} tokens<extra></extra>" if row == 1 else "%{x}: %{y:.3g}<extra></extra>"
        figure.add_bar(x=x, y=y, width=widths if row == 1 else None, hovertemplate=hover, row=row, col=1)
    figure.update_traces(marker_color=COLOURS[0])
    figure.update_xaxes(rangemode="tozero", row=1)
    figure.update_xaxes(showticklabels=False, row=2)  # the same hook points as below
    figure.update_yaxes(rangemode="tozero", row=2)
    figure.update_yaxes(range=[min(0, *card.decoder_encoder_cosines) * 1.1, 1], row=3)
    figure.update_annotations(x=0, xanchor="left", font_size=13)
    return figure.update_layout(template=TEMPLATE, height=520, showlegend=False)


def card_html(card: FeatureCard) -> HTML:
    """The card's texts and tables: a line of figures, top contexts, promoted and suppressed tokens, co-firing features."""
    head = f"feature {card.feature} fires on {card.firing_rate:.2%} of {card.n_tokens} tokens in {card.n_texts} texts"
    if card.contexts:
        head += f"; activation there: mean {card.mean_activation:.2f}, largest {card.max_activation:.2f}"
    strips = [
        (f"text {c.text}, token {c.position}: {c.activations.max():.2f}", c.tokens, c.activations.tolist())
        for c in card.contexts
    ]
    parts = [
        ("Top contexts", token_strips(strips) if strips else None),
        (f"Direct effect on logits, {point_labels(card.hook_points)[-1]}", texts_table(_tokens_table(card))),
        ("Fires on the same tokens", texts_table(card.co_firing) if len(card.co_firing) else None),
    ]
    blocks = [f"<p><strong>{escaped(title)}</strong></p>{part.data if part else '<p>none</p>'}" for title, part in parts]
    return HTML(f"<p>{escaped(head)}</p>{''.join(blocks)}")


def _tokens_table(card: FeatureCard) -> pd.DataFrame:
    """Promoted and suppressed tokens beside each other, in quotes, so that blanks and line ends can be seen."""
    columns = {}
    for name, table in (("promoted", card.promoted), ("suppressed", card.suppressed)):
        columns[name] = [repr(token) for token in table["token"]]
        columns[f"effect of {name}"] = table["effect"].to_numpy()
    return pd.DataFrame(columns).rename(columns=lambda name: "effect" if name.startswith("effect") else name)
