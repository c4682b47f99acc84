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
    """Every feature's mean activation in one condition against another's, on logarithmic axes, with some features named.

    What is smaller than a 100,000th of the largest value, 0 included, stands at the lower end of the axis, which says so.
    The grey line is where both conditions are equal.
    """
    largest = max(float(statistics[[x, y]].to_numpy().max()), 1e-9)
    top = int(np.ceil(np.log10(largest)))
    floor = 10.0 ** (top - 5)
    shown = statistics[[x, y]].clip(lower=floor)
    ends = [floor, 10.0**top]
    figure = go.Figure(layout={"template": TEMPLATE})
    figure.add_scatter(x=ends, y=ends, mode="lines", line={"color": "#999999", "width": 1}, hoverinfo="skip", showlegend=False)
    hover = "feature %{customdata[0]}<br>x %{customdata[1]:.3g}<br>y %{customdata[2]:.3g}<extra></extra>"
    groups = [("features", list(statistics.index)), *((f"{role} ({feature})", [feature]) for role, feature in highlight.items())]
    for i, (name, chosen) in enumerate(groups):
        exact = [[feature, *statistics.loc[feature, [x, y]]] for feature in chosen]
        marker = {"size": 11, "line": {"color": "white", "width": 1}} if i else {"size": 5, "opacity": 0.4, "color": "#666666"}
        figure.add_scatter(
            x=shown.loc[chosen, x], y=shown.loc[chosen, y], mode="markers", name=name, customdata=exact, marker=marker,
            hovertemplate=hover,
        )  # fmt: skip
    ticks = [10.0**power for power in range(top - 5, top + 1)]
    names = [f"≤ {floor:g}", *(f"{tick:g}" for tick in ticks[1:])]
    # A little room beyond the ends, so that the points there are whole.
    axis = {"type": "log", "tickvals": ticks, "ticktext": names, "range": [top - 5.2, top + 0.2]}
    return figure.update_layout(xaxis=axis | {"title": x}, yaxis=axis | {"title": y}, height=500)


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
