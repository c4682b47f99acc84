"""Figures of what several dictionaries show: methods and doses beside their controls."""

import math
from collections.abc import Sequence
from itertools import product

import pandas as pd
import plotly.graph_objects as go

from crosscoder_utils.display.colours import COLOURS, distinct_colours
from crosscoder_utils.display.figures import TEMPLATE, literal
from crosscoder_utils.io.checked_tables import checked_table
from crosscoder_utils.io.validation import one_text

FAMILIES = {
    "along the decoder": {
        "many layers": "circle",
        "many layers, auto": "circle-open",
        "single layer": "square",
        "single layer, auto": "square-open",
        "patch, decoder": "diamond",
    },
    "by gradient": {
        "perturbation": "triangle-up",
        "perturbation, penalised": "triangle-up-open",
        "steepest descent": "triangle-down",
        "steepest descent, auto": "triangle-down-open",
    },
    "by covariance": {"natural perturbation": "star", "patch, pattern": "pentagon"},
}
"""What methods move the residual stream along -> their kinds, as in `every_method`, and the symbol of each.

Figures give a family one colour, the palette's first, second and third, and every kind a symbol of its own."""
_MARKERS = {kind: (colour, symbol) for colour, family in zip(COLOURS, FAMILIES.values()) for kind, symbol in family.items()}
# Of kinds of one's own. The palette's others are too light for dots on white.
_OTHERS = list(product((COLOURS[3], COLOURS[6]), ("cross", "hexagon", "bowtie", "hourglass", "star-diamond", "octagon")))
_CONTROL = "#666666"
_SHARES = ["stories", "low", "high", "random_highest"]
_MOST_TICKS = 8


def method_dots(methods: pd.DataFrame) -> go.Figure:
    """The share of stories that each method gives, against the size of its edit, beside the highest of its random draws.

    Colours are those of `FAMILIES`; every kind has a symbol of its own. The axis of the edit's size is logarithmic: edits of
    norm 0 are drawn at its left end, and its title says so.

    Args:
        methods: Rows of `compare_methods`, of one role, with a column `dictionary`; one dot for each.

    Raises:
        ValueError: If a column is missing, a number cannot be drawn, or there are too many kinds that no family has.
    """
    methods = _drawable("methods", methods, ["dictionary", "feature", "kind", "label"], ["relative_edit_norm", *_SHARES])
    said = ["dictionary", "feature", "label"]
    methods = methods.assign(**{name: methods[name].map(literal) for name in said})
    methods["at"], axis = _norm_axis(methods["relative_edit_norm"])
    dots = {
        "hovertemplate": "%{customdata[0]}, feature %{customdata[1]}<br>%{customdata[2]}<br>"
        "stories %{y:.0%}, relative edit norm %{customdata[4]:.3g}<br>highest random draw %{customdata[3]:.0%}<extra></extra>",
        "meta": {"customdata": [*said, "random_highest", "x"]},  # x as it is, not as it is drawn
    }
    said += ["random_highest", "relative_edit_norm"]
    figure = go.Figure(layout={"template": TEMPLATE, "height": 460})
    figure.add_scatter(
        x=methods["at"], y=methods["random_highest"], mode="markers", name="random directions, highest draw",
        marker={"symbol": "x-thin-open", "size": 8, "color": _CONTROL}, customdata=methods[said], **dots,
    )  # fmt: skip
    for kind, (colour, symbol) in _markers(list(methods["kind"].unique())).items():
        own = methods[methods["kind"] == kind]
        errors = {"array": own["high"] - own["stories"], "arrayminus": own["stories"] - own["low"], "thickness": 0.6}
        size = 13 if symbol.startswith(("triangle", "star")) else 10  # those have less ink at one size
        line = {"width": 2} if symbol.endswith("-open") else {"color": "white", "width": 1}
        figure.add_scatter(
            x=own["at"], y=own["stories"], mode="markers", name=literal(kind), error_y=errors,
            marker={"size": size, "color": colour, "symbol": symbol, "line": line}, customdata=own[said], **dots,
        )  # fmt: skip
    rate = {"title": "share of fluent stories, held out", "tickformat": ".0%", "range": [-0.03, 1.03]}
    return figure.update_layout(xaxis=axis, yaxis=rate)


