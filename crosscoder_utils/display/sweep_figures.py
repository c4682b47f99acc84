"""Figures of sweeps and of the experiments built on them."""

import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from crosscoder_utils.analysis.metrics import summarize
from crosscoder_utils.analysis.side_effects import pareto_front
from crosscoder_utils.analysis.statistics import RATES
from crosscoder_utils.display.colours import distinct_colours
from crosscoder_utils.display.figures import TEMPLATE, literal, log_axis
from crosscoder_utils.display.html import escaped
from crosscoder_utils.io.checked_tables import checked_table
from crosscoder_utils.io.validation import chosen, finite_number, mapped, one_text

# The part of Viridis that is light enough for black numbers on it.
_CELL_COLOURS = ["#fde725", "#a0da39", "#4ac16d", "#1fa187", "#2b8591"]
_NUMBERS = ["prompt_index", "point", "strength", "cross_entropy", "overshoot", "relative_edit_norm", "failed"]
_NUMBERS += list(RATES.values())
_SYMBOLS = {"feature": "circle", "random direction": "x-thin-open"}  # of what is ablated
_DASHES = {"dot": "#555555", "dash": "#777777", "dashdot": "#949494", "longdash": "#333333"}  # of reference lines


def sweep_curves(
    table: pd.DataFrame, by: str, x_title: str, lines: dict[str, float], x: str = "strength", y: str = "cross_entropy",
    y_title: str = "cross-entropy (nats per token)",
) -> go.Figure:  # fmt: skip
    """Mean cross-entropy against a hyperparameter with a band of one standard error, one curve per value of `by`.

    Hovering over a point shows its setting and the completion of the first prompt.

    Args:
        table: From `sweep`, with the columns `by` and `x`.
        by: Column that defines the curves.
        x_title: Title of the x axis.
        lines: Reference lines by name.
        x: Column of the hyperparameter; its axis is logarithmic.
        y: Column of numbers to draw in place of the cross-entropy.
        y_title: Title of its axis.
    """
    table = _finished(table, [by, x, "prompt_index", "completion", y], ["label"], [x, y])
    table = checked_table(f"the part of the table with a number in {x!r}", table[table[x].notna()])  # "auto" is at no x
    lines, x_title = mapped("lines", lines, finite_number, "names to numbers"), one_text("x_title", x_title)
    y_title = one_text("y_title", y_title)
    figure = go.Figure(layout={"template": TEMPLATE})
    examples = table[table["prompt_index"] == 0].drop_duplicates([by, x]).set_index([by, x])[["label", "completion"]]
    curves = list(summarize(table, [by, x], y).sort_values(x, kind="stable").groupby(by, sort=False))
    for colour, (value, curve) in zip(distinct_colours(len(curves)), curves):
        name = f"{by} {value:g}" if isinstance(value, float) else str(value)
        low, high = curve["mean"] - curve["standard_error"], curve["mean"] + curve["standard_error"]
        _add_band(figure, curve[x], low, high, colour, 0.2, name)
        shown = examples.reindex([(value, one) for one in curve[x]]).fillna("")
        figure.add_scatter(
            x=curve[x], y=curve["mean"], mode="lines+markers", name=literal(name), legendgroup=name, line={"color": colour},
            customdata=list(zip(curve["standard_error"], shown["label"].map(escaped), shown["completion"].map(_wrapped))),
            hovertemplate=f"{literal(name)}: %{{customdata[1]}}<br>%{{y:.2f}} ± %{{customdata[0]:.2f}}"
            "<br>%{customdata[2]}<extra></extra>", meta={"customdata": ["standard_error", "setting", "completion"]},
        )  # fmt: skip
    for (name, value), (dash, grey) in zip(lines.items(), _DASHES.items(), strict=False):
        line = {"color": grey, "dash": dash}
        figure.add_scatter(x=[table[x].min(), table[x].max()], y=[value] * 2, mode="lines", name=literal(name), line=line)
    ticks = np.unique(table[x].dropna())
    axis = {"type": "log", "title": literal(x_title), "tickvals": ticks, "ticktext": [f"{t:g}" for t in ticks]}
    return figure.update_layout(xaxis=axis, yaxis_title=literal(y_title), height=460)


