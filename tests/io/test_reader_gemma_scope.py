"""Gemma Scope 1 and 2, against a plain calculation from their files."""

import json
import shutil

import numpy as np
import pytest
import torch
from foreign_files import D_MODEL, FEATURES, check, draw, inputs, real_folder, refused, sae_tensors, write
from safetensors.torch import load_file, save_file

from crosscoder_utils import load_crosscoder

CROSSCODER = "survey/gemma_scope_2/crosscoder/layer_1_2_3_4_width_96_l0_medium"
CONFIG = {
    "hf_hook_point_in": "model.layers.2.output",
    "hf_hook_point_out": "model.layers.2.output",
    "width": FEATURES,
    "model_name": "google/gemma-3-270m-pt",
    "architecture": "jump_relu",
    "l0": 50,
    "affine_connection": False,
    "type": "sae",
}
NAMES = ("config.json", "params.safetensors")


def crosscoder_by_hand(folder, raw):
    """Activations and reconstruction: features of file i read hook point i and write to all."""
    parts = [load_file(folder / f"params_layer_{i}.safetensors") for i in range(raw.shape[1])]
    activations, decoded = [], torch.stack([part["b_dec"] for part in parts]).expand_as(raw)
    for point, part in enumerate(parts):
        pre = raw[:, point] @ part["w_enc"] + part["b_enc"]
        activations.append(pre.relu() * (pre > part["threshold"]))
        decoded = decoded + torch.einsum("nf,fpd->npd", activations[-1], part["w_dec"])
    return torch.cat(activations, dim=-1), decoded


def test_a_crosscoder_is_one_exactly():
    folder = real_folder(CROSSCODER)
    raw = inputs(4, 32)
    crosscoder = load_crosscoder(folder)
    assert crosscoder.hook_points == (2, 3, 4, 5) and crosscoder.n_features == 96
    check(crosscoder, raw, *crosscoder_by_hand(folder, raw))
    assert crosscoder.W_enc[0, :, 24:].eq(0).all() and crosscoder.W_enc[3, :, :72].eq(0).all()


def test_layers_in_another_order(tmp_path):
    folder = shutil.copytree(real_folder(CROSSCODER), tmp_path / "copy", copy_function=shutil.copyfile)
    config = json.loads((folder / "config.json").read_text().replace("{1,2,3,4}", "{7, 2, 22, 13}"))
    (folder / "config.json").write_text(json.dumps(config))
    raw = inputs(4, 32)
    activations, decoded = crosscoder_by_hand(folder, raw)
    ascending = [1, 0, 3, 2]
    crosscoder = load_crosscoder(folder)
    assert crosscoder.hook_points == (3, 8, 14, 23)
    check(crosscoder, raw[:, ascending], activations, decoded[:, ascending])


def test_files_of_a_crosscoder_that_are_missing_or_too_many(tmp_path):
    folder = shutil.copytree(real_folder(CROSSCODER), tmp_path / "copy", copy_function=shutil.copyfile)
    shutil.copyfile(folder / "params_layer_3.safetensors", folder / "params_layer_4.safetensors")
    refused(r"holds params_layer_4\.safetensors, but .*config\.json names 4 hook points", folder)
    (folder / "params_layer_4.safetensors").unlink()
    (folder / "params_layer_2.safetensors").unlink()
    refused(r"params_layer_2\.safetensors is missing; a Gemma Scope 2 crosscoder folder holds", folder, FileNotFoundError)
    save_file({"w_enc": torch.ones(3, 3)}, folder / "params_layer_2.safetensors")
    refused(r"params_layer_2\.safetensors: w_enc has shape \(3, 3\), it should be \(32, 24\)", folder)


def sae_by_hand(tensors, x):
    pre = x @ tensors["w_enc"] + tensors["b_enc"]
    activations = pre.relu() * (pre > tensors["threshold"])
    return activations, activations @ tensors["w_dec"] + tensors["b_dec"]


def sae():
    """Weights by Gemma Scope 2's names, some thresholds negative."""
    return {n.lower(): t for n, t in sae_tensors().items()} | {"threshold": torch.linspace(-1, 3, FEATURES)}


def test_a_residual_sae_of_gemma_scope_2(tmp_path):
    crosscoder = load_crosscoder(write(tmp_path, CONFIG, sae(), NAMES))
    assert crosscoder.hook_points == (3,)
    x = inputs(D_MODEL)
    activations, decoded = sae_by_hand(sae(), x)
    check(crosscoder, x[:, None], activations, decoded[:, None])