def dose_curves(confirmed: pd.DataFrame, x: str, x_title: str, y_title: str) -> go.Figure:
    """The share of prompts on which features reach their goal, by dose, beside random directions.

    Solid lines are the features', with 95 % intervals, dotted ones the means over random directions; crosses are the highest
    of their draws.

    Args:
        confirmed: Rows of `confirm`, of one goal, with columns `dictionary` and `x`. Other kinds of rows are left out.
        x: Column of the dose, above 0; its axis is logarithmic.
        x_title: Title of its axis, with the unit.
        y_title: Title of the axis of shares.

    Raises:
        ValueError: If a column is missing, a number cannot be drawn, or a curve has two rows of one dose.
    """
    x, x_title, y_title = (one_text(*one) for one in (("x", x), ("x_title", x_title), ("y_title", y_title)))
    shares = ["rate", "low", "high", "highest"]
    rows = _drawable("confirmed", confirmed, ["dictionary", "kind"], [x, *shares, "relative_edit_norm"])
    rows = rows[rows["kind"].isin(["feature", "random direction"])].sort_values(x, kind="stable")
    rows = checked_table("the part of confirmed to draw", rows)
    if (rows[x] <= 0).any():
        raise ValueError(f"column {x!r} of confirmed holds {rows[x].min():g}; doses on a logarithmic axis must be above 0")
    if rows.duplicated(["dictionary", "kind", x]).any():
        raise ValueError(f"confirmed has two rows of one dictionary, kind and {x!r}; give those of one goal and set of prompts")
    figure = go.Figure(layout={"template": TEMPLATE, "height": 380})
    colours = dict(zip(rows["dictionary"].unique(), distinct_colours(rows["dictionary"].nunique())))
    for (name, kind), own in rows.groupby(["dictionary", "kind"], sort=False):
        is_own = kind == "feature"
        shown = literal(name if is_own else f"{name}, random directions")
        errors = {"array": own["high"] - own["rate"], "arrayminus": own["rate"] - own["low"], "thickness": 1}
        figure.add_scatter(
            x=own[x], y=own["rate"], name=shown, mode="lines+markers" if is_own else "lines",
            line={"color": colours[name], "dash": "solid" if is_own else "dot"}, error_y=errors if is_own else None,
            customdata=own[["relative_edit_norm"]], meta={"customdata": ["relative_edit_norm"]},
            hovertemplate=f"{shown}<br>at %{{x:g}}: %{{y:.1%}}, relative edit norm %{{customdata[0]:.2f}}<extra></extra>",
        )  # fmt: skip
        if not is_own:
            figure.add_scatter(
                x=own[x], y=own["highest"], name=literal(f"{name}, highest draw"), mode="markers",
                marker={"symbol": "x-thin-open", "size": 9, "color": colours[name], "line": {"width": 1.5}},
                hovertemplate="highest random draw at %{x:g}: %{y:.1%}<extra></extra>",
            )  # fmt: skip
    ticks = rows[x].unique()
    axis = {"title": literal(x_title), "type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}
    return figure.update_layout(xaxis=axis, yaxis={"title": literal(y_title), "tickformat": ".0%", "range": [-0.03, 1.03]})


def _drawable(name: str, table: pd.DataFrame, texts: Sequence[str], numbers: Sequence[str]) -> pd.DataFrame:
    """The table, checked; a row that lacks a number would be missing from the figure without a word."""
    table = checked_table(name, table, [*texts, *numbers], numbers=numbers)
    for column in numbers:
        wrong = ~table[column].between(0, math.inf, inclusive="left")
        if wrong.any():
            raise ValueError(f"column {column!r} of {name} has {wrong.sum()} rows without a number of 0 or more; drop them")
    return table


def _markers(kinds: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and symbol of each kind: those of families first, in their order."""
    others = [kind for kind in kinds if kind not in _MARKERS]
    if len(others) > len(_OTHERS):
        raise ValueError(f"methods has {len(others)} kinds beside those of every_method; draw at most {len(_OTHERS)} of them")
    known = {kind: marker for kind, marker in _MARKERS.items() if kind in kinds}
    return known | dict(zip(others, _OTHERS))


def _norm_axis(norms: pd.Series) -> tuple[pd.Series, dict]:
    """Where to draw norms on a logarithmic axis, and the axis, with ticks at 1, 2 and 5 (or 1) of every power of ten."""
    positive = norms[norms > 0]
    low, high = (positive.min(), positive.max()) if len(positive) else (1.0, 1.0)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = [float(f"{step}e{power}") for power in powers for step in (1, 2, 5)]
    first, last = max(one for one in steps if one <= low), min(one for one in steps if one >= high)
    ticks = [one for one in steps if first <= one <= last]
    if len(ticks) > _MOST_TICKS:
        ticks = [one for one in (float(f"1e{power}") for power in powers) if first <= one <= last]
    names, title, left = [f"{tick:g}" for tick in ticks], "relative edit norm (edit / residual stream)", math.log10(first)
    if len(positive) < len(norms):
        left -= max(0.25, 0.08 * math.log10(last / first))
        ticks, names = [10**left, *ticks], ["0", *names]
        title += ", logarithmic but for 0, at the left end"
    ends = [left - 0.06, math.log10(last) + 0.06]
    axis = {"title": title, "type": "log", "tickvals": ticks, "ticktext": names, "range": ends}
    return norms.where(norms > 0, 10**left), axis
