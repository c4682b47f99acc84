"""Figures hold what they were given and can be stored."""

import numpy as np
import pandas as pd
import pytest

from crosscoder_utils.display import bars_by_point, effect_scatter, show

EVIL = "<script>alert(1)</script> $x^2$"


def test_bars_have_errors_where_they_are_given():
    [bars] = bars_by_point([1.0, 2.0], "y", (0, 2), [0.1, 0.2]).data
    assert bars.x == ("embedding", "after block 2") and bars.y == (1.0, 2.0)
    assert bars.error_y.visible and bars.error_y.array == (0.1, 0.2)
    assert not bars_by_point([1.0, 2.0], "y", (0, 2)).data[0].error_y.visible
    several = bars_by_point({"a": [1.0, 2.0], "b": [3.0, 4.0]}, "y", (0, 2)).data
    assert [(bars.name, bars.y) for bars in several] == [("a", (1.0, 2.0)), ("b", (3.0, 4.0))]


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


def test_where_a_figure_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    show(bars_by_point([1.0, 2.0], "y", (0, 1)), "≥ 1 σ", "bars", "~/figure.html")
    assert "≥ 1 σ" in (tmp_path / "figure.html").read_text(encoding="utf-8")
    for path, match in ((tmp_path, "is a folder; give the path of a file"), ("/proc/none/a.html", "cannot be written")):
        with pytest.raises(ValueError, match=match):
            show(bars_by_point([1.0, 2.0], "y", (0, 1)), "caption", "bars", path)


def test_effects_on_logarithmic_axes():
    table = pd.DataFrame(
        {"feature": [7, 3, 5], "kl_decoder": [1.0, 0.1, np.nan], "kl_encoder": [0.5, 0.0, 1.0], "kl_random": [0.2, 1e-9, 1.0]}
    )
    figure = effect_scatter(table, {"tag": 7})
    line, every, tag = figure.data
    assert list(line.x) == list(line.y) and list(every.x) == [1.0, 0.1] and list(every.y) == [0.5, 1e-5]  # NaN is left out
    assert list(tag.x) == [1.0] and list(tag.y) == [0.5] and tag.name == "tag (7)" and tag.customdata[0][2] == 0.5
    assert figure.layout.xaxis.type == figure.layout.yaxis.type == "log" and figure.layout.xaxis.title.text.endswith("(nats)")
    assert every.meta["customdata"] == ["feature", "x", "y"]  # as they are: a download has these in place of the drawn ones
    assert effect_scatter(table, {}, of="random").data[1].y.tolist() == [0.2, 1e-5]
    with pytest.raises(IndexError, match="feature 5 has no row"):
        effect_scatter(table, {"a": 5})
    with pytest.raises(ValueError, match="of='both' is unknown; use 'encoder', 'random'"):
        effect_scatter(table, {}, of="both")
    with pytest.raises(ValueError, match="effects lacks the columns 'kl_random'"):
        effect_scatter(table.drop(columns="kl_random"), {}, of="random")
