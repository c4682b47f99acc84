"""Plotly figures. What they share is in `TEMPLATE`; the book recolours it for dark pages."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from IPython.display import HTML, display
from plotly.offline import get_plotlyjs

from crosscoder_utils.evaluation import summarize
from crosscoder_utils.files import whole_file
from crosscoder_utils.interventions import Clamp, Intervention, Method
from crosscoder_utils.text_views import escaped

# Okabe and Ito's palette: distinguishable with any common colour vision.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]

_DASHES = ["dot", "dash", "dashdot", "longdash"]  # of reference lines

# For cells with a number in black on them: the part of Viridis that is light enough for it.
CELL_COLOURS = ["#fde725", "#a0da39", "#4ac16d", "#1fa187", "#2b8591"]

TEMPLATE = go.layout.Template(
    layout={
        "colorway": COLOURS,
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": "#222222"},
        "title": {"x": 0, "xref": "paper", "xanchor": "left", "font": {"size": 15}},
        "margin": {"l": 60, "r": 20, "t": 36, "b": 56},
        # Along the lower edge of the figure, below the axis title however many lines there are.
        "legend": {"orientation": "h", "yref": "container", "yanchor": "bottom", "y": 0, "x": 0, "tracegroupgap": 0},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "xaxis": {"gridcolor": "#e5e5e5", "zeroline": False, "automargin": True},
        "yaxis": {"gridcolor": "#e5e5e5", "zeroline": False, "automargin": True},
        "hoverlabel": {"align": "left"},
    }
)


def show(figure: go.Figure, caption: str, alt: str, path: str | Path | None = None) -> None:
    """Display a figure with a caption below it.

    Args:
        figure: What to show.
        caption: What to see in it, with n, what the error bars are, and the seed; plain text.
        alt: The same for somebody who cannot see it: what is drawn, and what comes out.
        path: HTML file to write figure and caption to as well; plotly.min.js, which draws it, goes beside it.
    """
    figure.update_layout(meta={"alt": alt})  # the book's renderer gives it to screen readers
    below = f'<p class="figure-caption">{escaped(caption)}</p>'
    if path is not None:
        _write_page(figure, below, Path(path))
    display(figure, HTML(below))


def _write_page(figure: go.Figure, below: str, path: Path) -> None:
    # Without an id of its own the figure would get a random one: no two files would be equal.
    drawn = figure.to_html(full_html=False, include_plotlyjs="directory", div_id=path.stem)
    with whole_file(path) as aside:
        aside.write_text(f'<!DOCTYPE html><meta charset="utf-8"><title>{escaped(path.stem)}</title>{drawn}{below}\n')
    script = path.with_name("plotly.min.js")
    if not script.exists():
        with whole_file(script) as aside:
            aside.write_text(get_plotlyjs())


def setting_name(method: Method, intervention: Intervention | None = None) -> str:
    """A method and its parameters in words, such as "single layer, point 1, scale 2"; with the value of a `Clamp`."""
    parameters = {field.name: getattr(method, field.name) for field in fields(method)}
    if isinstance(intervention, Clamp):
        parameters = {"value": intervention.value} | parameters
    given = {name: value for name, value in parameters.items() if value is not None}
    return ", ".join([method.name, *(f"{n} {v:.3g}" if isinstance(v, float) else f"{n} {v}" for n, v in given.items())])


def bars_by_point(
    values: Sequence[float] | Mapping[str, Sequence[float]],
    y_title: str,
    hook_points: Sequence[int],
    errors: Sequence[float] | None = None,
) -> go.Figure:
    """One bar per hook point, with an error bar if `errors` are given; or, of a mapping, one for each of its names."""
    figure = go.Figure(layout={"template": TEMPLATE})
    for name, own in (values if isinstance(values, Mapping) else {y_title: values}).items():
        error_y = {"array": errors, "visible": errors is not None}
        figure.add_bar(x=point_labels(hook_points), y=list(own), name=_label(name), error_y=error_y)
    return figure.update_layout(xaxis_title="hook point", yaxis_title=_label(y_title), height=340)


def point_labels(hook_points: Sequence[int]) -> list[str]:
    """Readable names of the model's hook points."""
    return [f"after block {point}" if point else "embedding" for point in hook_points]


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
    groups = [
        ("features", list(statistics.index)),
        *((f"{role} ({feature})", [feature]) for role, feature in highlight.items()),
    ]
    for i, (name, chosen) in enumerate(groups):
        exact = [[feature, *statistics.loc[feature, [x, y]]] for feature in chosen]
        marker = {"size": 11, "line": {"color": "white", "width": 1}} if i else {"size": 5, "opacity": 0.4, "color": "#666666"}
        figure.add_scatter(
            x=shown.loc[chosen, x], y=shown.loc[chosen, y], mode="markers", name=_label(name), customdata=exact, marker=marker,
            hovertemplate=hover,
        )  # fmt: skip
    ticks = [10.0**power for power in range(top - 5, top + 1)]
    names = [f"≤ {floor:g}", *(f"{tick:g}" for tick in ticks[1:])]
    # A little room beyond the ends, so that the points there are whole.
    axis = {"type": "log", "tickvals": ticks, "ticktext": names, "range": [top - 5.2, top + 0.2]}
    return figure.update_layout(xaxis=axis | {"title": _label(x)}, yaxis=axis | {"title": _label(y)}, height=500)


