"""Figures of sweeps and of the experiments made of them."""

import textwrap

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from crosscoder_utils.analysis.metrics import summarize
from crosscoder_utils.display.figures import COLOURS, TEMPLATE, literal
from crosscoder_utils.display.html import escaped

# For cells with a number in black on them: the part of Viridis that is light enough for it.
_CELL_COLOURS = ["#fde725", "#a0da39", "#4ac16d", "#1fa187", "#2b8591"]
_DASHES = ["dot", "dash", "dashdot", "longdash"]  # of reference lines


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
        _add_band(figure, curve[x], low, high, colour, 0.2, label)
        texts = [_wrapped(examples.get((name, value), "")) for value in curve[x]]
        figure.add_scatter(
            x=curve[x], y=curve["mean"], mode="lines+markers", name=literal(label), legendgroup=label, line={"color": colour},
            customdata=list(zip(curve["standard_error"], texts)),
            hovertemplate=f"{literal(f'{label}, {x}')} %{{x:g}}<br>%{{y:.2f}} ± %{{customdata[0]:.2f}}"
            "<br>%{customdata[1]}<extra></extra>",
        )  # fmt: skip
    for (name, value), dash in zip(lines.items(), _DASHES, strict=False):
        ends = [table[x].min(), table[x].max()]
        figure.add_scatter(x=ends, y=[value] * 2, mode="lines", name=literal(name), line={"color": "#808080", "dash": dash})
    ticks = np.unique(table[x].dropna())
    axis = {"type": "log", "title": literal(x_title), "tickvals": ticks, "ticktext": [f"{t:g}" for t in ticks]}
    return figure.update_layout(xaxis=axis, yaxis_title="cross-entropy (nats per token)", height=460)


def comparison_dots(draws: pd.DataFrame, references: dict[str, float]) -> go.Figure:
    """Cross-entropy of every method's best setting, with its standard error, among its controls, a dot for each draw.

    Args:
        draws: From `control_draws`.
        references: Reference lines by name.
    """
    figure = go.Figure(layout={"template": TEMPLATE})
    lines = summarize(draws, ["role", "method", "target", "draw"])
    lines["place"] = (lines["role"] + ": " + lines["method"]).map(literal)
    stories = draws.groupby(["role", "method", "target", "draw"])["is_story"].mean()
    lines["stories"] = stories.loc[list(lines[["role", "method", "target", "draw"]].itertuples(index=False))].to_numpy()
    for (name, value), dash in zip(references.items(), _DASHES, strict=False):
        line = {"color": "#808080", "dash": dash}
        ends = lines["place"].iloc[[0, -1]]
        # Behind the dots.
        figure.add_scatter(x=[value] * 2, y=ends, mode="lines", name=literal(name), line=line, legendrank=1001)
    for colour, (target, rows) in zip(COLOURS, lines.groupby("target", sort=False)):
        own = target == "feature"
        figure.add_scatter(
            x=rows["mean"], y=rows["place"], mode="markers", name=literal(target),
            customdata=rows[["standard_error", "stories"]],
            marker={"size": 11 if own else 8, "color": colour, "opacity": 1 if own else 0.5},
            error_x={"array": rows["standard_error"], "visible": own},
            hovertemplate=f"%{{y}}, {literal(target)}<br>%{{x:.2f}} ± %{{customdata[0]:.2f}} nats; "
            "stories %{customdata[1]:.0%}<extra></extra>",
        )  # fmt: skip
    axis = {"title": "cross-entropy (nats per token)", "rangemode": "tozero"}
    order = {"categoryorder": "array", "categoryarray": lines["place"].unique(), "autorange": "reversed"}
    return figure.update_layout(xaxis=axis, yaxis=order, height=420)


def heat_maps(table: pd.DataFrame) -> go.Figure:
    """Mean cross-entropy of single layer settings, hook point against scale; a dropdown chooses the role.

    Args:
        table: From `sweep`, with the columns `role`, `point` and `scale`.
    """
    figure = go.Figure(layout={"template": TEMPLATE})
    single = table[table["method"] == "single layer"]
    low, high = (single.groupby(["role", "setting"])["cross_entropy"].mean().agg(["min", "max"])).tolist()
    roles = list(single["role"].unique())
    for role in roles:
        means = single[single["role"] == role].pivot_table(index="point", columns="scale", values="cross_entropy")
        figure.add_heatmap(
            z=means.to_numpy(), x=[f"{s:g}" for s in means.columns], y=[f"point {point:g}" for point in means.index],
            zmin=low, zmax=high, colorscale=_CELL_COLOURS, visible=role == roles[0], texttemplate="%{z:.1f}",
            textfont={"color": "#000000"}, name=literal(role),
            hovertemplate="%{y}, scale %{x}<br>%{z:.2f} nats<extra></extra>",
            colorbar={"title": "nats", "thickness": 14, "outlinewidth": 0},
        )  # fmt: skip
    buttons = [
        {"label": literal(f"{role} feature"), "method": "update", "args": [{"visible": [one == role for one in roles]}]}
        for role in roles
    ]
    menu = {"buttons": buttons, "x": 0, "xanchor": "left", "y": 1.2, "yanchor": "top"}
    axis = {"type": "category"}
    return figure.update_layout(
        updatemenus=[menu], xaxis=axis | {"title": "scale"}, yaxis=axis | {"title": "hook point"}, height=400
    )


