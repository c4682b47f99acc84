"""Where the built book is, and its pages."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
BOOK = ROOT / "_build" / "html"
# Sphinx's own pages, without a text of ours.
GENERATED = {"genindex.html", "search.html", "py-modindex.html"}


def book_pages() -> list[Path]:
    pages = sorted(page for page in BOOK.rglob("*.html") if "_static" not in page.relative_to(BOOK).parts)
    return [page for page in pages if page.name not in GENERATED and page != BOOK / "index.html"]  # that one leads on only
