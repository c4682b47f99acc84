"""Every figure can be saved: its data as CSV, its drawing as SVG."""

import io
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from book_files import pages_with
from test_accessibility import dark

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