def sweep_curves(table: pd.DataFrame, x: str, by: str, x_title: str, lines: dict[str, float]) -> go.Figure:
    """Mean cross-entropy against a hyperparameter with a band of one standard error, one curve per value of `by`.

    Hovering shows the setting and its completion of the first prompt.

    Args:
        table: From `sweep`, with the columns `x` and `by`.
        x: Column of the hyperparameter; drawn on a logarithmic axis.
        by: Column that tells the curves apart.
        x_title: Its axis title.
        lines: Reference lines by name.
    """
    figure = go.Figure(layout={"template": TEMPLATE})
    examples = table[table["prompt_index"] == 0].drop_duplicates([by, x]).set_index([by, x])["completion"]
    for number, (name, curve) in enumerate(summarize(table, [by, x]).sort_values(x, kind="stable").groupby(by, sort=False)):
        colour = COLOURS[number % len(COLOURS)]
        label = f"{by} {name:g}" if isinstance(name, float) else str(name)
        low, high = curve["mean"] - curve["standard_error"], curve["mean"] + curve["standard_error"]
        figure.add_scatter(
            x=[*curve[x], *curve[x][::-1]], y=[*high, *low[::-1]], mode="lines", line={"width": 0}, legendgroup=label,
            fill="toself", fillcolor=colour, opacity=0.2, hoverinfo="skip", showlegend=False,
        )  # fmt: skip
        texts = [_wrapped(examples.get((name, value), "")) for value in curve[x]]
        figure.add_scatter(
            x=curve[x], y=curve["mean"], mode="lines+markers", name=_label(label), legendgroup=label, line={"color": colour},
            customdata=list(zip(curve["standard_error"], texts)),
            hovertemplate=f"{_label(f'{label}, {x}')} %{{x:g}}<br>%{{y:.2f}} ± %{{customdata[0]:.2f}}"
            "<br>%{customdata[1]}<extra></extra>",
        )  # fmt: skip
    for (name, value), dash in zip(lines.items(), _DASHES, strict=False):
        ends = [table[x].min(), table[x].max()]
        figure.add_scatter(x=ends, y=[value] * 2, mode="lines", name=_label(name), line={"color": "#808080", "dash": dash})
    ticks = np.unique(table[x].dropna())
    axis = {"type": "log", "title": _label(x_title), "tickvals": ticks, "ticktext": [f"{t:g}" for t in ticks]}
    return figure.update_layout(xaxis=axis, yaxis_title="cross-entropy (nats per token)", height=460)


def comparison_dots(draws: pd.DataFrame, references: dict[str, float]) -> go.Figure:
    """Cross-entropy of every method's best setting, with its standard error, among its controls, a dot for each draw.

    Args:
        draws: From `control_draws`.
        references: Reference lines by name.
    """
    figure = go.Figure(layout={"template": TEMPLATE})
    lines = summarize(draws, ["role", "method", "target", "draw"])
    lines["place"] = (lines["role"] + ": " + lines["method"]).map(_label)
    stories = draws.groupby(["role", "method", "target", "draw"])["is_story"].mean()
    lines["stories"] = stories.loc[list(lines[["role", "method", "target", "draw"]].itertuples(index=False))].to_numpy()
    for (name, value), dash in zip(references.items(), _DASHES, strict=False):
        line = {"color": "#808080", "dash": dash}
        ends = lines["place"].iloc[[0, -1]]
        # Behind the dots.
        figure.add_scatter(x=[value] * 2, y=ends, mode="lines", name=_label(name), line=line, legendrank=1001)
    for colour, (target, rows) in zip(COLOURS, lines.groupby("target", sort=False)):
        own = target == "feature"
        figure.add_scatter(
            x=rows["mean"], y=rows["place"], mode="markers", name=_label(target),
            customdata=rows[["standard_error", "stories"]],
            marker={"size": 11 if own else 8, "color": colour, "opacity": 1 if own else 0.5},
            error_x={"array": rows["standard_error"], "visible": own},
            hovertemplate=f"%{{y}}, {_label(target)}<br>%{{x:.2f}} ± %{{customdata[0]:.2f}} nats; "
            "stories %{customdata[1]:.0%}<extra></extra>",
        )  # fmt: skip
    axis = {"title": "cross-entropy (nats per token)", "rangemode": "tozero"}
    order = {"categoryorder": "array", "categoryarray": lines["place"].unique(), "autorange": "reversed"}
    return figure.update_layout(xaxis=axis, yaxis=order, height=420)


