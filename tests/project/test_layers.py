"""Imports run one way: display -> analysis -> core (generation -> engine) -> io; training stands beside analysis."""

import ast
import subprocess
import sys
from pathlib import Path

import crosscoder_utils

ROOT = Path(crosscoder_utils.__file__).parent
CORE = {"crosscoder", "presets", "loading", "prompts", "hooks", "methods", "interventions", "generation", "forward"}
LAYERS = {
    "io": {"io", "crosscoder"},
    "core": {"io", "core", "engine"},
    "engine": {"io", "core", "engine"},
    "analysis": {"io", "core", "engine", "analysis"},
    "training": {"io", "core", "engine", "analysis", "training"},
    "display": {"io", "core", "engine", "analysis", "display"},
}


def layer_of(module: str) -> str:
    part = module.removeprefix("crosscoder_utils").lstrip(".").partition(".")[0]
    return "core" if part in CORE or not part else part


def imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    found |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    return {name for name in found if name.startswith("crosscoder_utils.")}


def test_imports_run_one_way():
    wrong = []
    for path in ROOT.rglob("*.py"):
        module = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
        layer = layer_of(module)
        if path in (ROOT / "__init__.py", ROOT / "organism.py"):
            continue  # public names, and the former name of the command line
        for name in imports(path):
            is_leaf = name == "crosscoder_utils.crosscoder"
            if layer_of(name) not in LAYERS[layer] and not (is_leaf and "crosscoder" in LAYERS[layer]):
                wrong.append(f"{module} imports {name}")
    assert not wrong


def test_of_the_core_only_generation_forward_and_loading_use_the_engine():
    names = {one.name for one in ROOT.glob("*.py") if any(".engine" in name for name in imports(one))}
    assert names == {"generation.py", "forward.py", "loading.py"}
    for path in (ROOT / "methods").glob("*.py"):  # for a type only
        engine = [line for line in path.read_text().splitlines() if "crosscoder_utils.engine" in line]
        assert not engine or ("if TYPE_CHECKING:\n    from crosscoder_utils.engine" in path.read_text() and len(engine) == 1)


def test_importing_the_package_loads_neither_figures_nor_widgets_nor_ray():
    code = (
        "import sys, crosscoder_utils\n"
        "heavy = ['plotly', 'IPython', 'ipywidgets', 'ray', 'crosscoder_utils.analysis', 'crosscoder_utils.display']\n"
        "print([name for name in heavy if name in sys.modules])\n"
        "from crosscoder_utils import *\n"
        "print(sweep.__name__, card_figure.__name__)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split("\n")
    assert out[:2] == ["[]", "sweep card_figure"]
