"""Build the book of a replication in a folder of its own: the comparison and the notebooks that ran."""

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

import yaml

from crosscoder_utils.io.files import read_json, read_yaml, write_text
from crosscoder_utils.training.replication.comparison import page
from crosscoder_utils.training.replication.notebooks import write_page
from crosscoder_utils.training.replication.settings import CHECKOUT, Replication

TITLE = "The post and its replication"
_ROOT = "beside_the_post"
_SHARED = ("_ext", "_static", "references.bib")  # of the checkout's folder book


def build_book(recipe: Replication, out: Path, seconds: dict[str, float]) -> float:
    """Write `out`/book and build its pages into `out`/book/_build/html, whole or not at all; return the seconds.

    Raises:
        ValueError: If the book cannot be built.
    """
    began = time.monotonic()
    for left in out.glob(".book-*"):  # by an interrupted build
        shutil.rmtree(left, ignore_errors=True)
    book = out / f".book-{uuid4().hex[:12]}"  # the builder of a killed run may still write to its own
    for name in _SHARED:
        source = CHECKOUT / "book" / name
        if source.is_dir():
            shutil.copytree(source, book / "book" / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, book / "book" / name)
    write_text(book / "_config.yml", yaml.safe_dump(_config(), sort_keys=False))
    chapters = [{"file": f"notebooks/{name}"} for name in recipe.notebooks]
    write_text(book / "_toc.yml", yaml.safe_dump({"format": "jb-book", "root": _ROOT, "chapters": chapters}, sort_keys=False))
    write_text(book / f"{_ROOT}.md", page(recipe, read_json(out / "comparison.json"), seconds, TITLE))
    for name in recipe.notebooks:
        write_page(recipe, name, out, book, _ROOT, TITLE)
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", ".", "-W", "--keep-going"]
    done = subprocess.run(command, cwd=book, capture_output=True, text=True)
    if done.returncode:
        said = re.findall(r"(?:WARNING|ERROR).*", done.stdout + done.stderr) or (done.stdout + done.stderr).splitlines()[-1:]
        raise ValueError(f"the book in {book} cannot be built: {said[0][:300] if said else 'jupyter-book failed'}")
    shutil.rmtree(book / "_build" / ".doctrees", ignore_errors=True)
    shutil.rmtree(out / "book", ignore_errors=True)
    book.rename(out / "book")
    return time.monotonic() - began


def _config() -> dict:
    """The checkout's settings, but that nothing is executed and no button leads to the pages of another book."""
    config = read_yaml(CHECKOUT / "_config.yml")
    config |= {"title": TITLE, "execute": {"execute_notebooks": "off"}}
    config.pop("launch_buttons", None)
    config["html"] |= {"use_edit_page_button": False, "use_issues_button": False}
    return config
