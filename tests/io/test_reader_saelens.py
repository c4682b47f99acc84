"""SAELens: its formulas, the configurations of all its versions, and what cannot be read."""

import json

import pytest
import torch
from foreign_files import D_MODEL, FEATURES, check, inputs, largest, refused, sae_tensors, write

from crosscoder_utils import load_crosscoder

NAMES = ("cfg.json", "sae_weights.safetensors")
HOOK = {"hook_name": "blocks.1.hook_resid_post"}
X = inputs(D_MODEL)


def expected(tensors, keep, minus_bias=True, factor=1.0):
    x = factor * X - (tensors["b_dec"] if minus_bias else 0.0)
    activations = keep(x @ tensors["W_enc"] + tensors["b_enc"])
    return activations, (activations @ tensors["W_dec"] + tensors["b_dec"]) / factor


def compare(crosscoder, activations, reconstruction):
    check(crosscoder, X[:, None], activations, reconstruction[:, None])


def jump(threshold):
    return lambda pre: pre.relu() * (pre > threshold)  # as the library: a ReLU times the mask


@pytest.mark.parametrize("minus_bias", [True, False], ids=["b_dec", "no b_dec"])
@pytest.mark.parametrize("architecture", ["standard", "jumprelu", "topk"])
def test_version_6(tmp_path, architecture, minus_bias):
    tensors = sae_tensors()
    threshold = torch.linspace(-1, 3, FEATURES)  # negative ones too
    keep = {"standard": torch.relu, "jumprelu": jump(threshold), "topk": lambda pre: largest(pre.relu(), 5)}[architecture]
    config = {"architecture": architecture, "d_in": D_MODEL, "d_sae": FEATURES, "dtype": "float32", "device": "cpu"}
    config |= {"normalize_activations": "none", "reshape_activations": "none", "apply_b_dec_to_input": minus_bias}
    config |= {"metadata": HOOK | {"model_name": "m", "sae_lens_version": "6.54.0", "prepend_bos": True, "anything": [1]}}
    config |= {"k": 5, "rescale_acts_by_decoder_norm": False} if architecture == "topk" else {}
    stored = tensors | ({"threshold": threshold} if architecture == "jumprelu" else {})
    crosscoder = load_crosscoder(write(tmp_path, config, stored, NAMES))
    assert crosscoder.hook_points == (2,) and crosscoder.center is False
    compare(crosscoder, *expected(tensors, keep, minus_bias))


@pytest.mark.parametrize(
    "config",
    [
        {"hook_point": "blocks.1.hook_resid_post", "normalize_activations": False, "hook_point_layer": 1},
        {
            "hook_point": "blocks.1.hook_resid_post",
            "hook_point_head_index": None,
            "activation_fn_str": "relu",
            "uses_scaling_factor": False,
        },
        HOOK | {"architecture": "standard", "activation_fn_str": "relu", "activation_fn_kwargs": {}, "hook_head_index": None},
        HOOK
        | {
            "finetuning_scaling_factor": False,
            "normalize_activations": None,
            "l1_coefficient": 5,
            "mse_loss_normalization": None,
        },
    ],
)
def test_versions_before_6(tmp_path, config):
    tensors = sae_tensors()
    crosscoder = load_crosscoder(write(tmp_path, config, tensors | {"scaling_factor": torch.ones(FEATURES)}, NAMES))
    assert crosscoder.hook_points == (2,)
    compare(crosscoder, *expected(tensors, torch.relu))


def test_topk_before_6(tmp_path):
    tensors = sae_tensors()
    config = HOOK | {"architecture": "standard", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 5}}
    compare(load_crosscoder(write(tmp_path, config, tensors, NAMES)), *expected(tensors, lambda pre: largest(pre.relu(), 5)))


def test_the_threshold_of_batch_topk(tmp_path):
    tensors = sae_tensors()
    config = HOOK | {"architecture": "batchtopk", "k": 5.5, "rescale_acts_by_decoder_norm": True, "topk_threshold_lr": 0.01}
    folder = write(tmp_path, config, tensors | {"topk_threshold": torch.tensor(2.0, dtype=torch.float64)}, NAMES)
    norm = tensors["W_dec"].norm(dim=-1)
    activations, _ = expected(tensors, lambda pre: jump(2.0)(pre * norm))
    compare(load_crosscoder(folder), activations, (activations / norm) @ tensors["W_dec"] + tensors["b_dec"])
    refused("BatchTopK says which features are active in a whole batch", write(tmp_path, config, tensors, NAMES))


def test_a_constant_factor_on_the_activations_is_folded_if_it_is_given(tmp_path):
    tensors = sae_tensors()
    folder = write(tmp_path, HOOK | {"normalize_activations": "expected_average_only_in"}, tensors, NAMES)
    refused(
        "expected_average_only_in, whose factor is in no file .*fold_activation_norm_scaling_factor.*; give scaling_factors",
        folder,
    )
    compare(load_crosscoder(folder, scaling_factors=[0.25]), *expected(tensors, torch.relu, factor=0.25))
    (folder / "cfg.json").write_text(json.dumps(HOOK | {"normalize_activations": True}))  # its name before version 4
    compare(load_crosscoder(folder, scaling_factors=[0.25]), *expected(tensors, torch.relu, factor=0.25))


