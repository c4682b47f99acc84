"""crosscode and model-diffing: folders of theirs against what they computed, and every layout that they wrote."""

import shutil

import pytest
import torch
import yaml
from foreign_files import D_MODEL, FEATURES, POINTS, check, inputs, real_folder, refused
from real_formats import random_tensors, write_crosscode, write_model_diffing

from crosscoder_utils import load_crosscoder

FOLDERS = [
    "crosscode/m1_p5_jumprelu_eb1_db1_raw_float32",
    "crosscode/m1_p3_relu_eb1_db1_folded_float32",
    "crosscode/m1_p3_topk_eb1_db1_raw_float32",
    "crosscode/m1_p3_jumprelu_eb1_db1_folded_float32",
    "crosscode/m1_p3_jumprelu_eb0_db1_folded_float32",
    "crosscode/m1_p3_batchtopk_eb1_db1_folded_float32",
    "model_diffing_2025_02/d1x5_topk_raw_float32",
    "model_diffing_2025_02/d1x5_jumprelu_folded_float32",
    "model_diffing_2025_03/d1x5_topk_raw_float32",
    "model_diffing_2025_03/d1x5_jumprelu_folded_float32",
]


@pytest.mark.parametrize("name", FOLDERS)
def test_activations_and_reconstruction_are_the_librarys(name):
    folder = real_folder(name)
    right = torch.load(folder / "expected.pth", weights_only=True)
    raw, activations, reconstruction = right["raw"].squeeze(1), right["lat"], right["rec"].squeeze(1)
    arguments = {"scaling_factors": right["scal"].squeeze(0).tolist()} if "_raw_" in name else {}
    if "batchtopk" in name:  # the smallest activation that the batch kept, or just below it
        kept = activations[activations > 0].min()
        arguments["threshold"] = float(kept) * (1 - 1e-6)
    check(load_crosscoder(folder, **arguments), raw, activations, reconstruction)


@pytest.mark.parametrize("month", ["02", "03"])
def test_a_skip_connection_is_refused_by_name(month):
    refused(
        "holds W_skip_XdXd, a skip connection from inputs to outputs",
        real_folder(f"model_diffing_2025_{month}/d1x5_relu_skip_folded_float32"),
    )


@pytest.mark.parametrize("inside", ["artifact", "artifact/model", "run/jan", "run/jan/epoch_0_step_10", "run"])
def test_artifacts_and_runs_load_with_their_hook_points(inside):
    crosscoder = load_crosscoder(real_folder("wandb_artifact") / inside)
    assert crosscoder.hook_points == (0, 1, 2, 3, 4)


