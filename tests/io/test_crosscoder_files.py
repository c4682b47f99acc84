"""Readers of other libraries' crosscoders against encode and decode computed from their tensors by themselves."""

import math
import sys
import types

import pytest
import torch
from real_formats import random_tensors, write_crosscode, write_model_diffing, write_saelens

from crosscoder_utils import Crosscoder, load_crosscoder, save_crosscoder

POINTS, D_MODEL, FEATURES = 3, 8, 20
RESIDUALS = 3 * torch.randn(50, POINTS, D_MODEL, generator=torch.Generator().manual_seed(1))


def encode_by_hand(tensors, model, activation, folded, biases=True):
    """The formats' own formulas, one token and one feature at a time where that matters."""
    W_enc = tensors["W_enc"] if model is None else tensors["W_enc"][model]
    factors = tensors["factors"] if model is None else tensors["factors"][model]
    inputs = RESIDUALS if folded else RESIDUALS * factors[:, None]
    pre = torch.einsum("npd,pdf->nf", inputs, W_enc) + (tensors["b_enc"] if biases else 0.0)
    if activation == "jumprelu":
        return pre * (pre > tensors["log_threshold"].exp())
    if activation == "relu":
        return pre.clamp(min=0)
    out = torch.zeros_like(pre)
    for row, values in enumerate(pre):
        for feature in values.argsort(descending=True)[:5]:
            out[row, feature] = values[feature]
    return out


def decode_by_hand(tensors, model, activations, folded, biases=True):
    W_dec = tensors["W_dec"] if model is None else tensors["W_dec"][:, model]
    b_dec = tensors["b_dec"] if model is None else tensors["b_dec"][model]
    factors = tensors["factors"] if model is None else tensors["factors"][model]
    decoded = torch.einsum("nf,fpd->npd", activations, W_dec) + (b_dec if biases else 0.0)
    return decoded if folded else decoded / factors[:, None]


def check(crosscoder: Crosscoder, tensors, model, activation, folded, tmp_path, biases=True):
    expected = encode_by_hand(tensors, model, activation, folded, biases)
    assert 0 < (expected != 0).float().mean() < 1
    torch.testing.assert_close(crosscoder.encode(RESIDUALS), expected, atol=1e-5, rtol=1e-5)
    decoded = decode_by_hand(tensors, model, expected, folded, biases)
    torch.testing.assert_close(crosscoder.decode(crosscoder.encode(RESIDUALS)), decoded, atol=1e-4, rtol=1e-5)
    save_crosscoder(crosscoder, tmp_path / "ours")
    again = load_crosscoder(tmp_path / "ours")
    assert (again.center, again.hook_points, again.k) == (crosscoder.center, crosscoder.hook_points, crosscoder.k)
    torch.testing.assert_close(again.encode(RESIDUALS), crosscoder.encode(RESIDUALS), atol=1e-6, rtol=0)
    torch.testing.assert_close(again.decode(expected), crosscoder.decode(expected), atol=1e-6, rtol=0)


@pytest.mark.parametrize("folded", [True, False], ids=["folded", "unfolded"])
@pytest.mark.parametrize("activation", ["jumprelu", "relu", "topk"])
@pytest.mark.parametrize("models", [None, 1])
def test_model_diffing(tmp_path, activation, folded, models):
    tensors = random_tensors(POINTS, D_MODEL, FEATURES, models)
    folder = write_model_diffing(tmp_path / "theirs", tensors, activation, folded)
    factors = None if folded else tensors["factors"].flatten().tolist()
    model = None if models is None else 0
    check(load_crosscoder(folder, scaling_factors=factors), tensors, model, activation, folded, tmp_path)


@pytest.mark.parametrize("folded", [True, False], ids=["folded", "unfolded"])
@pytest.mark.parametrize("biases", [True, False], ids=["biases", "no biases"])
@pytest.mark.parametrize("activation", ["jumprelu", "relu", "topk"])
def test_crosscode(tmp_path, activation, folded, biases):
    tensors = random_tensors(POINTS, D_MODEL, FEATURES, models=2)
    folder = write_crosscode(tmp_path / "theirs", tensors, activation, folded, biases)
    factors = None if folded else tensors["factors"][1].tolist()
    crosscoder = load_crosscoder(folder, scaling_factors=factors, model_index=1)
    check(crosscoder, tensors, 1, activation, folded, tmp_path, biases)


def test_hook_points_are_taken_from_the_experiment_and_sorted(tmp_path):
    tensors = random_tensors(POINTS, D_MODEL, FEATURES)
    names = ["blocks.5.hook_resid_post", "blocks.0.hook_resid_pre", "blocks.2.hook_resid_post"]
    crosscoder = load_crosscoder(write_model_diffing(tmp_path, tensors, hook_points=names))
    assert crosscoder.hook_points == (0, 3, 6)
    ascending = torch.stack([RESIDUALS[:, 1], RESIDUALS[:, 2], RESIDUALS[:, 0]], dim=1)
    torch.testing.assert_close(crosscoder.encode(ascending), encode_by_hand(tensors, None, "jumprelu", True))


