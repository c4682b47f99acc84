"""Crosscoders on the hub: exactly the files that their format needs are fetched, and the cache does without a network."""

import os
import subprocess
import sys

import pytest
from fake_hub import FakeHub
from foreign_files import D_MODEL, FEATURES, POINTS, refused
from httpx import Request, Response
from huggingface_hub.errors import GatedRepoError
from real_formats import random_tensors, write_crosscode, write_saelens

from crosscoder_utils import load_crosscoder
from crosscoder_utils.io.readers import find_crosscoder
from crosscoder_utils.io.sources import Source, list_files, parse_source, reading

SAE = ["cfg.json", "sae_weights.safetensors"]


def names(*folders, files=SAE):
    return [f"{folder}/{name}" for folder in folders for name in files]


@pytest.mark.parametrize(
    ("files", "subfolder", "needed"),
    [
        ([*SAE, "sparsity.safetensors", "README.md", "optimizer.pt"], "", {*SAE}),
        (names("layer_1"), "layer_1", {*SAE}),
        (["config.json", *names("a/b/blocks.1"), "model.safetensors.index.json"], "a/b/blocks.1", {*SAE}),
        (["params_layer_0.safetensors", "params_layer_1.safetensors", "config.json", "other.safetensors"], "", "but the last"),
        (["0.pt", "0_cfg.json", "10.pt", "10_cfg.json", "9.pt", "9_cfg.json", "11.pt"], "", {"10.pt", "10_cfg.json"}),
        (
            [
                "run/experiment_config.yaml",
                *names("run/epoch_0_step_9", "run/epoch_0_step_10", files=["model.pt", "model_cfg.yaml"]),
            ],
            "run",
            {"experiment_config.yaml", "epoch_0_step_10/model.pt", "epoch_0_step_10/model_cfg.yaml"},
        ),
        (
            ["../experiment_config.yaml", "../other.yaml", "model.pt", "model_cfg.yaml"],
            "",
            {"../experiment_config.yaml", "model.pt", "model_cfg.yaml"},
        ),
        (
            ["experiment_config.yaml", "model/model.pt", "model/model_cfg.yaml", "log.txt"],
            "",
            {"experiment_config.yaml", "model/model.pt", "model/model_cfg.yaml"},
        ),
    ],
)
def test_the_files_that_a_format_needs(files, subfolder, needed):
    found = find_crosscoder(files, "owner/name")
    assert found.subfolder == subfolder and set(found.files) == (set(files[:-1]) if needed == "but the last" else needed)


def test_a_repository_of_several_crosscoders_names_some():
    files = ["config.json", *names("resid_post/layer_1", "resid_post/layer_2", "resid_post/layer_3", "resid_post/layer_4")]
    with pytest.raises(ValueError, match=r"holds 4 folders .*'owner/name/resid_post/layer_1', 'owner/name/resid_post/layer_2'"):
        find_crosscoder(files, "owner/name@main")


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("owner/name", ("owner/name", "", None)),
        ("owner/name@v1", ("owner/name", "", "v1")),
        ("owner/name/a b/ünï@refs/pr/1", ("owner/name", "a b/ünï", "refs/pr/1")),
        ("owner/name/layer_1/", ("owner/name", "layer_1", None)),
    ],
)
def test_hub_names(source, parts):
    found = parse_source(source)
    assert (found.name, found.subfolder, found.revision) == parts and str(found) == source.rstrip("/")


def test_files_beside_a_subfolder_are_listed_too(monkeypatch):
    files = ["top.yaml", "run/experiment_config.yaml", "run/epoch_0/model.pt", "run/epoch_1/model.pt"]
    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", lambda api, repo, revision: files)
    assert list_files(Source("owner/name", "run/epoch_0")) == ["model.pt", "../experiment_config.yaml"]
    assert list_files(Source("owner/name")) == files
    with pytest.raises(FileNotFoundError, match="has no folder 'nothing'"):
        list_files(Source("owner/name", "nothing"))


def test_a_hub_that_cannot_be_reached():
    refused("'owner/none-such' cannot be read .*offline, fetch it beforehand", "owner/none-such", FileNotFoundError)


