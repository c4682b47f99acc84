"""Every figure can be saved: its data as CSV, its drawing as SVG."""

import csv
import io
import json
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.express as px
import plotly.graph_objects as go
import pytest
from book_files import BOOK, ROOT, pages_with
from test_accessibility import dark

sys.path.insert(0, str(ROOT / "book" / "_ext"))
from plotly_figures import SCRIPTS, figure_html

# What a figure draws, read from Plotly itself: the numbers of each trace that answers to the pointer, and its errors.
DRAWN = """(bar) => {
  const drawing = bar.parentElement.querySelector(".js-plotly-plot");
  return drawing._fullData.filter((trace) => trace.hoverinfo !== "skip" && trace.visible === true).map((trace) => {
    const column = trace.z ? "z" : typeof trace.y[0] === "string" ? "x" : "y";
    const error = trace[`error_${column}`];
    return {
      column, values: Array.from(trace[column], (one) => (trace.z ? Array.from(one) : one)).flat(),
      errors: error?.visible && error.array ? Array.from(error.array) : null,
    };
  });
}"""


def saved(page, button) -> tuple[str, str]:
    """What pressing the button saves, and under which name."""
    with page.expect_download() as download:
        button.focus()
        page.keyboard.press("Enter")
    return Path(download.value.path()).read_text(), download.value.suggested_filename


@pytest.mark.parametrize("page_path", pages_with('class="plotly-figure"'))
def test_figures_can_be_saved(page_path, open_page):
    opened = open_page(page_path)
    dark(opened.page)  # a saved drawing is for white paper all the same
    opened.settle()
    n_figures = opened.page.locator(".plotly-figure").count()
    assert opened.page.locator(".figure-downloads").count() == n_figures
    for number in range(1, n_figures + 1):
        if number % 5 == 0:  # a browser stops pages that save ten files at once
            opened.page.reload()
            opened.settle()
        bar = opened.page.locator(".figure-downloads").nth(number - 1)
        text, name = saved(opened.page, bar.get_by_role("button", name=f"Download figure {number} as CSV"))
        assert name == f"{page_path.stem}_figure_{number}.csv"
        table = pd.read_csv(io.StringIO(text))
        assert {"trace", "x", "y", "x_title", "y_title"} <= {*table.columns}
        assert not [name for name in table.columns if name.startswith("customdata")], "a figure's customdata has no names"
        drawn = bar.evaluate(DRAWN)
        assert drawn and all(trace["values"] for trace in drawn)
        for trace in drawn:
            assert holds(table[trace["column"]], trace["values"])
            if trace["errors"]:
                assert holds(table[f"error_{trace['column']}"], trace["errors"])
        text, name = saved(opened.page, bar.get_by_role("button", name=f"Download figure {number} as SVG"))
        assert name == f"{page_path.stem}_figure_{number}.svg"
        drawing = ElementTree.fromstring(text)
        ground = drawing.find("{http://www.w3.org/2000/svg}rect").get("style")
        assert drawing.tag.endswith("svg") and ground.startswith("fill: rgb(255, 255, 255)")
    assert opened.problems == []


def holds(column: pd.Series, drawn: list[float]) -> bool:
    """Whether the values stand below each other in the column; those below the end of an axis are drawn at its end."""
    values, drawn = pd.to_numeric(column, errors="coerce").to_numpy(float), np.array(drawn, float)
    starts = range(len(values) - len(drawn) + 1)
    least = np.nanmin(drawn)
    return any(
        np.allclose(np.maximum(values[start : start + len(drawn)], least), drawn, rtol=1e-5, equal_nan=True) for start in starts
    )


FORMULAS = ["=1+1", "+a", "-b", "@c", "\tx"]
TEXTS = ["-0.5", 'say "no", or', "two\nlines", " plain"]
TITLED = {"xaxis": {"title": "size"}, "yaxis": {"title": "share"}}


def faceted() -> go.Figure:
    table = pd.DataFrame({"n": [1, 2, 3, 4], "seconds": [0.5, 1.0, -2.0, 4.0], "what": ["tokens"] * 2 + ["=steps"] * 2})
    figure = px.line(table, x="n", y="seconds", facet_col="what")
    return figure.for_each_annotation(lambda note: note.update(text=note.text.removeprefix("what=")))


