"""Figures hold what they were given and can be stored."""

import pytest

from crosscoder_utils.display import bars_by_point, show

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
