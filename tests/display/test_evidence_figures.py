"""Dots of methods beside their controls."""

import pandas as pd
import pytest

from crosscoder_utils.display import method_dots

ROW = {"relative_edit_norm": 0.25, "stories": 0.8, "low": 0.6, "high": 0.9, "random_highest": 0.1}
ROW |= {"dictionary": "tiny", "feature": 3, "label": "many layers, scale 1 <b>%{x}"}


def test_a_dot_for_each_dictionary_and_method_and_a_cross_for_its_highest_draw():
    table = pd.DataFrame([ROW | {"kind": f"kind {number}", "stories": number / 10} for number in range(9)])
    crosses, *dots = method_dots(table).data
    assert list(crosses.y) == [0.1] * 9 and [list(one.y) for one in dots] == [[number / 10] for number in range(9)]
    assert len({one.marker.color for one in dots}) == 9 and list(dots[8].error_y.array) == pytest.approx([0.1])
    assert dots[0].customdata[0][2] == "many layers, scale 1 &lt;b&gt;&#37;{x}"
    with pytest.raises(ValueError, match="lacks the columns 'low'"):
        method_dots(table.drop(columns="low"))
