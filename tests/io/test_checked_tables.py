"""Tables: which are taken, and what is said of the others."""

import math

import pandas as pd
import pytest

from crosscoder_utils.io.checked_tables import checked_table

pytestmark = pytest.mark.usefixtures("unchecked")
FRAME = pd.DataFrame({"a": [1, 2], "role": ["tag", 772], "strength": [True, None]})


def test_columns_are_filled_and_cleaned():
    table = checked_table("table", FRAME, ["a", "role"], ["point"], ["strength", "other"])
    assert table["point"].isna().all() and table["role"].tolist() == ["tag", "772"]
    assert table["strength"].tolist()[0] == 1.0 and math.isnan(table["strength"].tolist()[1])
    assert list(FRAME) == ["a", "role", "strength"] and FRAME["role"].tolist() == ["tag", 772]


@pytest.mark.parametrize(
    ("value", "needed", "match"),
    [
        (FRAME, ["c", "d"], "table lacks the columns 'c', 'd'; it has 'a', 'role', 'strength'"),
        (FRAME[:0], ["a"], "table has 0 rows"),
        (pd.DataFrame(), ["a"], "table lacks the columns 'a'; it has none"),
        ("a", [], "table='a' must be a table, such as sweep"),
        (pd.Series([1]), [], "table=.* must be a table"),
        (pd.concat([FRAME, FRAME], axis=1), [], "table has two columns of one name among 'a'"),
        (FRAME.assign(strength="x"), ["strength"], "column 'strength' of table holds 'x'; it must hold numbers"),
        (FRAME.assign(strength=[[1], [2]]), ["strength"], r"column 'strength' of table holds \(1,\)"),
        (FRAME.assign(role=[None, "tag"]), ["role"], "column 'role' of table has 1 rows without a value"),
    ],
)
def test_other_tables(value, needed, match):
    with pytest.raises(ValueError, match=match) as error:
        checked_table("table", value, needed)
    assert "\n" not in str(error.value)