def test_remedies_name_the_repository():
    refused("`hf download owner/none-such --include 'a/b/\\*'`", "owner/none-such/a/b@v1", FileNotFoundError)
    gated = GatedRepoError("Access is restricted", response=Response(403, request=Request("GET", "http://x")))
    match = "accept its licence at https://huggingface.co/owner/name, and log in"
    with pytest.raises(FileNotFoundError, match=match), reading("owner/name/a/b"):
        raise gated


def test_a_missing_folder_names_those_beside_it(monkeypatch):
    names = ["crosscoder/layer_1/a.bin", "crosscoder/layer_2/a.bin", "resid_post/layer_1/a.bin", "README.md"]
    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", lambda api, repo, revision: names)
    with pytest.raises(FileNotFoundError, match="has no folder 'crosscoder/layer_3'; there are layer_1, layer_2$"):
        list_files(Source("owner/name", "crosscoder/layer_3"))


def test_a_cache_that_may_not_be_read_is_no_reason_to_fetch_again(monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied", "the cache")

    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", lambda api, repo, revision: SAE)
    monkeypatch.setattr("crosscoder_utils.io.sources.snapshot_download", refuse)
    with pytest.raises(FileNotFoundError, match="cannot be read .*your user may not read it") as info:
        load_crosscoder("owner/name")
    assert "fetch" not in str(info.value) and "download" not in str(info.value)


CODE = """
import sys
from crosscoder_utils import load_crosscoder
for source in map(str.strip, sys.stdin):
    try:
        found = load_crosscoder(source)
        print(found.n_features, found.hook_points, flush=True)
    except Exception as error:
        print(type(error).__name__, error, flush=True)
"""


@pytest.fixture
def elsewhere(tmp_path):
    """Starts a process with this hub and a cache of its own; the function that it returns loads sources there."""
    running = []

    def start(address: str):
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        kept |= {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        running.append(subprocess.Popen([sys.executable, "-c", CODE], env=kept, **pipes))

        def load(source: str) -> str:
            print(source, file=running[-1].stdin, flush=True)
            return running[-1].stdout.readline().rstrip()

        return load

    yield start
    for process in running:
        process.communicate()


def test_a_repository_is_fetched_file_by_file_and_read_from_the_cache(tmp_path, monkeypatch, elsewhere):
    repository = tmp_path / "repository"
    for step in (9, 10):
        write_crosscode(repository / "run" / f"epoch_0_step_{step}", random_tensors(POINTS, D_MODEL, FEATURES, 1, seed=step))
    (repository / "run" / "experiment_config.yaml").write_text(
        f"hookpoints: {[f'blocks.{i}.hook_resid_post' for i in range(POINTS)]}\n"
    )
    one_layer = {
        name: t.squeeze(1) if name == "W_dec" else t.squeeze(0) for name, t in random_tensors(1, D_MODEL, FEATURES).items()
    }
    for layer in (1, 2):
        write_saelens(repository / "saes" / f"layer {layer}", one_layer)
    (repository / "huge.safetensors").write_bytes(b"0" * 1000)
    hub = FakeHub(repository)
    sources = ["owner/name/run", "owner/name/saes/layer 2", "owner/name", "owner/name/run/epoch_0_step_9"]
    load = elsewhere(hub.address)
    first = [load(source) for source in sources]
    hub.shutdown()
    hub.server_close()
    assert first[:2] == [f"{FEATURES} (1, 2, 3)", f"{FEATURES} (2,)"] and first[3] == f"{FEATURES} (1, 2, 3)"
    assert first[2].startswith("ValueError owner/name holds 3 folders that may be crosscoders")
    run = ["run/epoch_0_step_10/model.pt", "run/epoch_0_step_10/model_cfg.yaml", "run/experiment_config.yaml"]
    other = ["run/epoch_0_step_9/model.pt"]  # its configuration has the same content and is in the cache already
    assert sorted(hub.fetched) == sorted([*run, *other, *names("saes/layer 2")])
    assert [load(source) for source in sources[:2]] == first[:2]  # the server is gone
    monkeypatch.setattr(
        "huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "home" / "hub")
    )  # here the hub is switched off
    assert [load_crosscoder(source).hook_points for source in sources[:2]] == [(1, 2, 3), (2,)]
