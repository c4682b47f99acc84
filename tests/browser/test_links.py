"""Every link of every page leads somewhere. Needs no browser."""

import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from book_files import BOOK
from bs4 import BeautifulSoup

LINKS = ("href", "src", "poster", "data")


@cache
def parsed(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(), "html.parser")


@cache
def anchors(path: Path) -> set[str]:
    return {element.get("id") or element.get("name") for element in parsed(path).select("[id], a[name]")}


def fault(page: Path, link: str) -> str | None:
    """What is wrong with a link of a page."""
    parts = urlsplit(link)
    if parts.scheme in {"data", "mailto"}:
        return None
    if parts.scheme or parts.netloc:
        return (
            None if parts.scheme == "https" and re.fullmatch(r"[\w-]+(\.[\w-]+)+", parts.netloc) else "malformed, or no https"
        )
    target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if not target.is_file():
        return "no such file"
    if parts.fragment and target.suffix == ".html" and unquote(parts.fragment) not in anchors(target):
        return "no such anchor in the page"
    return None


def test_the_index_leads_to_the_first_page():
    [refresh] = parsed(BOOK / "index.html").select("meta[http-equiv=Refresh]")
    assert fault(BOOK / "index.html", refresh["content"].partition("url=")[2]) is None


def test_colab_is_offered_for_notebooks_alone(path):
    offered = [link["href"] for link in parsed(path).select("a[href*='colab.research.google.com']")]
    is_notebook = path.relative_to(BOOK).parts[0] == "notebooks"
    assert bool(offered) == is_notebook and all(link.endswith(f"/notebooks/{path.stem}.ipynb") for link in offered)


def test_links_lead_somewhere(path):
    found = {
        (element[name], fault(path, element[name]))
        for element in parsed(path).find_all(True)
        for name in LINKS
        if element.has_attr(name) and element.name != "object"
    }
    assert [(link, problem) for link, problem in sorted(found) if problem] == []
