"""Methods and doses beside their controls."""

import numpy as np
import pandas as pd
import pytest

from crosscoder_utils.analysis import every_method
from crosscoder_utils.display import COLOURS, FAMILIES, dose_curves, method_dots

ROW = {"relative_edit_norm": 0.25, "stories": 0.8, "low": 0.6, "high": 0.9, "random_highest": 0.1}
ROW |= {"dictionary": "tiny", "feature": 3, "label": "many layers, scale 1 <b>%{x}"}


def of_kinds(*kinds: str) -> pd.DataFrame:
    return pd.DataFrame([ROW | {"kind": kind, "stories": number / 20} for number, kind in enumerate(kinds)])


def of_norms(*norms: float) -> pd.DataFrame:
    return of_kinds(*["many layers"] * len(norms)).assign(relative_edit_norm=norms)


def test_a_dot_for_each_dictionary_and_method_and_a_cross_for_its_highest_draw():
    table = of_kinds(*(f"kind {number}" for number in range(9)))
    crosses, *dots = method_dots(table).data
    assert list(crosses.y) == [0.1] * 9 and [list(one.y) for one in dots] == [[number / 20] for number in range(9)]
    assert list(dots[8].error_y.array) == pytest.approx([0.5])
    assert dots[0].customdata[0][2] == "many layers, scale 1 &lt;b&gt;&#37;{x}"
    with pytest.raises(ValueError, match="lacks the columns 'low'"):
        method_dots(table.drop(columns="low"))


def test_a_family_has_one_colour_and_a_kind_a_symbol_of_its_own():
    kinds = list(every_method(2))
    assert sorted(kinds) == sorted(kind for family in FAMILIES.values() for kind in family)
    _, *dots = method_dots(of_kinds(*kinds, *(f"mine {number}" for number in range(12)))).data
    assert len({(one.marker.color, one.marker.symbol) for one in dots}) == len(dots) == len(kinds) + 12
    drawn = {one.name: one.marker for one in dots}
    assert len({drawn[kind].symbol for kind in kinds}) == len(kinds)  # told apart without a colour, too
    for colour, family in zip(COLOURS, FAMILIES.values()):
        assert {drawn[kind].color for kind in family} == {colour}
    assert not {drawn[f"mine {number}"].color for number in range(12)} & set(COLOURS[:3])
    alone = method_dots(of_kinds("patch, decoder")).data[1].marker
    assert (alone.color, alone.symbol) == (drawn["patch, decoder"].color, drawn["patch, decoder"].symbol)
    with pytest.raises(ValueError, match="methods has 13 kinds beside those of every_method; draw at most 12"):
        method_dots(of_kinds(*(f"mine {number}" for number in range(13))))


@pytest.mark.parametrize(
    ("norms", "ticks"),
    [
        ([0.22, 1.5], ["0.2", "0.5", "1", "2"]),
        ([0.32], ["0.2", "0.5"]),
        ([2.0], ["2"]),
        ([9e-5, 1.5], ["0.0001", "0.001", "0.01", "0.1", "1"]),
        ([30, 400], ["20", "50", "100", "200", "500"]),
    ],
)
def test_ticks_follow_the_norms(norms, ticks):
    figure = method_dots(of_norms(*norms))
    axis, dots = figure.layout.xaxis, figure.data[1]
    assert list(axis.ticktext) == ticks and axis.tickvals == tuple(map(float, ticks)) and "left end" not in axis.title.text
    assert list(dots.x) == norms and axis.range[0] < np.log10(min(norms)) and np.log10(max(norms)) < axis.range[1]


def test_a_norm_of_0_is_drawn_and_the_axis_says_where():
    for norms in ([0.0, 0.3, 1.0], [0.0], [0.0, 1e-6, 1.0]):
        figure = method_dots(of_norms(*norms))
        axis, (crosses, dots) = figure.layout.xaxis, figure.data
        assert axis.ticktext[0] == "0" and axis.title.text.endswith("logarithmic but for 0, at the left end")
        assert dots.x[0] == crosses.x[0] == axis.tickvals[0] and axis.range[0] < np.log10(dots.x[0])
        assert all(dots.x[0] < one for one in (*dots.x[1:], *axis.tickvals[1:]))
        # As they are: what a pointer shows and a download holds.
        assert [row[4] for row in dots.customdata] == norms and dots.meta["customdata"][4] == "x"


@pytest.mark.parametrize("column", ["relative_edit_norm", "stories", "random_highest"])
@pytest.mark.parametrize("value", [float("nan"), -0.1, float("inf")])
def test_what_cannot_be_drawn_is_refused(column, value):
    table = of_kinds("many layers", "single layer")
    table.loc[1, column] = value
    with pytest.raises(ValueError, match=f"column '{column}' of methods has 1 rows without a number of 0 or more; drop them"):
        method_dots(table)


def confirmed() -> pd.DataFrame:
    """Rows of `confirm` of two dictionaries at two doses."""
    rows = [
        {"dictionary": name, "dose": dose, "kind": kind, "rate": rate * dose, "low": 0.0, "high": 1.0, "highest": 0.3}
        for name in ("tiny", "100%")
        for dose in (1.0, 0.5)
        for kind, rate in (("feature", 0.8), ("untouched", 0.0), ("random direction", 0.2))
    ]
    return pd.DataFrame(rows).assign(relative_edit_norm=0.3)


def test_curves_of_a_feature_and_of_random_directions_with_their_highest_draw():
    figure = dose_curves(confirmed(), "dose", "scale", "stories")
    names = ["", ", random directions", ", highest draw"]
    assert [one.name for one in figure.data] == [f"{name}{what}" for name in ("tiny", "100&#37;") for what in names]
    own, random, highest = figure.data[3:]
    assert list(own.x) == [0.5, 1.0] and list(own.y) == [0.4, 0.8] and list(own.error_y.arrayminus) == [0.4, 0.8]
    assert list(random.y) == [0.1, 0.2] and list(highest.y) == [0.3, 0.3] and highest.mode == "markers"
    assert own.line.dash == "solid" and random.line.dash == "dot" and random.error_y.array is None
    assert {own.line.color, random.line.color, highest.marker.color} == {COLOURS[1]} != {figure.data[0].line.color}
    assert figure.layout.xaxis.ticktext == ("0.5", "1") and figure.layout.yaxis.title.text == "stories"
    alone = confirmed().query("kind == 'feature'")
    assert [one.name for one in dose_curves(alone, "dose", "x", "y").data] == ["tiny", "100&#37;"]


def test_curves_that_cannot_be_drawn_are_refused():
    with pytest.raises(ValueError, match="column 'dose' of confirmed holds 0; doses on a logarithmic axis must be above 0"):
        dose_curves(confirmed().replace({"dose": {0.5: 0.0}}), "dose", "x", "y")
    with pytest.raises(ValueError, match="confirmed has two rows of one dictionary, kind and 'dose'"):
        dose_curves(pd.concat([confirmed()] * 2), "dose", "x", "y")
    with pytest.raises(ValueError, match="lacks the columns 'times'"):
        dose_curves(confirmed(), "times", "x", "y")
    with pytest.raises(ValueError, match="the part of confirmed to draw has 0 rows"):
        dose_curves(confirmed().query("kind == 'untouched'"), "dose", "x", "y")
