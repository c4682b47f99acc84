"""Plotly figures. What they share is in `TEMPLATE`; the book recolours it for dark pages."""

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from IPython.display import HTML, display

from crosscoder_utils.interventions import Clamp, Intervention, Method
from crosscoder_utils.text_views import escaped

# Okabe and Ito's palette: distinguishable with any common colour vision.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]

TEMPLATE = go.layout.Template(
    layout={
        "colorway": COLOURS,
        "font": {"family": "system-ui, sans-serif", "size": 13},
        "margin": {"l": 60, "r": 20, "t": 40, "b": 50},
        "legend": {"orientation": "h", "yanchor": "top", "y": -0.22, "x": 0},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "xaxis": {"gridcolor": "#e5e5e5", "zeroline": False, "automargin": True},
        "yaxis": {"gridcolor": "#e5e5e5", "zeroline": False, "automargin": True},
        "hoverlabel": {"align": "left"},
    }
)


def show(figure: go.Figure, caption: str, alt: str) -> None:
    """Display a figure with a caption below it.

    Args:
        figure: What to show.
        caption: What to see in it, with n, what the error bars are, and the seed; plain text.
        alt: The same for somebody who cannot see it: what is drawn, and what comes out.
    """
    figure.update_layout(meta={"alt": alt})  # the book's renderer gives it to screen readers
    display(figure, HTML(f'<p class="figure-caption">{escaped(caption)}</p>'))


def setting_name(method: Method, intervention: Intervention | None = None) -> str:
    """A method and its parameters in words, such as "single layer, point 1, scale 2"; with the value of a `Clamp`."""
    parameters = {field.name: getattr(method, field.name) for field in fields(method)}
    if isinstance(intervention, Clamp):
        parameters = {"value": intervention.value} | parameters
    return ", ".join([method.name, *(f"{n} {v:.3g}" if isinstance(v, float) else f"{n} {v}" for n, v in parameters.items())])


def bars_by_point(values: Sequence[float], title: str, y_title: str) -> go.Figure:
    """One bar per hook point."""
    figure = go.Figure(go.Bar(x=point_labels(len(values)), y=list(values)), layout={"template": TEMPLATE})
    return figure.update_layout(title=title, xaxis_title="hook point", yaxis_title=y_title, height=340)


def point_labels(n_points: int) -> list[str]:
    """Readable names of the hook points."""
    return ["embedding", *(f"after block {i}" for i in range(1, n_points))]


def condition_scatter(statistics: pd.DataFrame, x: str, y: str, highlight: dict[str, int]) -> go.Figure:
    """Every feature's mean activation in one condition against another's, with some features named."""
    figure = go.Figure(layout={"template": TEMPLATE})
    hover = "feature %{customdata}<br>x %{x:.3g}<br>y %{y:.3g}<extra></extra>"
    figure.add_scatter(
        x=statistics[x], y=statistics[y], mode="markers", name="features", customdata=statistics.index,
        marker={"size": 5, "opacity": 0.5}, hovertemplate=hover,
    )  # fmt: skip
    for role, feature in highlight.items():
        one = statistics.loc[[feature]]
        figure.add_scatter(
            x=one[x], y=one[y], mode="markers+text", text=[role], textposition="top center", name=f"{role} ({feature})",
            customdata=[feature], marker={"size": 11}, hovertemplate=hover,
        )  # fmt: skip
    return figure.update_layout(xaxis_title=x, yaxis_title=y, height=460)


def sweep_curves(summary: pd.DataFrame, x: str, by: str, x_title: str, lines: dict[str, float]) -> go.Figure:
    """Mean cross-entropy with its standard error against a hyperparameter, one curve per value of `by`.

    Args:
        summary: From `summarize`, with the columns `x` and `by`.
        x: Column of the hyperparameter; drawn on a logarithmic axis.
        by: Column that tells the curves apart.
        x_title: Its axis title.
        lines: Reference lines by name.
    """
    figure = go.Figure(layout={"template": TEMPLATE})
    for name, curve in summary.groupby(by, sort=False):
        figure.add_scatter(
            x=curve[x],
            y=curve["mean"],
            error_y={"array": curve["standard_error"]},
            mode="lines+markers",
            name=f"{by} {name:g}" if isinstance(name, float) else str(name),
        )
    for (name, value), dash in zip(lines.items(), ["dot", "dash", "dashdot", "longdash"], strict=False):
        ends = [summary[x].min(), summary[x].max()]
        figure.add_scatter(x=ends, y=[value] * 2, mode="lines", name=name, line={"color": "#666666", "dash": dash})
    ticks = np.unique(summary[x])
    axis = {"type": "log", "title": x_title, "tickvals": ticks, "ticktext": [f"{t:g}" for t in ticks]}
    return figure.update_layout(xaxis=axis, yaxis_title="cross-entropy (nats per token)", height=460)