@pytest.mark.parametrize("config", [{}, {"apply_b_dec_to_input": False}], ids=["b_dec", "no b_dec"])
@pytest.mark.parametrize("architecture", ["standard", "jumprelu", "topk"])
def test_saelens(tmp_path, architecture, config):
    tensors = {
        name: t.squeeze(1) if name == "W_dec" else t.squeeze(0) for name, t in random_tensors(1, D_MODEL, FEATURES).items()
    }
    k = {"k": 5} if architecture == "topk" else {}
    crosscoder = load_crosscoder(write_saelens(tmp_path, tensors, architecture, **config, **k))
    assert crosscoder.hook_points == (2,)
    x = RESIDUALS[:, :1]
    shifted = x[:, 0] - tensors["b_dec"] if config.get("apply_b_dec_to_input", True) else x[:, 0]
    pre = shifted @ tensors["W_enc"] + tensors["b_enc"]
    limit = tensors["log_threshold"].exp() if architecture == "jumprelu" else torch.zeros(FEATURES)
    expected = torch.where(pre > limit, pre, 0.0)
    if architecture == "topk":
        expected = torch.where(expected >= expected.topk(5).values[:, -1:], expected, 0.0)
    torch.testing.assert_close(crosscoder.encode(x), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        crosscoder.decode(expected)[:, 0], expected @ tensors["W_dec"] + tensors["b_dec"], atol=1e-5, rtol=1e-5
    )


def test_saelens_activations_scaled_by_decoder_norm(tmp_path):
    tensors = {
        name: t.squeeze(1) if name == "W_dec" else t.squeeze(0) for name, t in random_tensors(1, D_MODEL, FEATURES).items()
    }
    folder = write_saelens(tmp_path, tensors, "topk", k=5, rescale_acts_by_decoder_norm=True)
    crosscoder, x, norm = load_crosscoder(folder), RESIDUALS[:, :1], tensors["W_dec"].norm(dim=-1)
    scaled = (((x[:, 0] - tensors["b_dec"]) @ tensors["W_enc"] + tensors["b_enc"]) * norm).clamp(min=0)
    scaled = torch.where(scaled >= scaled.topk(5).values[:, -1:], scaled, 0.0)
    expected = (scaled / norm) @ tensors["W_dec"] + tensors["b_dec"]
    torch.testing.assert_close(crosscoder.decode(crosscoder.encode(x))[:, 0], expected, atol=1e-4, rtol=1e-4)


def test_batch_topk_gets_a_threshold_at_which_k_features_are_active(tmp_path):
    tensors = random_tensors(POINTS, D_MODEL, FEATURES)
    folder = write_model_diffing(tmp_path, tensors, "batchtopk")
    with pytest.raises(ValueError, match="BatchTopK says which features are active in a whole batch.*k=5"):
        load_crosscoder(folder)
    threshold = load_crosscoder(folder, threshold=0.0).threshold_for(RESIDUALS, k=5)
    crosscoder = load_crosscoder(folder, threshold=threshold)
    active = crosscoder.encode(RESIDUALS)
    assert (active > 0).float().sum(-1).mean() == pytest.approx(5)
    flat = encode_by_hand(tensors, None, "relu", True).flatten()  # the k * batch largest of the batch
    largest = torch.where(flat >= flat.topk(5 * len(RESIDUALS)).values[-1], flat, 0.0)
    torch.testing.assert_close(active.flatten(), largest, atol=1e-5, rtol=1e-5)


def test_arguments_overrule_the_files(tmp_path):
    folder = write_model_diffing(tmp_path, random_tensors(POINTS, D_MODEL, FEATURES))
    crosscoder = load_crosscoder(folder, center=True, hook_points=[1, 2, 4])
    assert crosscoder.center and crosscoder.hook_points == (1, 2, 4)
    moved = RESIDUALS + torch.randn(50, POINTS, 1)
    torch.testing.assert_close(crosscoder.encode(moved), crosscoder.encode(RESIDUALS), atol=1e-4, rtol=1e-4)


# ---- bad files


def refused(match, folder, error=ValueError, **kwargs):
    with pytest.raises(error, match=match) as info:
        load_crosscoder(folder, **kwargs)
    assert "\n" not in str(info.value)


def test_a_pickle_with_code_in_it_is_refused_and_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    write_model_diffing(tmp_path, random_tensors(POINTS, D_MODEL, FEATURES))
    torch.save({"W_enc_XDH": Evil()}, tmp_path / "model.pt")
    refused("holds more than tensors.*might run code", tmp_path)
    assert not (tmp_path / "ran").exists()