def heat_maps(table: pd.DataFrame, hook_points: Sequence[int]) -> go.Figure:
    """Mean cross-entropy of single layer settings, hook point against scale; a dropdown chooses the role.

    Args:
        table: From `sweep`, with the columns `role`, `point` and `scale`.
        hook_points: Of the model, one for each of the crosscoder's.
    """
    figure = go.Figure(layout={"template": TEMPLATE})
    single = table[table["method"] == "single layer"]
    low, high = (single.groupby(["role", "setting"])["cross_entropy"].mean().agg(["min", "max"])).tolist()
    roles = list(single["role"].unique())
    for role in roles:
        means = single[single["role"] == role].pivot_table(index="point", columns="scale", values="cross_entropy")
        figure.add_heatmap(
            z=means.to_numpy(), x=[f"{s:g}" for s in means.columns], y=[f"{hook_points[int(p)]}" for p in means.index],
            zmin=low, zmax=high, colorscale=CELL_COLOURS, visible=role == roles[0], texttemplate="%{z:.1f}",
            textfont={"color": "#000000"}, name=_label(role),
            hovertemplate="hook point %{y}, scale %{x}<br>%{z:.2f} nats<extra></extra>",
            colorbar={"title": "nats", "thickness": 14, "outlinewidth": 0},
        )  # fmt: skip
    buttons = [
        {"label": _label(f"{role} feature"), "method": "update", "args": [{"visible": [one == role for one in roles]}]}
        for role in roles
    ]
    menu = {"buttons": buttons, "x": 0, "xanchor": "left", "y": 1.2, "yanchor": "top"}
    axis = {"type": "category"}
    return figure.update_layout(
        updatemenus=[menu], xaxis=axis | {"title": "scale"}, yaxis=axis | {"title": "hook point"}, height=400
    )


def overshoot_scatter(table: pd.DataFrame) -> go.Figure:
    """Share of stories against how far below its threshold the feature ends, one dot per setting, coloured by method."""
    figure = go.Figure(layout={"template": TEMPLATE})
    keys = ["method", "point", "scale", "lr"]
    for method, rows in table.groupby("method", sort=False):
        means = rows.groupby(keys, dropna=False)[["overshoot", "is_story"]].mean().astype(float).reset_index()
        names = [", ".join(f"{k} {row[k]:g}" for k in keys[1:] if pd.notna(row[k])) for _, row in means.iterrows()]
        figure.add_scatter(
            x=np.arcsinh(means["overshoot"]), y=means["is_story"], mode="markers", name=_label(method),
            customdata=list(zip(means["overshoot"], names)), marker={"size": 8, "opacity": 0.8},
            hovertemplate="%{customdata[1]}<br>overshoot %{customdata[0]:.2f}<br>stories %{y:.0%}<extra></extra>",
        )  # fmt: skip
    ticks = [-10, -3, -1, 0, 1, 3, 10, 30, 100]
    axis = {"title": "overshoot (units of activation)", "tickvals": np.arcsinh(ticks), "ticktext": [str(t) for t in ticks]}
    return figure.update_layout(xaxis=axis, yaxis={"title": "share of stories", "tickformat": ".0%"}, height=420)


def _label(text: str) -> str:
    """A text as Plotly shows it literally: escaped, also against %{...}, which stands for a value in names and templates."""
    return escaped(text).replace("%", "&#37;")


def _wrapped(text: str, width: int = 60, most: int = 240) -> str:
    """A completion for hovering: escaped, in lines."""
    return "<br>".join(escaped(line) for line in textwrap.wrap(text[:most], width))
