"""Crosscoder files, ours and those of crosscode, against plain formulas; arguments; and files that are damaged."""

import dataclasses
import io
import json
import math
import sys
import types

import jaxtyping
import numpy as np
import pytest
import torch
from foreign_files import D_MODEL, FEATURES, POINTS, refused
from real_formats import random_tensors, write_crosscode, write_model_diffing
from safetensors.torch import load_file, save_file

from crosscoder_utils import Crosscoder, load_crosscoder, save_crosscoder

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


# ---- damaged files, in every way that one was seen


def own(folder, config=None, **tensors):
    """A folder in our own format with other settings or tensors; None takes one out."""
    save_crosscoder(
        load_crosscoder(write_model_diffing(folder / "theirs", random_tensors(POINTS, D_MODEL, FEATURES))), folder / "ours"
    )
    path = folder / "ours" / "config.json"
    if config is not None:
        path.write_text(json.dumps(json.loads(path.read_text()) | config if isinstance(config, dict) else config))
    weights = folder / "ours" / "crosscoder.safetensors"
    save_file({name: t for name, t in (load_file(weights) | tensors).items() if t is not None}, weights)
    return folder / "ours"


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ([1], r"config\.json holds \[1\], not keys and values"),
        ("text", r"config\.json holds 'text', not keys and values"),
        (3, r"config\.json holds 3, not keys and values"),
        ({"center": "no"}, r"config\.json says center: 'no'; it must be true or false"),
        ({"center": 1}, "says center: 1; it must be true or false"),
        ({"hook_points": ["0", "1", "2"]}, "says hook_points: .* it must be a list of whole numbers"),
        ({"hook_points": 5}, "says hook_points: 5; it must be a list of whole numbers"),
        ({"hook_points": [0.5, 1, 2]}, "says hook_points: .* it must be a list of whole numbers"),
        ({"hook_points": [0, 1, -2]}, "says hook_points: .* it must be a list of whole numbers"),
        ({"hook_points": [2, 1, 0]}, r"hook_points=\(2, 1, 0\) do not fit weights with 3 hook points"),
        ({"hook_points": [0, 1]}, r"hook_points=\(0, 1\) do not fit weights with 3 hook points"),
        ({"k": 2.5}, "says k: 2.5; it must be a whole number"),
        ({"k": "8"}, "says k: '8'; it must be a whole number"),
        ({"k": 10**400}, "says k: 1000.* it must be a whole number"),
        ({"k": True}, "says k: True; it must be a whole number"),
        ({"k": 0}, "says k: 0, which is out of range; its weights have 20 features"),
        ({"k": 21}, "says k: 21, which is out of range"),
        ({"format": None}, "says format None, not 'crosscoder_utils'"),
        ({"format": {}}, "says format {}, not 'crosscoder_utils'"),
        ({"activation": "gelu"}, "says activation: 'gelu'; only 'jumprelu'"),
        ({"n_features": 21}, "says n_features: 21, its weights have 20 features"),
        ({"n_points": "3"}, "says n_points: '3'; it must be a whole number"),
        ({"input_scale": 2}, "has the setting 'input_scale': 2, which is not known here and could change results"),
    ],
)
def test_configurations_that_are_wrong(tmp_path, config, match):
    refused(match, own(tmp_path, config))


def test_a_configuration_that_is_null(tmp_path):
    folder = own(tmp_path)
    (folder / "config.json").write_text("null")
    refused(r"config\.json holds None, not keys and values", folder)


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        ({"W_enc": torch.ones(8, 20)}, r"crosscoder\.safetensors: W_enc has shape \(8, 20\), it should be \(any, any, any\)"),
        ({"W_enc": torch.ones(3, 20, 8)}, r"says d_model: 8, its weights have 20 d_model"),
        ({"W_dec": torch.ones(3, 20, 8)}, r"W_dec has shape \(3, 20, 8\), it should be \(20, 3, 8\)"),
        ({"b_enc": torch.ones(21)}, r"b_enc has shape \(21,\), it should be \(20,\)"),
        ({"threshold": torch.tensor(1.0)}, r"threshold has shape \(\), it should be \(20,\)"),
        ({"W_enc": torch.ones(3, 8, 20, dtype=torch.int32)}, "W_enc holds int32 numbers"),
        ({"b_dec": torch.ones(3, 8, dtype=torch.complex64)}, "b_dec holds complex64 numbers"),
        ({"W_enc": torch.ones(3, 8, 0)}, r"W_enc has shape \(3, 8, 0\)"),
        (
            {"threshold": None},
            r"crosscoder\.safetensors lacks threshold; it holds W_dec, W_enc, b_dec, b_enc: take a complete file",
        ),
        ({"a\nb": torch.ones(2)}, "could change results: a b;"),
        ({"W_skip": torch.ones(2)}, "holds tensors that are not known here and could change results: W_skip"),
    ],
)
def test_tensors_that_are_wrong(tmp_path, tensors, match):
    refused(match, own(tmp_path, **tensors))