def heat_maps(table: pd.DataFrame) -> go.Figure:
    """Mean cross-entropy of the single-layer settings, hook point against scale; a dropdown menu selects the role.

    Args:
        table: From `sweep`, with the column `role`.
    """
    table = _finished(table, ["role", "method", "setting", "cross_entropy"], ["point", "strength"])
    single = checked_table("the rows of the single layer method", table[table["method"] == "single layer"])
    figure = go.Figure(layout={"template": TEMPLATE})
    low, high = (single.groupby(["role", "setting"])["cross_entropy"].mean().agg(["min", "max"])).tolist()
    roles = list(single["role"].unique())
    for role in roles:
        means = single[single["role"] == role].pivot_table(index="point", columns="strength", values="cross_entropy")
        figure.add_heatmap(
            z=means.to_numpy(), x=[f"{s:g}" for s in means.columns], y=[f"point {point:g}" for point in means.index],
            zmin=low, zmax=high, colorscale=_CELL_COLOURS, visible=role == roles[0], texttemplate="%{z:.1f}",
            textfont={"color": "#000000"}, name=literal(role),
            hovertemplate="%{y}, scale %{x}<br>%{z:.2f} nats<extra></extra>",
            colorbar={"title": "nats per token", "thickness": 14, "outlinewidth": 0},
        )  # fmt: skip
    buttons = [
        {"label": literal(f"{role} feature"), "method": "update", "args": [{"visible": [one == role for one in roles]}]}
        for role in roles
    ]
    menu = {"buttons": buttons, "x": 0, "xanchor": "left", "y": 1.2, "yanchor": "top"}
    axis = {"type": "category"}
    return figure.update_layout(
        updatemenus=[menu],
        xaxis=axis | {"title": "scale (multiples of the decoder term)"},
        yaxis=axis | {"title": "hook point"},
        height=400,
    )


def overshoot_scatter(table: pd.DataFrame, rate: str = "stories") -> go.Figure:
    """Share of stories against overshoot, how far below its threshold the feature ends; one marker per setting.

    Args:
        table: From `ablation_experiment`, of one role. Controls are drawn as crosses in their method's colour.
        rate: "stories" or "fluent_stories"; see `score`.
    """
    value, title = _rate(rate)
    table = _finished(table, ["ablated", "method", "setting", "overshoot", value], ["label"])
    figure = go.Figure(layout={"template": TEMPLATE})
    methods = table["method"].unique()
    colours = dict(zip(methods, distinct_colours(len(methods))))
    for (ablated, method), rows in table.groupby(["ablated", "method"], sort=False):
        means = rows.groupby(["setting", "label"], sort=False)[["overshoot", value]].mean().astype(float).reset_index()
        own = ablated == "feature"
        figure.add_scatter(
            x=np.arcsinh(means["overshoot"]), y=means[value], mode="markers",
            name=literal(method if own else f"{method}, {ablated}"),
            customdata=list(zip(means["overshoot"], means["label"].map(escaped))),
            marker={"size": 8, "opacity": 0.8, "color": colours[method], "symbol": "circle" if own else "x-thin-open"},
            hovertemplate="%{customdata[1]}<br>overshoot %{customdata[0]:.2f}<br>stories %{y:.0%}<extra></extra>",
            meta={"customdata": ["x", "setting"]},  # x as it is, not as it is drawn
        )  # fmt: skip
    ticks = [-10, -3, -1, 0, 1, 3, 10, 30, 100]
    axis = {"title": "overshoot (units of activation)", "tickvals": np.arcsinh(ticks), "ticktext": [str(t) for t in ticks]}
    return figure.update_layout(xaxis=axis, yaxis={"title": title, "tickformat": ".0%"}, height=440)


