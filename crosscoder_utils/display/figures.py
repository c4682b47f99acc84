"""Plotly figures of a model and its features, the template that all figures share, and `show`. Sweeps: `sweep_figures`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from IPython.display import HTML, display
from plotly.offline import get_plotlyjs

from crosscoder_utils.display.colours import COLOURS, distinct_colours
from crosscoder_utils.display.html import escaped
from crosscoder_utils.io.checked_tables import checked_table
from crosscoder_utils.io.files import check_writable_file, write_text
from crosscoder_utils.io.validation import chosen, instance, mapped, numbers, one_text, several, whole_number, whole_numbers

TEMPLATE = go.layout.Template(
    layout={
        "colorway": COLOURS,
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": "#222222"},
        "title": {"x": 0, "xref": "paper", "xanchor": "left", "font": {"size": 15}},
        "margin": {"l": 60, "r": 20, "t": 36, "b": 56},
        # Along the lower edge of the figure, below the axis title, whatever the number of lines. Entries that show and hide
        # together stand in their order all the same: in groups they would be spaced unevenly.
        "legend": {"orientation": "h", "yref": "container", "yanchor": "bottom", "y": 0, "x": 0, "traceorder": "normal"},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "xaxis": {"gridcolor": "#e5e5e5", "zeroline": False, "automargin": True},
        "yaxis": {"gridcolor": "#e5e5e5", "zeroline": False, "automargin": True, "title": {"standoff": 8}},
        "hoverlabel": {"align": "left"},
    }
)


def show(figure: go.Figure, caption: str, alt: str, path: str | Path | None = None) -> None:
    """Display a figure with a caption below it.

    Args:
        figure: The figure.
        caption: What the figure shows, with n, the meaning of the error bars, and the seed; plain text.
        alt: Description for screen readers: what is drawn, and the result.
        path: HTML file to which figure and caption are also written, with plotly.min.js, which draws it, in the same folder.
    """
    instance("figure", figure, go.Figure, "make one with a function of crosscoder_utils.display")
    caption, alt = one_text("caption", caption), one_text("alt", alt)
    path = None if path is None else check_writable_file(path)
    figure.update_layout(meta={"alt": alt})  # the book's renderer passes it to screen readers
    below = f'<p class="figure-caption">{escaped(caption)}</p>'
    if path is not None:
        _write_page(figure, below, path)
    display(figure, HTML(below))


def _write_page(figure: go.Figure, below: str, path: Path) -> None:
    # Plotly's default id is random, so equal figures would give different files.
    drawn = figure.to_html(full_html=False, include_plotlyjs="directory", div_id=path.stem)
    write_text(path, f'<!DOCTYPE html><meta charset="utf-8"><title>{escaped(path.stem)}</title>{drawn}{below}\n')
    script = path.with_name("plotly.min.js")
    if not script.exists():
        write_text(script, get_plotlyjs())


def bars_by_point(
    values: Sequence[float] | Mapping[str, Sequence[float]],
    y_title: str,
    hook_points: Sequence[int],
    errors: Sequence[float] | None = None,
) -> go.Figure:
    """One bar per hook point, with error bars if `errors` are given; for a mapping, one bar per name at each hook point."""
    groups = values if isinstance(values, Mapping) else {y_title: values}
    values = mapped("values", groups, lambda name, own: numbers(name, own), "names to numbers")
    hook_points, errors = whole_numbers("hook_points", hook_points), None if errors is None else several("errors", errors)
    for name, own in {**values, **({} if errors is None else {"errors": errors})}.items():
        if len(own) != len(hook_points):
            raise ValueError(f"{len(own)} values of {name!r} for {len(hook_points)} hook points; give one for each")
    figure = go.Figure(layout={"template": TEMPLATE})
    for name, own in values.items():
        error_y = {"array": errors, "visible": errors is not None}
        figure.add_bar(x=point_labels(hook_points), y=list(own), name=literal(name), error_y=error_y)
    return figure.update_layout(xaxis_title="hook point", yaxis_title=literal(y_title), height=340)


def point_labels(hook_points: Sequence[int]) -> list[str]:
    """The model's hook points in words."""
    return [f"after block {point}" if point else "embedding" for point in hook_points]