def test_yaml_with_an_object_of_python_is_refused_and_not_made(tmp_path):
    write_model_diffing(tmp_path, random_tensors(POINTS, D_MODEL, FEATURES))
    (tmp_path / "model_cfg.yaml").write_text(
        f"hidden_activation_classname: !!python/object/apply:os.mkdir ['{tmp_path / 'ran'}']\n"
    )
    refused("cannot be read as YAML of plain data", tmp_path)
    assert not (tmp_path / "ran").exists()


def test_truncated_files(tmp_path):
    write_model_diffing(tmp_path / "a", random_tensors(POINTS, D_MODEL, FEATURES))
    whole = (tmp_path / "a" / "model.pt").read_bytes()
    (tmp_path / "a" / "model.pt").write_bytes(whole[: len(whole) // 2])
    refused(r"model\.pt is damaged or cut short.*fetch it again", tmp_path / "a")
    save_crosscoder(load_crosscoder(write_model_diffing(tmp_path / "b", random_tensors(2, 4, 6))), tmp_path / "c")
    whole = (tmp_path / "c" / "crosscoder.safetensors").read_bytes()
    (tmp_path / "c" / "crosscoder.safetensors").write_bytes(whole[:-10])
    refused("is not a readable safetensors file.*fetch it again", tmp_path / "c")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite(tmp_path, value):
    tensors = random_tensors(POINTS, D_MODEL, FEATURES)
    tensors["W_dec"][3, 1, 2] = value
    refused("W_dec of the crosscoder in .* has 1 values that are NaN or infinite", write_model_diffing(tmp_path, tensors))


def test_unfolded_without_factors(tmp_path):
    folder = write_model_diffing(tmp_path, random_tensors(POINTS, D_MODEL, FEATURES), folded=False)
    refused(r"is not folded.*give scaling_factors", folder)
    refused(r"scaling_factors=\[1\.0, 2\.0\] should be 3 positive numbers", folder, scaling_factors=[1.0, 2.0])


def test_several_models(tmp_path):
    folder = write_crosscode(tmp_path, random_tensors(POINTS, D_MODEL, FEATURES, models=2))
    refused(r"over 2 models; choose one with model_index=0\.\.1", folder)
    refused(r"model_index=2 does not exist .* it has 0\.\.1", folder, model_index=2)


def test_files_that_are_missing(tmp_path):
    refused(r"config\.json is missing; a crosscoder folder holds", tmp_path, FileNotFoundError)
    write_model_diffing(tmp_path, random_tensors(POINTS, D_MODEL, FEATURES))
    (tmp_path / "model_cfg.yaml").unlink()
    refused(r"model_cfg\.yaml is missing", tmp_path, FileNotFoundError)


def test_hook_points_that_do_not_fit(tmp_path):
    folder = write_model_diffing(tmp_path, random_tensors(POINTS, D_MODEL, FEATURES))
    refused(r"hook_points=\(0, 1\) do not fit weights with 3 hook points; give 3 different ones", folder, hook_points=[0, 1])
    (tmp_path / "experiment_config.yaml").write_text("hookpoints: [blocks.0.hook_mlp_out, a, b]\n")
    refused(r"'blocks\.0\.hook_mlp_out' is no residual stream", folder)


def test_a_sae_whose_inputs_are_normalized_is_refused(tmp_path):
    tensors = {
        name: t.squeeze(1) if name == "W_dec" else t.squeeze(0) for name, t in random_tensors(1, D_MODEL, FEATURES).items()
    }
    refused("fold_activation_norm_scaling_factor", write_saelens(tmp_path, tensors, normalize_activations="layer_norm"))


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    crosscoder = load_crosscoder(write_model_diffing(tmp_path / "theirs", random_tensors(2, 4, 6)))
    save_crosscoder(crosscoder, tmp_path / "ours")
    before = {path.name: path.read_bytes() for path in (tmp_path / "ours").iterdir()}

    def full(tensors, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("crosscoder_utils.io.crosscoder_files.save_file", full)
    with pytest.raises(OSError, match=r"no space left to write .*crosscoder\.safetensors; free some"):
        save_crosscoder(crosscoder, tmp_path / "ours")
    assert {path.name: path.read_bytes() for path in (tmp_path / "ours").iterdir()} == before


def test_an_artifact_is_read_from_where_wandb_puts_it(tmp_path, monkeypatch):
    folder = write_model_diffing(tmp_path, random_tensors(POINTS, D_MODEL, FEATURES))

    class Artifact:
        def download(self):
            return str(folder)

    class Api:
        def artifact(self, name):
            if name != "team/project/run:v3":
                raise Refused("no such artifact")
            return Artifact()

    class Refused(Exception):
        pass

    wandb = types.SimpleNamespace(Api=Api, errors=types.SimpleNamespace(Error=Refused))
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    assert load_crosscoder("wandb:team/project/run:v3").n_features == FEATURES
    refused("artifact 'team/project/none:v1' cannot be read", "wandb:team/project/none:v1", FileNotFoundError)
    monkeypatch.setitem(sys.modules, "wandb", None)  # not installed
    refused("needs the package wandb; `pip install wandb`", "wandb:team/project/run:v3", ImportError)