def test_the_survey_s_sae_of_gemma_scope_2():
    folder = real_folder("survey/gemma_scope_2/resid_post/layer_2_width_16k_l0_medium")
    x = inputs(32)
    activations, decoded = sae_by_hand(load_file(folder / "params.safetensors"), x)
    crosscoder = load_crosscoder(folder)
    assert crosscoder.hook_points == (3,)
    check(crosscoder, x[:, None], activations, decoded[:, None])


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"type": "transcoder"}, "says type: 'transcoder'; of Gemma Scope 2, crosscoders and residual SAEs are read"),
        ({"type": "clt"}, "says type: 'clt'"),
        ({"architecture": "topk"}, "says architecture: 'topk'; only 'jump_relu' is known"),
        ({"affine_connection": True}, "says affine_connection: True; a linear path around the features"),
        ({"hf_hook_point_in": "model.layers.2.mlp.output", "hf_hook_point_out": None}, "is no residual stream between blocks"),
        ({"hf_hook_point_out": "model.layers.3.output"}, "reads 'model.layers.2.output' and writes 'model.layers.3.output'"),
        ({"hf_hook_point_in": None}, "has no hf_hook_point_in"),
        ({"hf_hook_point_in": "model.layers.{1,2}.output", "hf_hook_point_out": None}, "names 2 hook points, an SAE reads one"),
        ({"width": 21}, "says width: 21, its weights have 20 features"),
        ({"input_scale": 2.0}, "has the setting 'input_scale': 2.0, which is not known"),
    ],
)
def test_settings_that_are_not_understood(tmp_path, config, match):
    refused(match, write(tmp_path, CONFIG | config, sae(), NAMES))


def test_an_affine_connection_among_the_tensors(tmp_path):
    tensors = sae() | {"affine_skip_connection": torch.ones(D_MODEL, D_MODEL)}
    refused("holds affine_skip_connection, a linear path around the features", write(tmp_path, CONFIG, tensors, NAMES))


# ---- Gemma Scope 1


def npz(folder, **arrays):
    folder.mkdir(parents=True, exist_ok=True)
    ours = {n: t.numpy() for n, t in (sae_tensors() | {"threshold": torch.linspace(-1, 3, FEATURES)}).items()}
    np.savez(folder / "params.npz", **(ours | arrays))
    return folder


def test_gemma_scope_1_is_read_at_the_layer_of_its_folder(tmp_path):
    crosscoder = load_crosscoder(npz(tmp_path / "layer_20" / "width_16k" / "average_l0_71"))
    assert crosscoder.hook_points == (21,)
    x = inputs(D_MODEL)
    activations, decoded = sae_by_hand(sae(), x)
    check(crosscoder, x[:, None], activations, decoded[:, None])


def test_the_survey_s_sae_of_gemma_scope_1():
    folder = real_folder("survey/gemma_scope_1")
    refused(r"does not say which hook point it reads; give hook_points=\[l\]", folder)
    with np.load(folder / "params.npz") as archive:
        tensors = {name.lower(): torch.from_numpy(archive[name]) for name in archive.files}
    x = inputs(32)
    activations, decoded = sae_by_hand(tensors, x)
    crosscoder = load_crosscoder(folder, hook_points=[21])
    assert crosscoder.hook_points == (21,)
    torch.testing.assert_close(crosscoder.encode(x[:, None]), activations)  # all its weights are zero
    torch.testing.assert_close(crosscoder.decode(activations)[:, 0], decoded)


@pytest.mark.parametrize(
    "place", ["models--google--gemma-scope-2b-pt-mlp/snapshots/0/layer_3/width_16k/l0_5", "embedding/width_4k/l0_5"]
)
def test_places_that_are_no_hook_points(tmp_path, place):
    refused("only residual SAEs|before Gemma scales it", npz(tmp_path / place), hook_points=[3])


def test_arrays_of_objects_are_not_unpickled(tmp_path):
    refused(
        r"params\.npz is damaged \(Object arrays cannot be loaded",
        npz(tmp_path, b_enc=np.array([{}], dtype=object)),
        hook_points=[1],
    )
    refused(r"params\.npz holds arrays of no numbers: b_enc", npz(tmp_path, b_enc=np.array(["a"] * FEATURES)), hook_points=[1])
    refused("b_enc holds int64 numbers", npz(tmp_path, b_enc=np.arange(FEATURES)), hook_points=[1])
    refused("not known here and could change results: scale", npz(tmp_path, scale=np.ones(3)), hook_points=[1])
    np.save(tmp_path / "params.npy", np.ones(3))
    (tmp_path / "params.npy").rename(tmp_path / "params.npz")
    refused(r"params\.npz is a single array", tmp_path, hook_points=[1])


def test_double_precision_is_read_as_float32(tmp_path):
    double = npz(tmp_path, W_enc=draw(D_MODEL, FEATURES).double().numpy())
    assert load_crosscoder(double, hook_points=[1]).W_enc.dtype == torch.float32
