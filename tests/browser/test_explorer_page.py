"""The explorer on a page with headings: its address leaves theirs alone. Where it cannot run, the page says so."""

import csv
import itertools
from pathlib import Path

import pandas as pd
import pytest

from crosscoder_utils.display import explorer

SCALES = (1, 2)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """A page with a heading below the explorer, further down than a screen, and a link to it."""
    rows = [
        {"role": role, "label": f"-many layers, scale {scale}", "prompt_index": prompt, "prompt": f"prompt {prompt}"}
        for role, scale, prompt in itertools.product(("tag", "colon"), SCALES, range(3))
    ]
    table = pd.DataFrame(rows).assign(method="many layers", relative_edit_norm=0.5, says_phrase=False, is_fluent_story=False)
    table["setting"] = table.index // 3
    table["completion"] = "text " + table.index.astype(str)
    page = f'<a href="#below">Below</a>{explorer(table).data}<div style="height: 3000px"></div><h2 id="below">Below</h2>'
    written = tmp_path_factory.mktemp("explorer") / "page.html"
    written.write_text(f'<!DOCTYPE html><meta charset="utf-8"><title>Explorer</title>{page}<div style="height: 3000px"></div>')
    return written


@pytest.fixture
def opened(written, open_page):
    opened = open_page(written)
    yield opened
    assert opened.problems == []


def visit(page, address: str) -> None:
    page.goto("about:blank")  # else another address of the same page would load nothing
    page.goto(address)


def shown(page) -> tuple[str, str]:
    """The first text, once it is that of the chosen setting and prompt; and what the address says after the path."""
    page.wait_for_function(
        "document.querySelector('.explorer').dataset.shown === ['setting', 'prompt'].map("
        "(name) => document.querySelector(`[data-choose=${name}]`).value).join(' ')"
    )
    return page.locator(".explorer-completion").first.text_content(), page.evaluate("location.search + location.hash")


def choose(page, name: str, index: int) -> tuple[str, str]:
    page.locator(f"[data-choose={name}]").select_option(index=index)
    return shown(page)


def test_a_heading_keeps_its_anchor(opened, written):
    page = opened.page
    visit(page, f"{written.as_uri()}#below")
    first, address = shown(page)
    assert address.endswith("#below") and page.evaluate("scrollY") > 1000
    other, address = choose(page, "setting", 1)
    assert other != first and address.startswith("?feature=tag") and address.endswith("#below")
    visit(page, written.as_uri() + address)
    assert shown(page) == (other, address) and page.evaluate("scrollY") > 1000


def test_a_link_within_the_page_leads_there_and_back(opened, written):
    page = opened.page
    before = choose(page, "setting", 1)
    assert before[1].startswith("?") and "#" not in before[1]
    page.get_by_role("link", name="Below").click()
    page.wait_for_function("scrollY > 1000")
    assert shown(page) == (before[0], before[1] + "#below")
    after = choose(page, "prompt", 2)
    assert after[0] != before[0] and after[1].endswith("#below")
    page.go_back()
    page.wait_for_function("!location.hash && document.querySelector('[data-choose=prompt]').value === '1'")
    assert shown(page) == before


def test_addresses_of_the_former_form_and_other_queries(opened, written):
    page = opened.page
    text, query = choose(page, "feature", 1)
    text, query = choose(page, "prompt", 1)
    visit(page, f"{written.as_uri()}#{query[1:]}")
    assert shown(page) == (text, query)
    visit(page, f"{written.as_uri()}?highlight=kite#prompt=2&feature=colon")
    opened_text, address = shown(page)
    assert opened_text == text and address.startswith("?highlight=kite&feature=colon") and "#" not in address
    page.evaluate("location.hash = 'feature=tag&prompt=3'")  # typed over the address of the open page
    page.wait_for_function("document.querySelector('[data-choose=feature]').value === 'tag'")
    assert shown(page)[0] == "text 2" and page.evaluate("location.hash") == ""
    assert page.locator("[data-say=note]").text_content() == ""  # all of it was there


def test_a_browser_that_refuses_to_change_the_address(opened, written):
    page = opened.page
    page.add_init_script("History.prototype.replaceState = () => { throw new DOMException('Too often', 'SecurityError'); };")
    page.add_init_script("Object.defineProperty(navigator, 'clipboard', { value: undefined });")
    visit(page, written.as_uri())
    first, _ = shown(page)
    other, address = choose(page, "setting", 1)
    assert other != first and address == ""
    page.get_by_role("button", name="Copy the address").click()
    copied = page.locator("[data-say=note]").text_content().split()[-1]
    visit(page, copied)
    assert shown(page)[0] == other


def test_where_it_cannot_run_it_says_so(opened, written, browser):
    assert shown(opened.page) and not opened.page.locator(".explorer-needs").is_visible()
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(written.as_uri())
        assert_needs(page)
    opened.page.add_init_script("delete window.DecompressionStream")
    visit(opened.page, written.as_uri())
    assert_needs(opened.page)


def assert_needs(page) -> None:
    text = page.locator(".explorer-needs").inner_text()
    assert "Allow scripts" in text and "Firefox" in text
    assert not page.locator(".explorer-view").is_visible()


def test_a_spreadsheet_takes_no_label_for_a_formula(opened):
    page = opened.page
    shown(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Settings as CSV").click()
    rows = list(csv.DictReader(Path(download.value.path()).read_text().splitlines()))
    assert [row["setting"] for row in rows] == [f"'-many layers, scale {scale}" for scale in SCALES]
    assert [float(row["relative_edit_norm"]) for row in rows] == [0.5, 0.5]