# A trace or a figure, and its CSV as a spreadsheet reads it: the names but the titles of the axes, and the rows.
SAVED = {
    "y alone": (go.Scatter(y=[-0.5, 2.0], name="a"), "trace x y", [["a", "0", "-0.5"], ["a", "1", "2"]]),
    "y alone, from another x on": (go.Scatter(y=[1, 2], x0=10, dx=5), "trace x y", [["", "10", "1"], ["", "15", "2"]]),
    "lying bars": (go.Bar(x=[3, -4], orientation="h"), "trace x y", [["", "3", "0"], ["", "-4", "1"]]),
    "arrays in base64": (
        go.Scatter(x=np.array([0.1, np.nan], "float32"), y=np.array([-1, 2])), "trace x y", [["", "0.1", "-1"], ["", "", "2"]],
    ),
    "texts": (
        go.Bar(x=[*FORMULAS, *TEXTS], y=np.arange(9), name="=bars"),
        "trace x y",
        [["'=bars", text, str(i)] for i, text in enumerate([*("'" + one for one in FORMULAS), *TEXTS])],
    ),
    "heat map": (
        go.Heatmap(z=[[1, -2], [3, np.nan]], x=["0.5", "1"], y=["point 0", "=point 1"]),
        "trace x y z",
        [["", "0.5", "point 0", "1"], ["", "1", "point 0", "-2"], ["", "0.5", "'=point 1", "3"], ["", "1", "'=point 1", ""]],
    ),
    "heat map alone": (go.Heatmap(z=[[1, 2]]), "trace x y z", [["", "0", "0", "1"], ["", "1", "0", "2"]]),
    "panels": (
        faceted(),
        "trace panel x y",
        [["", "tokens", "1", "0.5"], ["", "tokens", "2", "1"], ["", "'=steps", "3", "-2"], ["", "'=steps", "4", "4"]],
    ),
    "error bars": (
        go.Scatter(x=[1], y=[0.5], error_y={"array": [0.1], "arrayminus": [0.3]}, error_x={"array": [1], "visible": False}),
        "trace x y error_y error_y_minus",
        [["", "1", "0.5", "0.1", "0.3"]],
    ),
    "named customdata": (
        go.Scatter(x=[0.1], y=[1], customdata=[[-8.5, "many layers, scale 2"]], meta={"customdata": ["x", "setting"]}),
        "trace x y setting",
        [["", "-8.5", "1", "many layers, scale 2"]],
    ),
    "customdata without names": (
        go.Scatter(x=[1, 2], y=[1, 2], customdata=["=a", "b"]),
        "trace x y customdata_1",
        [["", "1", "1", "'=a"], ["", "2", "2", "b"]],
    ),
    "escaped texts": (go.Scatter(x=[1], y=[2], name="a &lt; 50&#37;<br>b"), "trace x y", [["a < 50% b", "1", "2"]]),
}  # fmt: skip


@pytest.mark.parametrize("name", SAVED)
def test_every_kind_of_trace_is_saved_whole(name, open_page, tmp_path):
    drawn, names, rows = SAVED[name]
    figure = drawn if isinstance(drawn, go.Figure) else go.Figure(drawn, layout=TITLED)
    titles = ["n", "seconds"] if drawn is figure else ["size", "share"]
    scripts = "".join(f'<script src="{(BOOK / "_static" / script).as_uri()}"></script>' for script in SCRIPTS)
    page = f'<!DOCTYPE html><meta charset="utf-8"><title>Figure</title>{scripts}{figure_html(json.loads(figure.to_json()))}'
    (tmp_path / "page.html").write_text(page)
    opened = open_page(tmp_path / "page.html")
    text, _ = saved(opened.page, opened.page.get_by_role("button", name="Download figure 1 as CSV"))
    found = list(csv.reader(io.StringIO(text, newline="")))
    assert found == [[*names.split(), "x_title", "y_title"], *([*row, *titles] for row in rows)]
    assert opened.problems == []
