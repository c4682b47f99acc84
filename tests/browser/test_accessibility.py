"""axe-core's rules of WCAG 2 A and AA on every page, light and dark."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from book_files import BOOK, every_page, pages_with

OPTIONS = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}, "resultTypes": ["violations"]}

# What can change with the theme, and with the width.
CONTRAST, SCROLLING = {"runOnly": ["color-contrast"]}, {"runOnly": ["scrollable-region-focusable"]}

# Drawings are hidden from what reads a page aloud: their figures have a description. And of hundreds of rows of a table or
# texts below each other, the first ones stand for all.
CONTEXT = {"exclude": [["svg.main-svg"], ["tr:nth-child(n+9)"], [".tokens:nth-child(n+6)"]]}

# Of the theme, and not to be mended from here: (rule, how the element's HTML begins, why it stays).
OF_THE_THEME: list[tuple[str, str, str]] = []


SCROLLING_CAN_BE_FOCUSED = """() => [...document.querySelectorAll("pre, .pst-scrollable-table-container")]
  .every((one) => one.scrollWidth <= one.clientWidth || one.tabIndex === 0)"""


def dark(page):
    """As a reader does it: the button goes through the modes."""
    for _ in range(3):
        if page.evaluate("document.documentElement.dataset.theme") == "dark":
            break
        page.locator(".theme-switch-button:visible").first.click()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def violations(page, options: dict = OPTIONS) -> set[str]:
    return {
        f"{violation['id']}: {node['html'][:200]} ({node['failureSummary'][:300]})"
        for violation in Axe().run(page, CONTEXT, options).response["violations"]
        for node in violation["nodes"]
        if not any(rule == violation["id"] and node["html"].startswith(start) for rule, start, _ in OF_THE_THEME)
    }


@pytest.mark.parametrize("any_page", every_page(), ids=lambda page: str(page.relative_to(BOOK).with_suffix("")))
def test_a_page_keeps_the_rules(any_page, open_page):
    opened = open_page(any_page)
    found = {"light": violations(opened.page)}
    dark(opened.page)
    opened.settle()
    found["dark"] = violations(opened.page, CONTRAST)
    opened.page.set_viewport_size({"width": 400, "height": 900})  # where tables and code scroll
    opened.page.wait_for_function(SCROLLING_CAN_BE_FOCUSED)  # the theme sees to it after a while
    found["small"] = violations(opened.page, SCROLLING)
    assert {name: sorted(those) for name, those in found.items() if those} == {}


@pytest.mark.parametrize("page_path", pages_with('class="plotly-figure"'))
def test_figures_follow_the_theme(page_path, open_page):
    opened = open_page(page_path)
    page = opened.page
    background = """() => [...document.querySelectorAll('.js-plotly-plot')].map((drawing) =>
        [getComputedStyle(drawing.querySelector('svg.main-svg')).backgroundColor, drawing.layout.font?.color])"""
    light = page.evaluate(background)
    dark(page)
    opened.settle()
    behind = page.evaluate("getComputedStyle(document.body).backgroundColor")
    for before, after in zip(light, page.evaluate(background), strict=True):
        assert before[0] == "rgb(255, 255, 255)" and after[0] == behind and before[1] != after[1]
    page.reload()
    opened.settle()
    assert all(drawn == behind for drawn, _ in page.evaluate(background)), "drawn dark at once"
    assert opened.problems == []


# The least contrast of a figure's dots with what is behind them: of their filling, or of their line if they have none.
DOTS = """() => {
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (rgb) => [0.2126, 0.7152, 0.0722].reduce((sum, weight, i) => {
    const part = rgb[i] / 255;
    return sum + weight * (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
  }, 0);
  const behind = parts(getComputedStyle(document.body).backgroundColor);
  const contrasts = [...document.querySelectorAll(".scatterlayer path.point")].map((point) => {
    const style = getComputedStyle(point), filled = style.fill !== "none" && style.fillOpacity !== "0";
    const [colour, own] = filled ? [style.fill, style.fillOpacity] : [style.stroke, style.strokeOpacity];
    const opacity = style.opacity * own;
    const shown = parts(colour).slice(0, 3).map((part, i) => opacity * part + (1 - opacity) * behind[i]);
    const [low, high] = [light(shown), light(behind)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  });
  return [contrasts.length, Math.min(...contrasts)];
}"""


@pytest.mark.parametrize("page_path", pages_with('"mode": "markers"'))
def test_dots_show_on_dark_pages(page_path, open_page):
    opened = open_page(page_path)
    dark(opened.page)
    opened.settle()
    n, least = opened.page.evaluate(DOTS)
    assert n > 0 and least >= 3  # WCAG 2's least for what is drawn
