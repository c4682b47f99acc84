"""The notebooks run with other parameters than their own."""

from pathlib import Path

import nbformat
import papermill
import pytest
from real_formats import write_preset

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
GRID = {"single_layer_scales": [8.0], "many_layers_scales": [4.0], "learning_rates": [0.4], "steps_tried": [1, 3]}
PARAMETERS = {
    "01_setup": {"n_prompts": 5, "max_new_tokens": 60},
    "02_feature_discovery": {"n_texts": 60, "n_candidates": 2},
    "05_sweeps": {"n_prompts": 3, "n_held_out": 2, "max_new_tokens": 40, "roles": ["tag"], **GRID},
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_with_other_parameters(name, tmp_path):
    given = PARAMETERS[name] | ({"output_dir": str(tmp_path)} if name != "01_setup" else {})
    output = tmp_path / "out.ipynb"
    papermill.execute_notebook(NOTEBOOKS / f"{name}.ipynb", output, parameters=given, progress_bar=False)
    ran = nbformat.read(output, as_version=4)
    assert any("injected-parameters" in cell.metadata.get("tags", []) for cell in ran.cells)
    assert all(cell.execution_count for cell in ran.cells if cell.cell_type == "code")


SMALL = {
    "01_setup": {"n_prompts": 2, "max_new_tokens": 5},
    "02_feature_discovery": {"n_texts": 20},
    "03_ablation": {"n_prompts": 2, "max_new_tokens": 5},
    "04_steering": {"n_prompts": 2, "max_new_tokens": 5, "strengths": [1.0, 4.0], "starts": [-2, 0]},
    "05_sweeps": {"n_prompts": 2, "n_held_out": 2, "max_new_tokens": 5, **GRID},
    "06_playground": {"n_prompts": 2, "n_texts": 20, "max_new_tokens": 5},
}


@pytest.mark.parametrize("name", SMALL)
def test_on_local_folders_in_the_formats_of_real_models(name, folders):
    given = SMALL[name] | {"preset": str(write_preset(folders))}
    given |= {"output_dir": str(folders / "outputs")} if name != "01_setup" else {}
    papermill.execute_notebook(NOTEBOOKS / f"{name}.ipynb", folders / f"{name}.ipynb", parameters=given, progress_bar=False)


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda p: p.stem)
def test_committed_as_they_should_be(path):
    code = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    assert code[0].metadata.tags == ["parameters"]
    assert not any(c.outputs or c.execution_count for c in code)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("03_ablation", {"n_prompts": 0}, "n_prompts=0: input should be greater than or equal to 1"),
        ("04_steering", {"strengths": [1.0, -2.0]}, "strengths.1=-2.0: input should be greater than 0"),
        ("05_sweeps", {"roles": ["tags"]}, "roles .'tags'. are not in .*features.json, which has .'tag', 'colon'"),
    ],
)
def test_wrong_parameters_are_refused(name, given, message, tmp_path):
    given = given | {"output_dir": str(tmp_path)}
    with pytest.raises(papermill.PapermillExecutionError, match=message):
        papermill.execute_notebook(NOTEBOOKS / f"{name}.ipynb", tmp_path / "out.ipynb", parameters=given, progress_bar=False)


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda p: p.stem)
def test_papermill_lists_the_parameters(path):
    parameters = papermill.inspect_notebook(path)
    assert parameters and all(one["help"] for one in parameters.values())
