"""Take the README's picture, `book/_static/overview.png`, of the built book's first figure. Run it after `make book`."""

import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]

with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
    page = browser.new_page(viewport={"width": 1150, "height": 900}, device_scale_factor=1.5, color_scheme="light")
    page.goto((ROOT / "_build" / "html" / "book" / "introduction.html").as_uri())
    figure = page.locator(".plotly-figure").first
    figure.locator(".legend").wait_for()
    figure.screenshot(path=ROOT / "book" / "_static" / "overview.png")