NAMES = {
    "JumpReLUActivation": "jumprelu",
    "AnthropicJumpReLUActivation": "jumprelu",
    "AnthropicSTEJumpReLUActivation": "jumprelu",
    "ReLUActivation": "relu",
    "TopkActivation": "topk",
    "BatchTopkActivation": "batchtopk",
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("writer", [write_crosscode, write_model_diffing])
def test_every_class_name(tmp_path, name, writer):
    folder = writer(tmp_path, random_tensors(POINTS, D_MODEL, FEATURES, models=1), NAMES[name])
    path = folder / "model_cfg.yaml"
    written = path.read_text()
    assert "Activation\n" in written
    for other in NAMES:
        written = written.replace(f": {other}\n", f": {name}\n")
    path.write_text(written)
    threshold = 0.5 if NAMES[name] == "batchtopk" else None
    assert load_crosscoder(folder, threshold=threshold).n_features == FEATURES


@pytest.mark.parametrize(
    ("writer", "name"),
    [
        (write_crosscode, "crosscode/m1_p3_jumprelu_eb1_db1_folded_float32"),
        (write_crosscode, "crosscode/m1_p3_topk_eb1_db1_raw_float32"),
        (write_model_diffing, "model_diffing_2025_02/d1x5_jumprelu_folded_float32"),
        (write_model_diffing, "model_diffing_2025_02/d1x5_topk_raw_float32"),
    ],
)
def test_the_tests_own_writers_write_what_the_libraries_do(tmp_path, writer, name):
    theirs, activation = real_folder(name), "topk" if "topk" in name else "jumprelu"
    ours = writer(tmp_path, random_tensors(3, 32, 96, models=1), activation, folded="folded" in name)
    states = [torch.load(folder / "model.pt", weights_only=True) for folder in (ours, theirs)]
    assert {key: (t.ndim, t.dtype) for key, t in states[0].items()} == {key: (t.ndim, t.dtype) for key, t in states[1].items()}
    settings = [yaml.unsafe_load((folder / "model_cfg.yaml").read_text()) for folder in (ours, theirs)]
    assert settings[0].keys() == settings[1].keys()
    for key in ("hidden_activation_classname", "dtype", "use_encoder_bias"):
        assert settings[0].get(key) == settings[1].get(key)
    for inner in [one.get("activation_fn", {"classname": "", "cfg": one.get("hidden_activation_cfg")}) for one in settings]:
        inner["cfg"].pop("k", None)
    assert settings[0].get("activation_fn") == settings[1].get("activation_fn")
    assert settings[0].get("hidden_activation_cfg") == settings[1].get("hidden_activation_cfg")


def test_the_newest_checkpoint_of_a_run_is_that_of_the_largest_numbers(tmp_path):
    for epoch, step, shift in ((0, 9, 1.0), (0, 10, 2.0), (1, 2, 3.0)):
        tensors = random_tensors(2, 4, 6, models=1)
        tensors["b_enc"][:] = shift
        write_crosscode(tmp_path / f"epoch_{epoch}_step_{step}", tensors)
    (tmp_path / "experiment_config.yaml").write_text("hookpoints: [blocks.2.hook_resid_post, blocks.0.hook_resid_post]\n")
    assert load_crosscoder(tmp_path).b_enc.eq(3.0).all()
    shutil.rmtree(tmp_path / "epoch_1_step_2")
    assert load_crosscoder(tmp_path).b_enc.eq(2.0).all()  # 10 is newer than 9
    named = load_crosscoder(tmp_path / "epoch_0_step_9")
    assert named.b_enc.eq(1.0).all() and named.hook_points == (1, 3)


def test_one_hook_point_of_a_crosscoder_over_models(tmp_path):
    folder = write_crosscode(tmp_path, random_tensors(1, D_MODEL, FEATURES, models=2))
    (folder / "experiment_config.yaml").write_text("hookpoint: blocks.4.hook_resid_pre\n")
    assert load_crosscoder(folder, model_index=1).hook_points == (4,)


def change(folder, **settings):
    path = folder / "model_cfg.yaml"
    path.write_text(yaml.dump(yaml.unsafe_load(path.read_text()) | settings))
    return folder


@pytest.fixture
def folder(tmp_path):
    return write_crosscode(tmp_path, random_tensors(POINTS, D_MODEL, FEATURES, models=1))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        (
            {"activation_fn": {"classname": "GroupMaxActivation", "cfg": {"k_groups": 2}}},
            "'GroupMaxActivation', which keeps the largest",
        ),
        ({"activation_fn": {"classname": "SigmoidActivation", "cfg": {}}}, "says activation 'SigmoidActivation'; known are"),
        ({"activation_fn": {"classname": "TopkActivation", "cfg": {}}}, r"model_cfg\.yaml states no k"),
        (
            {"activation_fn": {"classname": "TopkActivation", "cfg": {"k": 21}}},
            r"says k: 21, which is out of range; .* 20 features",
        ),
        (
            {"activation_fn": {"classname": "TopkActivation", "cfg": {"k": 2, "sign": 1}}},
            "has the setting 'sign': 1, which is not known",
        ),
        ({"activation_fn": "ReLU"}, "says activation_fn: 'ReLU'; it must be keys and values"),
        ({"activation_fn": ["ReLU"]}, r"says activation_fn: \['ReLU'\]; it must be keys and values"),
        ({"n_layers_out": 3}, "is a cross-layer transcoder"),
        ({"d_model": 9}, "says d_model: 9, its weights have 8"),
        ({"n_models": 2}, "says n_models: 2, its weights have 1 models"),
        ({"n_latents": "20"}, "says n_latents: '20'; it must be a whole number"),
        ({"inner_norm": True}, "has the setting 'inner_norm': True, which is not known"),
        ({"use_encoder_bias": "yes"}, "says use_encoder_bias: 'yes'; it must be true or false"),
        ({"use_encoder_bias": False}, "holds tensors that are not known here and could change results: b_enc_L"),
    ],
)
def test_settings_that_are_not_understood(folder, settings, match):
    refused(match, change(folder, **settings))


def test_hook_points_that_are_no_names(folder):
    (folder / "experiment_config.yaml").write_text("hookpoints: [5, 6, 7]\n")
    refused(r"experiment_config\.yaml says hookpoints: \[5, 6, 7\]; it must be a list of texts such as", folder)
    (folder / "experiment_config.yaml").write_text("hookpoints: &a [*a]\n")
    refused(r"experiment_config\.yaml says hookpoints: .* it must be a list of texts", folder)


def test_a_window_of_tokens_is_no_second_model(tmp_path):
    folder = write_model_diffing(tmp_path, random_tensors(POINTS, D_MODEL, FEATURES, models=2))
    (folder / "experiment_config.yaml").write_text("data: {token_window_size: 2}\n")
    refused("over a window of tokens", folder, model_index=0)


def test_factors_that_are_folded_already_are_not_folded_again(folder):
    refused(
        "scaling_factors=.* cannot be used: those of .* are folded into its weights already",
        folder,
        scaling_factors=[1.0, 2.0, 3.0],
    )


def test_a_tensor_that_is_not_known(folder):
    state = torch.load(folder / "model.pt", weights_only=True)
    torch.save(state | {"gate_L": torch.ones(FEATURES)}, folder / "model.pt")
    refused(r"model\.pt holds tensors that are not known here and could change results: gate_L", folder)


def test_half_precision_is_read_as_float32(folder):
    single = load_crosscoder(folder)
    state = torch.load(folder / "model.pt", weights_only=True)
    torch.save({n: t.half() if t.is_floating_point() else t for n, t in state.items()}, folder / "model.pt")
    half = load_crosscoder(change(folder, dtype="float16"))
    assert half.W_dec.dtype == torch.float32
    torch.testing.assert_close(half.encode(inputs(POINTS, D_MODEL)), single.encode(inputs(POINTS, D_MODEL)), atol=0.1, rtol=0.1)
