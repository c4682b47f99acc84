"""The version is the same wherever it is stated."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


def test_one_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == version
    assert re.findall(r"^## (\d\S+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)[0] == version
    assert f"version = {{{version}}}" in (ROOT / "book" / "references.md").read_text()


def test_citation_file_has_what_its_format_asks_for():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["license"] == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license"]


def test_everything_in_the_bibliography_is_cited():
    keys = re.findall(r"^@\w+\{(\w+),", (ROOT / "book" / "references.bib").read_text(), flags=re.MULTILINE)
    pages = "\n".join(path.read_text() for path in (ROOT / "book").glob("*.md"))
    cited = {key for group in re.findall(r"\{cite:\w\}`([^`]+)`", pages) for key in group.split(",")}
    assert sorted(keys) == sorted(cited)
