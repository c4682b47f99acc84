"""Every page: nothing fails, nothing is asked of a network, figures are drawn and described, and fit the screen."""

from functools import cache

import pytest

FIGURES = """() => [...document.querySelectorAll(".plotly-figure")].map((figure) => {
  const drawing = figure.querySelector(".js-plotly-plot"), box = drawing.querySelector("svg.main-svg").getBoundingClientRect();
  let next = figure.closest(".cell_output > *") ?? figure;
  next = next.nextElementSibling;
  return {
    width: box.width, height: box.height, traces: drawing.data.length,
    drawn: drawing.querySelectorAll(".trace, .heatmaplayer image, .bars path, .cartesianlayer .plot path").length,
    alt: figure.getAttribute("role") === "figure" ? figure.getAttribute("aria-label") : null,
    caption: (next?.matches(".figure-caption") ? next : next?.querySelector(".figure-caption"))?.textContent ?? null,
  };
})"""

# Titles and legends of a figure that overlap, or stand out of it.
CLASHES = """() => [...document.querySelectorAll(".js-plotly-plot")].flatMap((drawing, i) => {
  const whole = drawing.querySelector("svg.main-svg").getBoundingClientRect();
  const all = [...drawing.querySelectorAll(".legend, .gtitle, .g-xtitle, .g-ytitle, .cartesianlayer .bg, .colorbar")];
  const boxes = all.map((one) => [one.getAttribute("class"), one.getBoundingClientRect()]).filter(([, box]) => box.width);
  const over = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 2
    && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 2;
  const out = (box) => box.left < whole.left - 2 || box.right > whole.right + 2
    || box.top < whole.top - 2 || box.bottom > whole.bottom + 2;
  return boxes.flatMap(([name, box], j) => [
    ...(out(box) ? [`figure ${i}: ${name} is cut off`] : []),
    ...boxes.slice(j + 1).filter(([, other]) => over(box, other)).map(([other]) => `figure ${i}: ${name} is over ${other}`),
  ]);
})"""

# Entries of legends that do not stand in columns or, in a single line, with equal gaps.
UNEVEN = """() => [...document.querySelectorAll(".legend")].flatMap((legend, number) => {
  const boxes = [...legend.querySelectorAll(".legendtoggle")].map((one) => one.getBoundingClientRect());
  const lines = Object.values(Object.groupBy(boxes, (box) => Math.round(box.top)));
  const close = (a, b) => Math.abs(a - b) <= 2;
  const gaps = boxes.slice(1).map((box, i) => box.left - boxes[i].right);
  const even = lines.length === 1 ? gaps.every((gap) => close(gap, gaps[0]))
    : lines.every((line) => line.every((box, i) => close(box.left, lines[0][i].left)));
  return even ? [] : [number];
})"""

# Code cells, the collapsed ones opened, of which a reader has to scroll to see the ends of lines.
CUT_CODE = """() => {
  for (const details of document.querySelectorAll("details")) details.open = true;
  return [...document.querySelectorAll(".cell_input pre")].filter((one) => one.scrollWidth > one.clientWidth + 1)
    .map((one) => one.textContent.split("\\n").sort((a, b) => b.length - a.length)[0]);
}"""

# Tables outside of a box that scrolls, lies within the page and has an edge; and of those in one, which are wider.
TABLES = """() => [...document.querySelectorAll(".bd-article table")].map((table) => {
  const box = table.closest(".texts-wrapper, .pst-scrollable-table-container"), style = box && getComputedStyle(box);
  const within = box && box.getBoundingClientRect().right <= document.documentElement.clientWidth;
  return { boxed: Boolean(within && style.overflowX === "auto" && parseFloat(style.borderRightWidth) > 0),
    scrolls: box && box.scrollWidth > box.clientWidth + 1, text: table.textContent.slice(0, 60) };
})"""


@pytest.fixture(scope="module")
def seen(opened_at):
    """What a page looks like at a width; opened once for all tests that ask."""

    @cache
    def seen(path, width: int = 1300) -> dict:
        with opened_at(path, width) as opened:
            page = opened.page
            wide = page.evaluate("document.documentElement.scrollWidth")
            found = {"figures": FIGURES, "clashes": CLASHES, "uneven": UNEVEN, "tables": TABLES, "cut": CUT_CODE}
            found = {name: page.evaluate(script) for name, script in found.items()}
            return found | {"wide": wide, "problems": opened.problems}

    return seen


def test_a_page_opens_and_draws_its_figures(path, seen):
    found = seen(path)
    for figure in found["figures"]:
        assert figure["width"] > 0 and figure["height"] > 0, figure
        assert figure["traces"] > 0 and figure["drawn"] > 0, figure
    assert found["problems"] == []


def test_figures_have_a_description_and_a_caption(path, seen):
    figures = seen(path)["figures"]
    assert [i for i, figure in enumerate(figures) if not figure["alt"]] == [], "figures without alt text"
    assert [i for i, figure in enumerate(figures) if not figure["caption"]] == [], "figures without a caption after them"


@pytest.mark.parametrize("width", [400, 1300])
def test_a_page_fits_the_screen(path, width, seen):
    found = seen(path, width)
    assert found["wide"] <= width
    assert found["clashes"] == [] and found["uneven"] == []
    assert [table["text"] for table in found["tables"] if not table["boxed"]] == [], "tables off the screen, or without an edge"
    if width == 1300:
        assert found["cut"] == [] and [table["text"] for table in found["tables"] if table["scrolls"]] == []
