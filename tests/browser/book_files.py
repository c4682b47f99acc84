"""Where the built book is, and its pages."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BOOK = ROOT / "_build" / "html"
# Sphinx's own pages, without a text of ours.
GENERATED = {"genindex.html", "search.html", "py-modindex.html"}


def every_page() -> list[Path]:
    pages = sorted(page for page in BOOK.rglob("*.html") if "_static" not in page.relative_to(BOOK).parts)
    return [page for page in pages if page != BOOK / "index.html"]  # that one leads on only


def book_pages() -> list[Path]:
    return [page for page in every_page() if page.name not in GENERATED]


def pages_with(mark: str) -> list:
    """Pages whose source has the mark; a book without any fails the test instead of leaving it out."""
    found = [pytest.param(page, id=page.stem) for page in book_pages() if mark in page.read_text()]
    return found or [pytest.param(None, id="none")]
