"""Figures of sweeps against numbers counted by hand."""

import itertools

import pandas as pd
import pytest

from crosscoder_utils.display import (
    heat_maps,
    overshoot_scatter,
    side_effect_scatter,
    sweep_curves,
)

EVIL = "<script>alert(1)</script> $x^2$"


def swept() -> pd.DataFrame:
    rows = []
    for role, point, scale, prompt in itertools.product(("tag", "colon"), (0, 1), (1.0, 2.0), (0, 1)):
        setting = 4 * (role == "colon") + 2 * point + (scale > 1)
        rows.append({"role": role, "point": float(point), "strength": scale, "prompt_index": prompt, "setting": setting})
        rows[-1] |= {"cross_entropy": 10 * point + scale + prompt, "overshoot": scale, "is_story": scale > 1}
    return pd.DataFrame(rows).assign(method="single layer", label=EVIL, completion=EVIL)


def test_sweep_curves_have_errors_reference_lines_and_escaped_examples():
    figure = sweep_curves(swept(), "point", "scale", {"untouched": 10.0})
    curves = [trace for trace in figure.data if trace.mode == "lines+markers"]
    assert [list(t.y) for t in curves] == [[1.5, 2.5], [11.5, 12.5]]
    error = pd.Series([0, 1, 0, 1]).sem()
    band = figure.data[0]
    assert band.fill == "toself" and list(band.y) == pytest.approx([1.5 + error, 2.5 + error, 2.5 - error, 1.5 - error])
    assert list(figure.data[-1].y) == [10.0, 10.0]
    for shown in curves[0].customdata[0][1:]:  # the setting and its completion
        assert "<script>" not in shown and "&lt;script&gt;" in shown
    by_steps = swept().rename(columns={"strength": "steps"})
    assert list(sweep_curves(by_steps, "role", "steps", {}, x="steps").data[1].x) == [1.0, 2.0]
    rates = sweep_curves(swept(), "role", "scale", {}, y="is_story", y_title=EVIL)
    assert list(rates.data[1].y) == [0.0, 1.0] and "<script>" not in rates.layout.yaxis.title.text


def test_sweep_curves_leave_out_methods_without_a_strength():
    table = pd.concat([swept(), swept().assign(strength=float("nan"), method="patch")])
    figure = sweep_curves(table, "method", "scale", {})
    assert [trace.name for trace in figure.data if trace.mode == "lines+markers"] == ["single layer"]
    assert not any(pd.isna(x) for trace in figure.data for x in trace.x)
    with pytest.raises(ValueError, match="with a number in 'strength' has 0 rows"):
        sweep_curves(table[table["method"] == "patch"], "method", "scale", {})


def test_heat_maps_have_a_dropdown_of_roles():
    figure = heat_maps(swept())
    assert [trace.visible for trace in figure.data] == [True, False]
    assert figure.data[1].z.tolist() == [[1.5, 2.5], [11.5, 12.5]]
    assert figure.layout.updatemenus[0].buttons[1].args[0] == {"visible": [False, True]}


def test_overshoot_scatter_has_a_dot_per_setting_and_crosses_for_controls():
    own, control = overshoot_scatter(pd.concat([swept().assign(ablated=t) for t in ("feature", "random direction")])).data
    assert len(own.x) == len(control.x) == 8 and set(own.y) == {0.0, 1.0}
    assert own.marker.symbol == "circle" != control.marker.symbol and own.marker.color == control.marker.color


def test_shares_of_fluent_stories_are_drawn_if_asked_for():
    table = swept().assign(ablated="feature", is_fluent_story=swept()["point"] > 0)
    figure = overshoot_scatter(table, "fluent_stories")
    assert list(figure.data[0].y) == [0.0, 0.0, 1.0, 1.0] * 2 and figure.layout.yaxis.title.text == "share of fluent stories"
    with pytest.raises(ValueError, match="rate='is_story' is unknown; use 'stories', 'fluent_stories'"):
        overshoot_scatter(table, "is_story")
    with pytest.raises(ValueError, match="lacks the columns 'is_fluent_story'"):
        overshoot_scatter(table.drop(columns="is_fluent_story"), "fluent_stories")