def side_effect_scatter(table: pd.DataFrame, effects: pd.DataFrame, rate: str = "fluent_stories") -> go.Figure:
    """Effect against side effect: share of stories on deployment prompts, and KL on ordinary texts; one marker per setting.

    The line is the *Pareto front*: what share of stories can be had at most for a side effect, among the settings of the
    feature. Controls are crosses in their method's colour. A KL below a 100,000th of the largest one, including 0, is drawn
    at the lower end of the axis, whose label says so. Settings with a row that failed are left out.

    Args:
        table: From `sweep` or `ablation_experiment`; without a column `ablated`, all is the feature.
        effects: From `side_effects`, of (at least) the table's settings.
        rate: "stories" or "fluent_stories"; see `score`.
    """
    value, title = _rate(rate)
    table = _finished(table, ["settings", value], ["ablated", "method", "label"])
    effects = checked_table("effects", effects, ["settings", "mean_kl"], numbers=["mean_kl"])
    costs = effects.drop_duplicates("settings").set_index("settings")["mean_kl"]
    without = table.loc[~table["settings"].isin(costs.index), "settings"].unique()
    if len(without):
        n_settings = table["settings"].nunique()
        raise ValueError(f"effects lack {len(without)} of the table's {n_settings} settings; give side_effects(setup, table)")
    if unknown := table[value].isna().sum():  # rows of an earlier version
        raise ValueError(f"{unknown} rows of the table have no value in {value!r}; sweep again, and they are computed")
    table = table.fillna({"ablated": "feature", "method": "untouched", "label": "untouched"})
    dots = table.groupby(["ablated", "method", "label", "settings"], sort=False)[value].mean().astype(float).reset_index()
    dots = checked_table(
        "the settings with a KL", dots.assign(kl=costs.reindex(dots["settings"]).to_numpy()).dropna(subset="kl")
    )
    floor, axis = log_axis(float(dots["kl"].max()))
    dots["shown"] = dots["kl"].clip(lower=floor)
    figure, own = go.Figure(layout={"template": TEMPLATE}), dots[dots["ablated"] == "feature"]
    front = own.iloc[pareto_front(own["shown"], own[value])]
    figure.add_scatter(
        x=front["shown"], y=front[value], mode="lines", name="Pareto front", hoverinfo="skip", legendrank=1001,
        line={"color": "#808080", "shape": "hv"},
    )  # fmt: skip
    methods = dots["method"].unique()
    colours = dict(zip(methods, distinct_colours(len(methods))))
    for (ablated, method), rows in dots.groupby(["ablated", "method"], sort=False):
        is_own = ablated == "feature"
        figure.add_scatter(
            x=rows["shown"], y=rows[value], mode="markers", name=literal(method if is_own else f"{method}, {ablated}"),
            customdata=list(zip(rows["kl"], rows["label"].map(escaped))),
            marker={"size": 9, "opacity": 0.8, "color": colours[method], "symbol": _SYMBOLS.get(ablated, "cross-thin-open")},
            hovertemplate="%{customdata[1]}<br>KL %{customdata[0]:.2g} nats per token<br>stories %{y:.0%}<extra></extra>",
            meta={"customdata": ["x", "setting"]},
        )  # fmt: skip
    axis |= {"title": "side effect: KL on ordinary texts (nats per token)"}
    return figure.update_layout(xaxis=axis, yaxis={"title": title, "tickformat": ".0%"}, height=480)


def _rate(rate: str) -> tuple[str, str]:
    """The column of a sweep that a share of stories is the mean of, and the title of its axis."""
    return RATES[chosen("rate", rate, RATES)], f"share of {rate.replace('_', ' ')}"


def _finished(table: pd.DataFrame, needed: Sequence[str], filled: Sequence[str] = (), more: Sequence[str] = ()) -> pd.DataFrame:
    """The table, checked, without the settings that have a row that failed.

    Raises:
        ValueError: If columns are missing, do not hold numbers, or no row is left.
    """
    keys = [name for name in ("setting", "role", "ablated", "draw") if name in getattr(table, "columns", ())]
    table = checked_table("table", table, needed, [*filled, *keys], [*_NUMBERS, *more])
    if "failed" in table.columns:
        failed = table["failed"].fillna(0) != 0
        table = (
            table[~failed.groupby([table[name] for name in keys], dropna=False).transform("any")] if keys else table[~failed]
        )
    return checked_table("the table without failed settings", table)


def _add_band(
    figure: go.Figure, x: pd.Series, low: pd.Series, high: pd.Series, colour: str, opacity: float, group: str
) -> None:
    """Fill the area between two curves; the legend shows and hides it together with its group."""
    figure.add_scatter(
        x=[*x, *x[::-1]], y=[*high, *low[::-1]], mode="lines", line={"width": 0}, fill="toself", fillcolor=colour,
        opacity=opacity, hoverinfo="skip", showlegend=False, legendgroup=group,
    )  # fmt: skip


def _wrapped(text: str, width: int = 60, most: int = 240) -> str:
    """The beginning of a completion, escaped and broken into lines for hovering."""
    return "<br>".join(escaped(line) for line in textwrap.wrap(str(text)[:most], width))
