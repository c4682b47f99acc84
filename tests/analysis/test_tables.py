"""Tables of the results page, against numbers counted by hand."""

import itertools

import pandas as pd
import pytest

from crosscoder_utils.analysis import (
    Difference,
    best_by_method,
    best_in_words,
    control_margins,
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


def test_best_settings_in_words():
    shown = best_in_words(best_by_method(made_up())).set_index("best setting")
    assert list(shown.index) == ["single layer, scale 2", "many layers, scale 4"]
    assert shown.loc["single layer, scale 2", "selection"] == "1.10\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}0.06"  # 1.0, 1.1, 1.2
    assert shown.loc["single layer, scale 2", "held out"] == "1.35\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}0.05"  # 1.3, 1.4
    assert shown.loc["many layers, scale 4", "stories"] == "100%"


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


def test_margins_are_those_to_the_mean_draw():
    rows = []
    for ablated, draws in {"feature": [1.0], "random direction": [2.0, 6.0]}.items():
        for (draw, mean), prompt in itertools.product(enumerate(draws), range(4)):
            row = {"role": "tag", "method": "many layers", "ablated": ablated, "draw": draw, "prompt_index": prompt}
            rows.append(row | {"cross_entropy": mean + prompt, "is_story": mean + prompt < 4, "relative_edit_norm": mean})
    [line] = control_margins(pd.DataFrame(rows)).to_dict("records")
    assert line["stories"] == "75%" and line["relative edit norm"] == 4.0
    assert line["control's stories"] == "25% (0% to 50%)"
    assert line["margin (nats)"].startswith("-3.00 [-5.00, -1.00")  # one draw or the other in all of a resample
    assert line["margin (stories)"].startswith("+50 [")
    assert not any("fluent" in name for name in line)
    known = pd.DataFrame(rows).assign(is_fluent_story=lambda table: table["cross_entropy"] < 3)
    [with_fluent] = control_margins(known).to_dict("records")
    fluent = {name: with_fluent.pop(name) for name in list(with_fluent) if "fluent" in name}
    assert with_fluent == line and fluent["fluent stories"] == "50%"
    assert fluent["control's fluent stories"] == "12% (0% to 25%)" and fluent["margin (fluent stories)"].startswith("+38 [")


@pytest.mark.parametrize("name", ["selection", "held out"])
def test_intervals_are_those_of_the_paired_bootstrap(name):
    table = made_up()
    table["cross_entropy"] += 0.05 * table["setting"] * (table["prompt_index"] % 2)  # differences that differ
    best = best_by_method(table)
    [line] = method_differences(table, best).to_dict("records")
    assert line[name] == f"{paired_difference(table[table['split'] == name], *best['setting']):.3f}"