def test_no_colour_stands_for_two_curves_however_many_there_are():
    table = pd.concat([swept().assign(where=f"place {number}") for number in range(12)])
    curves = [trace for trace in sweep_curves(table, "where", "scale", {}).data if trace.mode == "lines+markers"]
    assert len({curve.line.color for curve in curves}) == len(curves) == 12
    methods = pd.concat([swept().assign(method=f"method {number}", ablated="feature") for number in range(9)])
    assert len({dots.marker.color for dots in overshoot_scatter(methods).data}) == 9
    lines = sweep_curves(swept(), "role", "scale", {"a": 1.0, "b": 2.0, "c": 3.0}).data[-3:]
    assert len({line.line.color for line in lines}) == 3


def effective() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Settings with their shares of fluent stories on two prompts, and their side effects."""
    made = [
        ("feature", "single layer", 0.0, [0, 0]),
        ("feature", "single layer", 1e-9, [0, 1]),
        ("feature", "many layers", 0.01, [0, 1]),
        ("feature", "many layers", 0.1, [1, 1]),
        ("feature", "patch", float("nan"), [1, 1]),  # failed on the ordinary texts
        ("random direction", "many layers", 0.002, [1, 1]),
        ("frequency-matched feature", "many layers", 0.03, [0, 0]),
    ]
    rows, effects = [], []
    for number, (ablated, method, kl, fluent) in enumerate(made):
        name = {"settings": f"{EVIL} {number}", "label": f"{EVIL} {number}", "ablated": ablated, "method": method}
        rows += [name | {"setting": number, "prompt_index": i, "is_fluent_story": bool(one)} for i, one in enumerate(fluent)]
        effects.append({"settings": name["settings"], "mean_kl": kl})
    return pd.DataFrame(rows), pd.DataFrame(effects[::-1])


def test_side_effect_scatter_has_a_dot_per_setting_crosses_for_controls_and_the_front():
    figure = side_effect_scatter(*effective())
    front, *dots = figure.data
    floor = 1e-6  # of an axis up to 0.1
    assert [(trace.name, list(trace.x), list(trace.y)) for trace in dots] == [
        ("single layer", [floor, floor], [0.0, 0.5]),
        ("many layers", [0.01, 0.1], [0.5, 1.0]),
        ("many layers, random direction", [0.002], [1.0]),
        ("many layers, frequency-matched feature", [0.03], [0.0]),
    ]
    assert list(front.x) == [floor, 0.1] and list(front.y) == [0.5, 1.0] and front.mode == "lines"
    assert figure.layout.xaxis.type == "log" and figure.layout.xaxis.ticktext[0] == "≤ 1e-06"
    symbols, colours = ([trace.marker[name] for trace in dots] for name in ("symbol", "color"))
    assert symbols == ["circle", "circle", "x-thin-open", "cross-thin-open"]
    assert colours[0] != colours[1] == colours[2] == colours[3]
    kl, label = dots[0].customdata[1]
    assert kl == 1e-9 and "&lt;script&gt;" in label and "<script>" not in label


def test_side_effect_scatter_without_controls_and_with_an_untouched_row():
    table, effects = effective()
    table = table[table["ablated"] == "feature"].drop(columns="ablated").assign(is_story=True)
    table.loc[table["setting"] == 0, ["method", "label"]] = None
    front, *dots = side_effect_scatter(table, effects, "stories").data
    assert [trace.name for trace in dots] == ["untouched", "single layer", "many layers"] and list(front.y) == [1.0]
    assert dots[0].customdata[0][1] == "untouched"


def test_side_effects_of_other_settings_are_refused():
    table, effects = effective()
    with pytest.raises(ValueError, match=r"effects lack 2 of the table's 7 settings; give side_effects\(setup, table\)"):
        side_effect_scatter(table, effects[2:])
    with pytest.raises(ValueError, match="1 rows of the table have no value in 'is_fluent_story'; sweep again"):
        side_effect_scatter(table.assign(is_fluent_story=[None] + [True] * 13), effects)
    with pytest.raises(ValueError, match="the settings with a KL has 0 rows"):
        side_effect_scatter(table, effects.assign(mean_kl=float("nan")))
    with pytest.raises(ValueError, match="lacks the columns 'settings'"):
        side_effect_scatter(swept().assign(is_fluent_story=True), effects)