def condition_scatter(
    statistics: pd.DataFrame, x: str, y: str, highlight: dict[str, int], unit: str = "units of activation"
) -> go.Figure:
    """Every feature's mean activation in one condition against another's, on logarithmic axes, with some features named.

    Values below a 100,000th of the largest one, including 0, are drawn at the lower end of the axis, whose label says so. On
    the grey line both conditions are equal.

    Args:
        statistics: A row per feature, which is its index.
        x: Column of the horizontal axis.
        y: Column of the vertical axis.
        highlight: Features to name, by role.
        unit: Unit of both columns, for the titles of the axes; "" if the columns' names have it.
    """
    unit = one_text("unit", unit)
    statistics = checked_table("statistics", statistics, [x, y], numbers=[x, y])
    highlight = mapped("highlight", highlight, whole_number, "roles to features")
    unknown = [feature for feature in highlight.values() if feature not in statistics.index]
    if unknown:
        raise IndexError(f"feature {unknown[0]} has no row in statistics, whose index has {len(statistics)} features")
    floor, axis = log_axis(float(statistics[[x, y]].to_numpy().max()))
    shown = statistics[[x, y]].clip(lower=floor)
    ends = [axis["tickvals"][0], axis["tickvals"][-1]]
    figure = go.Figure(layout={"template": TEMPLATE})
    figure.add_scatter(x=ends, y=ends, mode="lines", line={"color": "#999999", "width": 1}, hoverinfo="skip", showlegend=False)
    values = f"{literal(x)} %{{customdata[1]:.3g}}<br>{literal(y)} %{{customdata[2]:.3g}}"
    hover = f"feature %{{customdata[0]}}<br>{values} {literal(unit)}<extra></extra>"
    groups = [
        ("features", list(statistics.index)),
        *((f"{role} ({feature})", [feature]) for role, feature in highlight.items()),
    ]
    for i, (name, own) in enumerate(groups):
        exact = [[feature, *statistics.loc[feature, [x, y]]] for feature in own]
        marker = {"size": 5, "opacity": 0.6, "color": "#444444"}
        if i:
            marker = {"size": 11, "color": distinct_colours(len(highlight))[i - 1], "line": {"color": "white", "width": 1}}
        figure.add_scatter(
            x=shown.loc[own, x], y=shown.loc[own, y], mode="markers", name=literal(name), customdata=exact, marker=marker,
            hovertemplate=hover, meta={"customdata": ["feature", "x", "y"]},
        )  # fmt: skip
    titles = [literal(f"{name} ({unit})" if unit else name) for name in (x, y)]
    return figure.update_layout(xaxis=axis | {"title": titles[0]}, yaxis=axis | {"title": titles[1]}, height=500)


def log_axis(largest: float) -> tuple[float, dict]:
    """The smallest value that a logarithmic axis up to `largest` shows, and the axis, on whose first label "≤" stands for less.

    Values below it, such as 0, are to be drawn at it.
    """
    top = int(np.ceil(np.log10(max(largest, 1e-9))))
    ticks = [10.0**power for power in range(top - 5, top + 1)]
    names = [f"≤ {ticks[0]:g}", *(f"{tick:g}" for tick in ticks[1:])]
    # Some room beyond the ends, so that markers there are not cut off.
    return ticks[0], {"type": "log", "tickvals": ticks, "ticktext": names, "range": [top - 5.2, top + 0.2]}


def effect_scatter(effects: pd.DataFrame, highlight: dict[str, int], of: str = "encoder") -> go.Figure:
    """Every feature's effect on the first token (KL), of the edit along the decoder against an edit along another direction.

    Axes, the grey line of equal effects and small values are as in `condition_scatter`. Features of which a KL is unknown are
    left out.

    Args:
        effects: From `encoder_decoder_effects`.
        highlight: Features to name, by role.
        of: The edit on the vertical axis: "encoder" or "random".
    """
    columns = {"kl_decoder": "KL of the decoder edit"}
    columns[f"kl_{chosen('of', of, ('encoder', 'random'))}"] = f"KL of the {of} edit"
    effects = checked_table("effects", effects, ["feature", *columns], numbers=["feature", *columns])
    known = effects.rename(columns=columns).dropna(subset=list(columns.values()))
    known = checked_table("the part of effects whose KLs are known", known)
    return condition_scatter(known.astype({"feature": int}).set_index("feature"), *columns.values(), highlight, "nats")


def literal(text: object) -> str:
    """Escape a text for Plotly's names, labels and hover templates, in which %{...} would stand for a value."""
    return escaped(text).replace("%", "&#37;")