BYTES = {
    "empty": (b"", r"is empty \(0 bytes\); fetch it again"),
    "git lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 123\n",
        "is a pointer of Git LFS, not the file",
    ),
    "a page": (b"<html>404</html>", "fetch it"),
    "zeros": (bytes(500), "fetch it"),
    "random": (bytes(np.random.default_rng(0).integers(0, 256, 3000, dtype=np.uint8)), "fetch it"),
    "deep": (b"[" * 200_000, "fetch it|cannot be read as YAML"),
    "latin-1": ("é".encode("latin-1") * 50, "fetch it|cannot be read as YAML"),
}


@pytest.mark.parametrize("what", BYTES)
@pytest.mark.parametrize("name", ["config.json", "crosscoder.safetensors", "model.pt", "model_cfg.yaml", "params.npz"])
def test_files_that_are_no_such_files(tmp_path, name, what):
    folder = own(tmp_path) if name.startswith(("config", "crosscoder")) else tmp_path / "theirs"
    if not folder.is_dir():
        write_model_diffing(folder, random_tensors(POINTS, D_MODEL, FEATURES))
    if name == "params.npz":
        (folder / "model.pt").unlink()
        (folder / "model_cfg.yaml").unlink()
    content, match = BYTES[what]
    (folder / name).write_bytes(content)
    if name == "model_cfg.yaml" and what in ("a page", "zeros", "random"):
        match = "model_cfg.yaml (holds|cannot be read as YAML|is no text in UTF-8)"
    refused(match, folder, hook_points=[1])


@pytest.mark.parametrize("kept", [0.02, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("name", ["crosscoder.safetensors", "model.pt", "params.npz"])
def test_files_that_are_cut_short(tmp_path, name, kept):
    folder = own(tmp_path)
    if name != "crosscoder.safetensors":
        folder = tmp_path / "other"
        write_model_diffing(folder, random_tensors(POINTS, D_MODEL, FEATURES))
    if name == "params.npz":
        (folder / "model.pt").unlink()
        (folder / "model_cfg.yaml").unlink()
        np.savez(folder / name, W_enc=np.ones((8, 20), "f4"))
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: int(len(whole) * kept)])
    refused(rf"{name} is (damaged|not a readable).*fetch it again", folder, hook_points=[1])


def test_a_folder_in_the_place_of_a_file(tmp_path):
    folder = own(tmp_path)
    (folder / "crosscoder.safetensors").unlink()
    (folder / "crosscoder.safetensors").mkdir()
    refused(r"crosscoder\.safetensors is a folder, not a file; a crosscoder folder holds", folder)


@pytest.mark.parametrize("content", [[1.0], {"W_enc_XDH": 1}, {1: torch.ones(2)}, {"a": {"b": torch.ones(2)}}, torch.ones(3)])
def test_pickles_of_something_else(tmp_path, content):
    write_model_diffing(tmp_path, random_tensors(POINTS, D_MODEL, FEATURES))
    torch.save(content, tmp_path / "model.pt")
    refused(r"model\.pt is not a state dict of tensors; save the model's state_dict\(\)", tmp_path)


@pytest.mark.parametrize(
    ("error", "match"),
    [
        (PermissionError(13, "Permission denied"), "may not be read by your user .* the file itself may be in order"),
        (
            OSError(24, "Too many open files"),
            "cannot be read: the system reports 'Too many open files'; the file itself may be in order",
        ),
        (OSError(5, "Input/output error"), "cannot be read: the system reports 'Input/output error'"),
    ],
)
@pytest.mark.parametrize("name", ["config.json", "crosscoder.safetensors"])
def test_a_file_that_cannot_be_opened_is_not_a_broken_one(tmp_path, monkeypatch, name, error, match):
    folder, really = own(tmp_path), io.open

    def opens(file, *args, **kwargs):
        if str(file).endswith(f"ours/{name}"):
            raise error
        return really(file, *args, **kwargs)

    monkeypatch.setattr("io.open", opens)
    with pytest.raises(ValueError, match=match) as info:
        load_crosscoder(folder)
    assert "fetch" not in str(info.value) and "delete" not in str(info.value) and "\n" not in str(info.value)


