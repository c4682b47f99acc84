"""Figures of what several dictionaries show: methods beside their controls."""

import pandas as pd
import plotly.graph_objects as go

from crosscoder_utils.display.colours import distinct_colours
from crosscoder_utils.display.figures import TEMPLATE, literal
from crosscoder_utils.io.checked_tables import checked_table

_NUMBERS = ["relative_edit_norm", "stories", "low", "high", "random_highest"]
_CONTROL = "#666666"


def method_dots(methods: pd.DataFrame) -> go.Figure:
    """The share of stories that each method gives, against the size of its edit, beside the highest of its random draws.

    Args:
        methods: Rows of `compare_methods`, of one role, with a column `dictionary`; one dot for each. `kind` gives the colour.
    """
    methods = checked_table("methods", methods, ["dictionary", "feature", "kind", "label", *_NUMBERS], numbers=_NUMBERS)
    figure = go.Figure(layout={"template": TEMPLATE, "height": 460})
    hover = (
        "%{customdata[0]}, feature %{customdata[1]}<br>%{customdata[2]}<br>stories %{y:.0%}, relative edit norm %{x:.2f}"
        "<br>highest random draw %{customdata[3]:.0%}<extra></extra>"
    )
    said = ["dictionary", "feature", "label", "random_highest"]
    methods = methods.assign(**{name: methods[name].map(literal) for name in said[:3]})
    figure.add_scatter(
        x=methods["relative_edit_norm"], y=methods["random_highest"], mode="markers", name="random directions, highest draw",
        marker={"symbol": "x-thin-open", "size": 8, "color": _CONTROL}, customdata=methods[said], hovertemplate=hover,
        meta={"customdata": said},
    )  # fmt: skip
    kinds = list(methods.groupby("kind", sort=False))
    for colour, (kind, own) in zip(distinct_colours(len(kinds)), kinds, strict=True):
        errors = {"array": own["high"] - own["stories"], "arrayminus": own["stories"] - own["low"], "thickness": 0.6}
        figure.add_scatter(
            x=own["relative_edit_norm"], y=own["stories"], mode="markers", name=literal(kind), error_y=errors,
            marker={"size": 10, "color": colour, "line": {"color": "white", "width": 1}}, customdata=own[said],
            hovertemplate=hover, meta={"customdata": said},
        )  # fmt: skip
    axis = {"title": "relative edit norm (edit / residual stream)", "type": "log", "tickvals": [0.1, 0.2, 0.5, 1, 2, 5]}
    rate = {"title": "share of fluent stories, held out", "tickformat": ".0%", "range": [-0.03, 1.03]}
    return figure.update_layout(xaxis=axis, yaxis=rate)
