"""The built book in a real browser: without a network, every page in a context of its own."""

import re
import shutil
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from book_files import BOOK, book_pages
from playwright.sync_api import Page, sync_playwright

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


def pytest_generate_tests(metafunc):
    if "path" in metafunc.fixturenames:
        pages = [pytest.param(page, id=str(page.relative_to(BOOK).with_suffix(""))) for page in book_pages()]
        metafunc.parametrize("path", pages or [pytest.param(None, id="no-book")])


@pytest.fixture(scope="session", autouse=True)
def built_book() -> Path:
    if not (BOOK / "index.html").exists():
        pytest.fail(f"there is no {BOOK / 'index.html'}: run make book first", pytrace=False)
    return BOOK


@pytest.fixture(scope="session")
def browser(built_book):
    found = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if found is None:
        pytest.fail(f"none of {', '.join(CHROMIUM)} is installed (Debian: apt-get install chromium)", pytrace=False)
    with sync_playwright() as playwright:
        # Without a sandbox, so that it also runs as root in a container; it opens nothing but our own files.
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@dataclass
class Opened:
    """A page, and what went wrong on it so far."""

    page: Page
    problems: list[str] = field(default_factory=list)

    def watch(self) -> None:
        self.page.on("console", lambda message: self.note("console", message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.note("script", str(error)))
        self.page.on("requestfailed", lambda request: self.note("failed", request.url))

    def note(self, kind: str, text: str) -> None:
        self.problems.append(f"{kind}: {text}")

    def refuse(self, route) -> None:
        self.note("asked another host", route.request.url)
        route.abort()

    def settle(self) -> None:
        """Wait until every figure is drawn and nothing waits to be drawn again."""
        self.page.wait_for_function(
            "[...document.querySelectorAll('.plotly-figure')].every((figure) => figure.querySelector('svg.main-svg'))"
        )
        self.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 100)))")


@pytest.fixture(scope="session")
def opened_at(browser):
    """A context manager: a file opened at a width. The network is off, and all that is asked of it is a problem."""

    @contextmanager
    def opened_at(path: Path, width: int = 1400):
        context = browser.new_context(viewport={"width": width, "height": 900}, offline=True, color_scheme="light")
        opened = Opened(context.new_page())
        opened.watch()
        context.route(re.compile("^(?!file:|data:|blob:)"), opened.refuse)
        opened.page.goto(path.as_uri())
        opened.settle()
        yield opened
        context.close()

    return opened_at


@pytest.fixture
def open_page(opened_at):
    """Open a file, to be closed after the test."""
    with ExitStack() as stack:
        yield lambda path, width=1400: stack.enter_context(opened_at(path, width))