def test_another_configuration_beside_its_own(tmp_path):
    folder = write(tmp_path, HOOK, sae_tensors(), NAMES)
    (folder / "config.json").write_text("{}")
    compare(load_crosscoder(folder), *expected(sae_tensors(), torch.relu))


def test_centred_if_the_model_was_processed(tmp_path):
    config = HOOK | {"model_from_pretrained_kwargs": {"center_writing_weights": True}}
    assert load_crosscoder(write(tmp_path, config, sae_tensors(), NAMES)).center is True


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"architecture": "gated"}, "says architecture 'gated': it switches features on by a second encoder"),
        ({"architecture": "matching_pursuit"}, "says architecture 'matching_pursuit': it picks features one after the other"),
        ({"architecture": "jumprelu_skip_transcoder"}, "it reads one place and writes another"),
        ({"architecture": "mine"}, "says architecture 'mine' with activation 'relu'; known are"),
        ({"activation_fn": "tanh-relu"}, "with activation 'tanh-relu'; known are"),
        ({"architecture": "topk"}, "states no k"),
        ({"architecture": "topk", "k": 2.5}, "says k: 2.5; it must be a whole number"),
        ({"normalize_activations": "layer_norm"}, "'layer_norm'; every token is normalised by its own mean"),
        ({"normalize_activations": "constant_norm_rescale"}, "'constant_norm_rescale'; every token is scaled by its own norm"),
        ({"normalize_activations": "covariance_whitening"}, "'covariance_whitening'; fold it .*fold_activation_whitening"),
        ({"architecture": "topk", "activation_fn": "gelu", "k": 3}, "says architecture 'topk' with activation 'gelu'"),
        ({"normalize_activations": ""}, "says normalize_activations: ''; known are"),
        ({"normalize_activations": 3}, "says normalize_activations: 3; known are"),
        ({"normalize_activations": ["none"]}, r"says normalize_activations: \['none'\]; known are"),
        ({"hook_name": 3}, "says hook_name: 3; it must be a text"),
        ({"hook_name": "blocks.1.hook_mlp_out"}, "'blocks.1.hook_mlp_out' is no residual stream between blocks"),
        (
            {"metadata": {"hook_name": "blocks.2.hook_resid_post"}},
            "names two hook points, blocks.1.hook_resid_post and blocks.2",
        ),
        ({"rescale_acts_by_decoder_norm": True}, "says rescale_acts_by_decoder_norm: True; a relu SAE is saved with the norm"),
        ({"hook_head_index": 2}, "says hook_head_index: 2; it reads one attention head"),
        ({"reshape_activations": "hook_z"}, "says reshape_activations: 'hook_z'; it reads attention heads"),
        ({"metadata": 3}, "says metadata: 3; it must be keys and values"),
        ({"d_in": 9}, r"W_enc has shape \(8, 20\), it should be \(9, 20\)"),
        ({"activation_fn_kwargs": {"signed": True}}, "has the setting 'signed': True, which is not known"),
        ({"encoder_norm": "rms"}, "has the setting 'encoder_norm': 'rms', which is not known here and could change results"),
    ],
)
def test_settings_that_are_not_understood(tmp_path, config, match):
    refused(match, write(tmp_path, HOOK | config, sae_tensors(), NAMES))


def test_the_architecture_is_looked_at_before_the_weights(tmp_path):
    tensors = sae_tensors()
    del tensors["b_enc"]
    gated = tensors | {name: torch.zeros(FEATURES) for name in ("b_gate", "b_mag", "r_mag")}
    refused("says architecture 'gated'", write(tmp_path, HOOK | {"architecture": "gated"}, gated, NAMES))


@pytest.mark.parametrize(
    ("name", "tensor", "match"),
    [
        ("scaling_factor", torch.full((FEATURES,), 2.0), "holds scaling_factor other than 1"),
        ("W_skip", torch.ones(D_MODEL, D_MODEL), "holds W_skip, of a skip_transcoder SAE, which reads one place"),
        ("r_mag", torch.ones(FEATURES), "holds r_mag, of a gated SAE, which switches features on by a second encoder"),
        ("offset", torch.ones(3), "holds tensors that are not known here and could change results: offset"),
        ("W_enc", torch.ones(FEATURES, D_MODEL), r"W_enc has shape \(20, 8\), it should be \(any, 20\)"),
        ("b_dec", torch.ones(D_MODEL + 1), r"b_dec has shape \(9,\), it should be \(8,\)"),
        ("b_enc", torch.ones(FEATURES, dtype=torch.int64), "b_enc holds int64 numbers, not dense floating-point ones"),
    ],
)
def test_tensors_that_are_not_understood(tmp_path, name, tensor, match):
    refused(match, write(tmp_path, HOOK, sae_tensors() | {name: tensor}, NAMES))


def test_a_jumprelu_without_thresholds(tmp_path):
    refused(
        r"sae_weights\.safetensors lacks threshold; it holds",
        write(tmp_path, HOOK | {"architecture": "jumprelu"}, sae_tensors(), NAMES),
    )