def test_a_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    folder = own(tmp_path)

    def listdir(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.listdir", listdir)
    refused("cannot be read .*your user may not read it: ask its owner for permission", folder, FileNotFoundError)


def test_numbers_of_numpy_are_saved(tmp_path, no_type_checks):
    crosscoder = dataclasses.replace(load_crosscoder(own(tmp_path)), hook_points=(np.int64(1), np.int64(2), 4), k=np.int64(3))
    save_crosscoder(crosscoder, tmp_path / "again")
    again = load_crosscoder(tmp_path / "again")
    assert again.hook_points == (1, 2, 4) and again.k == 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_any_precision_are_loaded_as_float32(tmp_path, dtype):
    folder = own(tmp_path)
    single = load_crosscoder(folder)
    save_crosscoder(single.to(dtype), tmp_path / "other")
    again = load_crosscoder(tmp_path / "other")
    for name in ("W_enc", "b_enc", "threshold", "W_dec", "b_dec"):
        assert getattr(again, name).dtype == torch.float32
        torch.testing.assert_close(getattr(again, name), getattr(single, name).to(dtype).float(), atol=0, rtol=0)


@pytest.fixture
def no_type_checks():
    """Users have none: an error has to come from the package itself."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"center": "no"}, "center='no' must be true or false"),
        ({"center": 1}, "center=1 must be true or false"),
        ({"hook_points": 5}, "hook_points=5 must be a list of whole numbers"),
        ({"hook_points": "012"}, "hook_points='012' must be a list of whole numbers"),
        ({"hook_points": [0, 1, 2.5]}, "hook_points=.* must be a list of whole numbers"),
        ({"hook_points": [0, 1, True]}, "hook_points=.* must be a list of whole numbers"),
        ({"hook_points": []}, r"hook_points=\(\) do not fit"),
        ({"scaling_factors": 2.0}, "scaling_factors=2.0: should be positive numbers, one per hook point"),
        ({"scaling_factors": [1.0, 0.0, 1.0]}, "scaling_factors=.*should be positive numbers"),
        ({"scaling_factors": [1.0, math.nan, 1.0]}, "scaling_factors=.*should be positive numbers"),
        ({"scaling_factors": [1.0, 1.0, 1.0]}, "scaling_factors=.* cannot be used: this package's files"),
        ({"threshold": "0.1"}, "threshold='0.1' must be a finite number"),
        ({"threshold": 10**400}, "threshold=1000.* must be a finite number"),
        ({"scaling_factors": [10**400]}, "scaling_factors=.*should be positive numbers"),
        ({"threshold": math.inf}, "threshold=inf must be a finite number"),
        ({"model_index": -1}, "model_index=-1 must be a whole number, 0 or more"),
        ({"model_index": 1.0}, "model_index=1.0 must be a whole number"),
        ({"model_index": 1}, "model_index=1 does not exist in .*; a crosscoder folder holds one model"),
    ],
)
def test_arguments_that_are_wrong(tmp_path, no_type_checks, arguments, match):
    refused(match, own(tmp_path), **arguments)


def test_arguments_of_numpy_and_torch(tmp_path, no_type_checks):
    folder = own(tmp_path, {"k": 3})
    crosscoder = load_crosscoder(folder, hook_points=np.array([1, 2, 4]), threshold=torch.tensor(0.5), center=np.bool_(True))
    assert crosscoder.hook_points == (1, 2, 4) and crosscoder.center is True and crosscoder.threshold.eq(0.5).all()


@pytest.mark.parametrize("name", ["with space", "ünïcödé", "日本", "a'b", "[x]*?", "v1.0@2"])
def test_any_folder_name(tmp_path, name):
    crosscoder = load_crosscoder(own(tmp_path))
    save_crosscoder(crosscoder, tmp_path / name / "inner")
    assert load_crosscoder(tmp_path / name / "inner").digest() == crosscoder.digest()


def test_the_home_folder(tmp_path, monkeypatch):
    crosscoder = load_crosscoder(own(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    save_crosscoder(crosscoder, "~/cc")
    assert load_crosscoder("~/cc").digest() == crosscoder.digest()
    assert (tmp_path / "home" / "cc" / "config.json").is_file() and not (tmp_path / "~").exists()
    refused("'~nobody-here/cc' names the home folder of an unknown user", "~nobody-here/cc", FileNotFoundError)


@pytest.mark.parametrize("source", ["", "no/such/place/at/all ", "x" * 5000, "/nowhere", ".", 5, None])
def test_sources_that_are_none(tmp_path, monkeypatch, no_type_checks, source):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError)) as info:
        load_crosscoder(source)
    assert "\n" not in str(info.value)


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
