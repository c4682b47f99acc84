"""`make rows` computes what the notebooks read, and nothing twice."""

import importlib.util
from pathlib import Path

import papermill
import pytest

ROOT = Path(__file__).parents[2]
SMALL = {
    "02_feature_discovery": {},
    "03_ablation": {"n_prompts": 2, "max_new_tokens": 5, "learning_rates": [0.16]},
    "04_steering": {"n_prompts": 2, "max_new_tokens": 5, "strengths": [4.0], "starts": [0]},
    "05_sweeps": {"n_prompts": 2, "n_held_out": 2, "max_new_tokens": 5, "single_layer_scales": [4.0], "steps_tried": [1]},
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """The script, with a folder and parameters of its own."""
    spec = importlib.util.spec_from_file_location("rows", ROOT / "book" / "rows.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    defaults, outputs = module.defaults, tmp_path_factory.mktemp("outputs")
    module.defaults = lambda notebook: defaults(notebook) | SMALL[notebook]
    module.OUTPUTS, module.ROWS, module.SCREENS = outputs, outputs / "rows", outputs / "screens"
    module.N_EXPLORED = dict.fromkeys(module.N_EXPLORED, 1)
    module.main()
    return module


def stored(rows) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in rows.OUTPUTS.glob("*/rows-*.parquet")}


def test_the_notebooks_find_all_their_rows(rows):
    found = stored(rows)
    assert found
    for name, given in SMALL.items():
        given = given | {"output_dir": str(rows.OUTPUTS)}
        out = rows.OUTPUTS / f"{name}.ipynb"
        papermill.execute_notebook(ROOT / "notebooks" / f"{name}.ipynb", out, parameters=given, progress_bar=False)
        assert stored(rows) == found, name


def test_called_again_it_computes_nothing(rows, capsys):
    found = stored(rows)
    rows.main()
    assert stored(rows) == found and "100%" in capsys.readouterr().err.splitlines()[-1]


def test_what_is_missing_is_made(rows):
    """As after an interruption: files of rows are whole or not there."""
    sorted(rows.OUTPUTS.glob("rows/*.parquet"))[0].unlink()
    found = stored(rows)
    rows.main()
    assert found.items() < stored(rows).items()
