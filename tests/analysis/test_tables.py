"""Tables of the results page, against numbers counted by hand."""

import pandas as pd
import pytest

from crosscoder_utils.analysis import (
    Difference,
    best_by_method,
    method_differences,
    off_against_stories,
    paired_difference,
    sensitivities,
    sweep_in_words,
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


def overshooting() -> pd.DataFrame:
    """The same, with an overshoot that grows with the scale; random directions leave the feature on at the smallest."""
    table = made_up()
    return table.assign(overshoot=table["strength"] - 1.5)


def test_settings_are_counted_by_where_the_feature_ends():
    """Own settings: scales 2 and 4 turn it off, all with stories. Random ones: scale 1 leaves it on, none with stories."""
    [line] = off_against_stories(overshooting()).to_dict("records")
    assert line == {"role": "tag", "off": 4, "off, few stories": 0, "random, on": 2, "random, on, stories": 0}
    table = overshooting()
    table["is_story"] = table["ablated"] == "random direction"
    [line] = off_against_stories(table).to_dict("records")
    assert line == {"role": "tag", "off": 4, "off, few stories": 4, "random, on": 2, "random, on, stories": 2}


def test_what_is_said_is_what_is_there():
    table = overshooting()
    table.loc[
        (table["ablated"] == "random direction") & (table["strength"] == 4.0) & (table["prompt_index"] > 0), "is_story"
    ] = False
    steps = pd.DataFrame({"role": "tag", "steps": [1, 1, 60, 60], "is_story": [True, False, True, True]})
    [said] = sweep_in_words(table, best_by_method(table), steps)
    assert said.startswith(
        "**tag.** On held-out prompts the best settings give stories on 100% (single layer), 100% (many layers)."
    )
    assert "At any setting, random directions on up to 33%." in said and "matched" not in said
    assert "off on average in 4 settings, of which 0 give" in said
    assert "With 1 to 60 gradient steps, stories come on 50% to 100%" in said


def test_sensitivities_say_where_the_stretch_begins_and_whether_the_grid_ends_it():
    lines = sensitivities(made_up(), limit=4.0).set_index("method")
    # From 1.0 at scale 2, 0.3 nats are reached after 0.3 of the way to 2.0 and after 0.3 / 4 of the way to 5.0.
    assert lines.loc["single layer, point 0", ["from", "doublings"]].tolist() == [2.0, f"{0.3 + 0.3 / 4:.1f}"]
    assert lines.loc["many layers", ["from", "doublings"]].tolist() == [2.0, f"{1 + 0.2 / 3.8:.1f}+"]
    assert lines["relative edit norm"].tolist() == pytest.approx([0.2, 0.2])
    confirmed = made_up()
    confirmed.loc[confirmed["split"] == "held out", "cross_entropy"] = 100.0
    pd.testing.assert_frame_equal(sensitivities(confirmed, limit=4.0).set_index("method"), lines)
    assert sensitivities(made_up(), limit=1.15)["method"].tolist() == ["single layer, point 0"]


@pytest.mark.parametrize("name", ["selection", "held out"])
def test_intervals_are_those_of_the_paired_bootstrap(name):
    table = made_up()
    table["cross_entropy"] += 0.05 * table["setting"] * (table["prompt_index"] % 2)  # differences that differ
    best = best_by_method(table)
    [line] = method_differences(table, best).to_dict("records")
    assert line[name] == f"{paired_difference(table[table['split'] == name], *best['setting']):.3f}"
