"""Crosscoder folders that the real libraries wrote, damaged at random: read, or refused in one line that names the file."""

import json
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
import yaml
from fuzzing import fuzz, result_or_one_line
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from crosscoder_utils import load_crosscoder

pytestmark = pytest.mark.usefixtures("unchecked")
REAL = Path(__file__).parent / "real_files"
FOLDERS = [
    REAL / "crosscode" / "m1_p3_jumprelu_eb1_db1_folded_float32",
    REAL / "survey" / "gemma_scope_2" / "crosscoder" / "layer_1_2_3_4_width_96_l0_medium",
    REAL / "survey" / "saprmarks_BatchTopKSAE" / "trainer_0",
    REAL / "survey" / "gemma_scope_1",
]
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 10**19), st.floats(), st.text(max_size=8),
    st.lists(st.integers(-2, 9), max_size=4), st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
)  # fmt: skip
ARGUMENTS = st.fixed_dictionaries(
    {}, optional={name: VALUES for name in ("center", "hook_points", "scaling_factors", "threshold", "model_index")}
)


@st.composite
def damages(draw):
    """What is done to a folder: a file cut short, bytes changed, a file gone, a setting or a tensor changed."""
    kind = draw(st.sampled_from(["cut", "bytes", "gone", "empty", "setting", "setting", "tensor", "nothing"]))
    return kind, draw(st.integers(0, 10**6)), draw(st.lists(st.integers(0, 255), min_size=1, max_size=4)), draw(VALUES)


def damage(folder: Path, kind: str, number: int, noise: list[int], value) -> None:
    files = sorted(path for path in folder.iterdir() if path.suffix != ".pth")
    path = files[number % len(files)]
    content = path.read_bytes()
    at = number % max(len(content), 1)
    if kind == "cut":
        path.write_bytes(content[:at])
    elif kind == "bytes":
        path.write_bytes(content[:at] + bytes(noise) + content[at + len(noise) :])
    elif kind == "gone":
        path.unlink()
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "setting":
        _change_setting(files, number, value)
    elif kind == "tensor":
        _change_tensor(files, number, noise)


def _change_setting(files: list[Path], number: int, value) -> None:
    for path in files:
        if path.suffix in (".json", ".yaml"):
            text = path.read_text(encoding="utf-8")
            settings = json.loads(text) if path.suffix == ".json" else yaml.load(text, Loader=yaml.BaseLoader)
            settings[list(settings)[number % len(settings)]] = value
            written = json.dumps(settings) if path.suffix == ".json" else yaml.safe_dump(settings)
            path.write_text(written, encoding="utf-8")


def _change_tensor(files: list[Path], number: int, noise: list[int]) -> None:
    for path in files:
        if path.suffix == ".safetensors":
            tensors = load_file(path)
        elif path.suffix == ".pt":
            tensors = torch.load(path, weights_only=True)
        else:
            continue
        name = list(tensors)[number % len(tensors)]
        shape = tuple(size % 5 for size in noise)
        changed = [torch.zeros(shape), tensors[name].float() * torch.nan, tensors[name].long(), tensors[name].flatten()][
            noise[0] % 4
        ]
        tensors[name] = changed.contiguous()
        (save_file if path.suffix == ".safetensors" else torch.save)(tensors, path)


@fuzz(number=st.integers(0, len(FOLDERS) - 1), what=damages(), arguments=ARGUMENTS)
def test_damaged_folders(number, what, arguments):
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / FOLDERS[number].name
        shutil.copytree(FOLDERS[number], folder)
        damage(folder, *what)
        crosscoder = result_or_one_line(load_crosscoder, folder, **arguments)
        if crosscoder is not None:
            assert crosscoder.W_enc.dtype == torch.float32
            assert torch.isfinite(crosscoder.W_enc).all()
            assert torch.isfinite(crosscoder.encode(torch.zeros(1, crosscoder.n_points, crosscoder.d_model))).all()
