"""Tables of the results page, against numbers counted by hand."""

import pandas as pd
import pytest

from crosscoder_utils.analysis import (
    Difference,
    best_by_method,
    method_differences,
    paired_difference,
    sensitivities,
)

SCALES = [1.0, 2.0, 4.0]


def made_up(role="tag") -> pd.DataFrame:
    """Single layer at point 0, best at scale 2; many layers, best at scale 4; a weak control. 3 + 2 prompts."""
    means = {
        ("single layer", 0.0, "feature"): [5.0, 1.0, 2.0],
        ("many layers", None, "feature"): [5.0, 1.2, 1.1],
        ("single layer", 0.0, "random direction"): [9.0, 9.0, 1.5],
        ("many layers", None, "random direction"): [9.0, 9.0, 9.0],
    }
    rows = []
    for (method, point, ablated), values in means.items():
        for scale, mean in zip(SCALES, values):
            for prompt in range(5):
                row = {"role": role, "method": method, "point": point, "ablated": ablated, "strength": scale}
                row |= {"label": f"{method}, scale {scale:g}", "says_phrase": mean >= 4}
                row |= {"cross_entropy": mean + 0.1 * prompt, "is_story": mean < 4, "prompt_index": prompt}
                row |= {"relative_edit_norm": scale / 10, "n_tokens": 5}
                rows.append(row | {"split": "selection" if prompt < 3 else "held out"})
    table = pd.DataFrame(rows).astype({"point": float})
    return table.assign(setting=table.groupby(["method", "ablated", "strength"], sort=False).ngroup())


def test_a_difference_is_written_with_its_interval():
    assert f"{Difference(0.3, -0.1, 0.714, 20)}" == "+0.30 [-0.10, +0.71]"
    assert f"{Difference(0.3, -0.1, 0.714, 20):.1f}" == "+0.3 [-0.1, +0.7]"


def test_differences_of_methods():
    table = made_up()
    [line] = method_differences(table, best_by_method(table)).to_dict("records")
    assert line["difference"] == "single layer minus many layers"
    assert line["selection"] == "-0.100 [-0.100, -0.100]" and line["held out"] == "-0.100 [-0.100, -0.100]"


def test_sensitivities_say_where_the_stretch_begins_and_whether_the_grid_ends_it():
    lines = sensitivities(made_up(), limit=4.0).set_index("method")
    # From 1.0 at scale 2, 0.3 nats are reached after 0.3 of the way to 2.0 and after 0.3 / 4 of the way to 5.0.
    assert lines.loc["single layer, point 0", ["from", "doublings"]].tolist() == [2.0, f"{0.3 + 0.3 / 4:.1f}"]
    assert lines.loc["many layers", ["from", "doublings"]].tolist() == [2.0, f"{1 + 0.2 / 3.8:.1f}+"]
    assert lines["relative edit norm"].tolist() == [0.2, 0.2]
    assert sensitivities(made_up(), limit=1.25)["method"].tolist() == ["single layer, point 0"]


@pytest.mark.parametrize("name", ["selection", "held out"])
def test_intervals_are_those_of_the_paired_bootstrap(name):
    table = made_up()
    table["cross_entropy"] += 0.05 * table["setting"] * (table["prompt_index"] % 2)  # differences that differ
    best = best_by_method(table)
    [line] = method_differences(table, best).to_dict("records")
    assert line[name] == f"{paired_difference(table[table['split'] == name], *best['setting']):.3f}"