def overshoot_scatter(table: pd.DataFrame) -> go.Figure:
    """Share of stories against how far below its threshold the feature ends, one dot per setting, coloured by method.

    Args:
        table: From `ablation_experiment`, one role; other targets than the feature itself are drawn as crosses.
    """
    figure = go.Figure(layout={"template": TEMPLATE})
    keys = ["point", "scale", "lr"]
    colours = dict(zip(table["method"].unique(), COLOURS))
    for (target, method), rows in table.groupby(["target", "method"], sort=False):
        means = rows.groupby(["setting", *keys], dropna=False)[["overshoot", "is_story"]].mean().astype(float).reset_index()
        names = [", ".join(f"{k} {row[k]:g}" for k in keys if pd.notna(row[k])) for _, row in means.iterrows()]
        own = target == "feature"
        figure.add_scatter(
            x=np.arcsinh(means["overshoot"]), y=means["is_story"], mode="markers",
            name=literal(method if own else f"{method}, {target}"), customdata=list(zip(means["overshoot"], names)),
            marker={"size": 8, "opacity": 0.8, "color": colours[method], "symbol": "circle" if own else "x-thin-open"},
            hovertemplate="%{customdata[1]}<br>overshoot %{customdata[0]:.2f}<br>stories %{y:.0%}<extra></extra>",
        )  # fmt: skip
    ticks = [-10, -3, -1, 0, 1, 3, 10, 30, 100]
    axis = {"title": "overshoot (units of activation)", "tickvals": np.arcsinh(ticks), "ticktext": [str(t) for t in ticks]}
    return figure.update_layout(xaxis=axis, yaxis={"title": "share of stories", "tickformat": ".0%"}, height=440)


def size_curves(draws: pd.DataFrame) -> go.Figure:
    """Share of stories against the size of the edit, a curve per method, and a band of the random directions' draws.

    Args:
        draws: From `control_draws`, of whole curves of one role; like features are left out.
    """
    figure = go.Figure(layout={"template": TEMPLATE})
    for colour, (method, own) in zip(COLOURS, draws.groupby("method", sort=False)):
        shares = own.groupby(["target", "setting", "draw"], sort=False).agg(
            size=("relative_edit_norm", "mean"), stories=("is_story", "mean")
        )
        feature = shares.loc["feature"].sort_values("size")
        random = shares.loc["random direction"].groupby("setting").agg(
            size=("size", "mean"), mean=("stories", "mean"), low=("stories", "min"), high=("stories", "max")
        ).sort_values("size")  # fmt: skip
        _add_band(figure, random["size"], random["low"], random["high"], colour, 0.15, method)
        for name, x, y, dash in (
            (method, feature["size"], feature["stories"], "solid"),
            (f"{method}, random directions", random["size"], random["mean"], "dot"),
        ):
            figure.add_scatter(
                x=x, y=y, mode="lines+markers", name=literal(name), legendgroup=method, line={"color": colour, "dash": dash},
                hovertemplate=f"{literal(name)}<br>edit %{{x:.2g}} times the stream<br>stories %{{y:.0%}}<extra></extra>",
            )  # fmt: skip
    axis = {"type": "log", "title": "largest edit, as a share of the stream's norm", "dtick": 1}
    return figure.update_layout(xaxis=axis, yaxis={"title": "share of stories", "tickformat": ".0%"}, height=480)


def _add_band(
    figure: go.Figure, x: pd.Series, low: pd.Series, high: pd.Series, colour: str, opacity: float, group: str
) -> None:
    """Fill what lies between two curves; it comes and goes with its group in the legend."""
    figure.add_scatter(
        x=[*x, *x[::-1]], y=[*high, *low[::-1]], mode="lines", line={"width": 0}, fill="toself", fillcolor=colour,
        opacity=opacity, hoverinfo="skip", showlegend=False, legendgroup=group,
    )  # fmt: skip


def _wrapped(text: str, width: int = 60, most: int = 240) -> str:
    """A completion for hovering: escaped, in lines."""
    return "<br>".join(escaped(line) for line in textwrap.wrap(text[:most], width))
