"""neelnanda-io/Crosscoders and its replication, dictionary_learning, sparsify, and the formats that are refused."""

import json

import pytest
import torch
from foreign_files import D_MODEL, FEATURES, POINTS, check, draw, inputs, largest, real_folder, refused, sae_tensors, write
from safetensors.torch import load_file

from crosscoder_utils import load_crosscoder

# ---- neelnanda-io/Crosscoders and ckkissane's replication


def layers(points=POINTS):
    return {
        "W_enc": draw(points, D_MODEL, FEATURES) / 5,
        "b_enc": 0.1 * draw(FEATURES),
        "W_dec": draw(FEATURES, points, D_MODEL),
        "b_dec": draw(points, D_MODEL),
    }


def by_hand(tensors, raw, factors):
    factors = torch.tensor(factors)[:, None]
    activations = (torch.einsum("npd,pdf->nf", raw * factors, tensors["W_enc"]) + tensors["b_enc"]).relu()
    return activations, (torch.einsum("nf,fpd->npd", activations, tensors["W_dec"]) + tensors["b_dec"]) / factors


def test_neelnanda_needs_factors():
    folder = real_folder("survey/neelnanda")
    right = torch.load(folder / "exp.pth", weights_only=True)
    refused("the factors are in no file: 1 / normalisation_factor.*give scaling_factors=", folder / "version_0")
    crosscoder = load_crosscoder(folder / "version_0", scaling_factors=[1.0] * 4)
    assert crosscoder.hook_points == (1, 2, 3, 4)
    check(crosscoder, right["x"], right["lat"], right["rec"])


def test_the_newest_save_of_a_run(tmp_path):
    for version in (9, 10):
        tensors = layers() | {"b_enc": torch.full((FEATURES,), version - 9.5)}
        write(
            tmp_path,
            {"site": "resid_pre", "seed": 1, "name": "x"},
            tensors,
            (f"{version}_cfg.json", f"{version}.pt"),
            torch.save,
        )
    torch.save({}, tmp_path / "11.pt")  # without its configuration
    crosscoder = load_crosscoder(tmp_path, scaling_factors=[0.5, 1.0, 2.0])
    assert crosscoder.hook_points == (0, 1, 2)
    raw = inputs(POINTS, D_MODEL)
    check(crosscoder, raw, *by_hand(layers() | {"b_enc": torch.full((FEATURES,), 0.5)}, raw, [0.5, 1.0, 2.0]))


def test_one_model_of_the_replication():
    folder = real_folder("survey/ckkissane_hf/blocks.14.hook_resid_pre")
    tensors = torch.load(folder / "cc_weights.pt", weights_only=True)
    refused(r"over 2 models; choose one with model_index=0\.\.1", folder, scaling_factors=[1.0])
    crosscoder = load_crosscoder(folder, model_index=1, scaling_factors=[0.25])
    assert crosscoder.hook_points == (14,)
    raw = inputs(1, 32)
    own = {
        "W_enc": tensors["W_enc"][1:],
        "b_enc": tensors["b_enc"],
        "W_dec": tensors["W_dec"][:, 1:],
        "b_dec": tensors["b_dec"][1:],
    }
    check(crosscoder, raw, *by_hand(own, raw, [0.25]))
    refused("the factors are in no file", folder, model_index=1)


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"site": "mlp_out"}, "says site: 'mlp_out'; crosscoders here read"),
        ({"hook_point": "blocks.1.hook_mlp_out"}, "is no residual stream"),
        ({"dict_size": 21}, "says dict_size: 21, its weights have 20"),
        ({"activation": "topk"}, "has the setting 'activation': 'topk', which is not known"),
    ],
)
def test_settings_of_the_replication(tmp_path, config, match):
    refused(match, write(tmp_path, config, layers(), ("cfg.json", "cc_weights.pt"), torch.save), scaling_factors=[1.0] * 3)


# ---- crosscoders of dictionary_learning

NAMES = ("config.json", "model.safetensors")
KINDS = ["CROSSCODER", "SAE", "MIXED", "NONE", "DECOUPLED"]


def config_of(kind="CROSSCODER", **more):
    sizes = {"activation_dim": D_MODEL, "dict_size": FEATURES, "num_layers": POINTS}
    return sizes | {"code_normalization": kind, "activation_mean": None, "activation_std": None, "target_rms": 1.0} | more


def stacked(kind="CROSSCODER", points=POINTS, normalised=True, threshold=None, scale=(POINTS,)):
    mean = draw(points, D_MODEL) if normalised else torch.full((points, D_MODEL), torch.nan)
    tensors = {
        "encoder.weight": draw(points, D_MODEL, FEATURES) / 5,
        "encoder.bias": 0.1 * draw(FEATURES),
        "decoder.weight": draw(points, FEATURES, D_MODEL),
        "decoder.bias": draw(points, D_MODEL),
        "code_normalization_id": torch.tensor(KINDS.index(kind) + 1),
        "activation_mean": mean,
        "activation_std": mean.abs(),
        "activation_global_scale": 0.5 + torch.rand(scale, generator=torch.Generator().manual_seed(3)),
        "target_rms": torch.tensor(1.0),
    }
    return tensors | (
        {} if threshold is None else {"k": torch.tensor(8, dtype=torch.int32), "threshold": torch.tensor(threshold)}
    )


def library(tensors, raw, kind="CROSSCODER"):
    """The formulas of CrossCoder and BatchTopKCrossCoder."""
    weight, mean, scale = tensors["decoder.weight"], tensors["activation_mean"], tensors["activation_global_scale"]
    normalised = not mean.isnan().any()
    scale = scale.expand(raw.shape[1])[:, None]
    x = (raw - mean) * scale if normalised else raw
    activations = (torch.einsum("bld,ldf->bf", x, tensors["encoder.weight"]) + tensors["encoder.bias"]).relu()
    if "threshold" in tensors:
        summed, together = weight.norm(dim=2).sum(0), weight.norm(dim=(0, 2))
        norm = {"CROSSCODER": summed, "SAE": together, "MIXED": together + 0.1 * summed, "NONE": torch.tensor(1.0)}[kind]
        activations = activations * (activations * norm > tensors["threshold"])
    decoded = torch.einsum("bf,lfd->bld", activations, weight) + tensors["decoder.bias"]
    return activations, decoded / (scale + 1e-8) + mean if normalised else decoded


@pytest.mark.parametrize("name", ["jkminder_CrossCoder", "jkminder_BatchTopKCrossCoder_norm"])
def test_the_survey_s_crosscoders_of_dictionary_learning(name):
    folder = real_folder(f"survey/{name}")
    raw = inputs(4, 32)
    crosscoder = load_crosscoder(folder, hook_points=[1, 2, 3, 4])
    activations, decoded = library(load_file(folder / "model.safetensors"), raw)
    assert crosscoder.hook_points == (1, 2, 3, 4)
    check(crosscoder, raw, activations, decoded)


@pytest.mark.parametrize("scale", [(), (POINTS,)], ids=["one scale", "one each"])
@pytest.mark.parametrize("normalised", [True, False], ids=["normalised", "raw"])
@pytest.mark.parametrize("kind", KINDS[:4])
def test_thresholds_act_on_activation_times_decoder_norm(tmp_path, kind, normalised, scale):
    tensors = stacked(kind, normalised=normalised, threshold=0.5 if kind == "NONE" else 6.0, scale=scale)
    raw = inputs(POINTS, D_MODEL)
    crosscoder = load_crosscoder(write(tmp_path, config_of(kind, k=8), tensors, NAMES))
    check(crosscoder, raw, *library(tensors, raw, kind))


def test_a_threshold_that_was_never_set_leaves_a_relu(tmp_path):
    tensors, raw = stacked(threshold=-1.0), inputs(POINTS, D_MODEL)
    check(load_crosscoder(write(tmp_path, config_of(k=8), tensors, NAMES)), raw, *library(tensors, raw))


def test_a_feature_without_a_decoder_is_never_active(tmp_path):
    tensors, raw = stacked(threshold=6.0), inputs(POINTS, D_MODEL)
    tensors["decoder.weight"][:, 3] = 0.0
    crosscoder = load_crosscoder(write(tmp_path, config_of(k=8), tensors, NAMES))
    assert crosscoder.encode(raw)[:, 3].eq(0).all()
    check(crosscoder, raw, *library(tensors, raw))


def test_two_slices_are_two_models_unless_hook_points_are_given(tmp_path):
    folder = write(tmp_path, config_of(num_layers=2), stacked(points=2, scale=(2,)), NAMES)
    refused(r"over 2 models; choose one with model_index=0\.\.1", folder)
    one = load_crosscoder(folder, model_index=1, hook_points=[4])
    both = load_crosscoder(folder, hook_points=[4, 6])
    assert one.hook_points == (4,) and both.hook_points == (4, 6)
    torch.testing.assert_close(one.W_dec, both.W_dec[:, 1:])
    raw, tensors = inputs(2, D_MODEL), load_file(folder / "model.safetensors")
    at_its_mean = torch.stack([tensors["activation_mean"][0].expand(50, -1), raw[:, 1]], dim=1)  # the other model adds nothing
    activations, decoded = library(tensors, at_its_mean)
    check(one, raw[:, 1:], activations, decoded[:, 1:])
    refused("model_index=2 does not exist", folder, model_index=2)


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"dict_size": None}, "has no dict_size, so it is no crosscoder's; a transformers model has such files too"),
        ({"encoder_layers": [0]}, r"says encoder_layers: \[0\]; it encodes some of its layers only"),
        ({"latent_processor": "x"}, "says latent_processor: 'x'"),
        ({"code_normalization": "SAE"}, "says code_normalization: 'SAE', but .* has number 1"),
        ({"dict_class": "HeteroBatchTopK"}, "says dict_class: 'HeteroBatchTopK'; known are"),
        ({"k": 9}, "says k: 9; but .* says 8"),
        ({"num_layers": 4}, "says num_layers: 4, its weights have 3 layers"),
        ({"output_norm": 1}, "has the setting 'output_norm': 1, which is not known"),
    ],
)
def test_settings_of_a_crosscoder_of_dictionary_learning(tmp_path, config, match):
    refused(match, write(tmp_path, config_of(k=8) | config, stacked(threshold=6.0), NAMES))


def test_thresholds_of_each_hook_point(tmp_path):
    refused(
        "a feature may be active at one hook point only",
        write(tmp_path, config_of("DECOUPLED"), stacked("DECOUPLED", threshold=6.0), NAMES),
    )


# ---- SAEs of dictionary_learning

SAE = ("config.json", "ae.pt")
SHAPES = {"activation_dim": D_MODEL, "dict_size": FEATURES, "layer": 3, "lm_name": "m", "submodule_name": "resid_post_layer_3"}


def linear(bias):
    ours = sae_tensors()
    return {
        "encoder.weight": ours["W_enc"].T,
        "encoder.bias": ours["b_enc"],
        "decoder.weight": ours["W_dec"].T,
        bias: ours["b_dec"],
    }


CASES = {  # class: its tensors, what it keeps of pre-activations, whether it reads x - b_dec
    "AutoEncoder": (linear("bias"), torch.relu, True),
    "AutoEncoderNew": (linear("decoder.bias"), torch.relu, False),
    "AutoEncoderTopK": (
        linear("b_dec") | {"k": torch.tensor(5), "threshold": torch.tensor(1.0)},
        lambda p: largest(p.relu(), 5),
        True,
    ),
    "BatchTopKSAE": (
        linear("b_dec") | {"k": torch.tensor(5), "threshold": torch.tensor(1.0)},
        lambda p: p.relu() * (p > 1.0),
        True,
    ),
    "MatryoshkaBatchTopKSAE": (
        sae_tensors() | {"k": torch.tensor(5), "threshold": torch.tensor(-1.0), "group_sizes": torch.tensor([4, 16])},
        torch.relu,
        True,
    ),
    "JumpReluAutoEncoder": (
        sae_tensors() | {"threshold": torch.linspace(-1, 2, FEATURES)},
        lambda p: (p * (p > torch.linspace(-1, 2, FEATURES))).relu(),
        False,
    ),
}


@pytest.mark.parametrize("kind", CASES)
def test_saes_of_dictionary_learning(tmp_path, kind):
    tensors, keep, minus_bias = CASES[kind]
    k = {"k": 5} if "TopK" in kind else {}
    config = {
        "trainer": SHAPES | k | {"dict_class": kind, "trainer_class": "x", "lr": 1e-4},
        "buffer": {"io": "out", "ctx_len": 128},
    }
    crosscoder = load_crosscoder(write(tmp_path, config, tensors, SAE, torch.save))
    assert crosscoder.hook_points == (4,)
    ours, x = sae_tensors(), inputs(D_MODEL)
    activations = keep((x - ours["b_dec"] if minus_bias else x) @ ours["W_enc"] + ours["b_enc"])
    check(crosscoder, x[:, None], activations, (activations @ ours["W_dec"] + ours["b_dec"])[:, None])


def test_the_survey_s_sae_of_dictionary_learning():
    folder = real_folder("survey/saprmarks_BatchTopKSAE/trainer_0")
    t = torch.load(folder / "ae.pt", weights_only=True)
    x = inputs(32)
    pre = (x - t["b_dec"]) @ t["encoder.weight"].T + t["encoder.bias"]
    activations = pre.relu() * (pre.relu() > t["threshold"])
    crosscoder = load_crosscoder(folder)
    assert crosscoder.hook_points == (4,)
    check(crosscoder, x[:, None], activations, (activations @ t["decoder.weight"].T + t["b_dec"])[:, None])


@pytest.mark.parametrize(
    ("trainer", "buffer", "match"),
    [
        ({"dict_class": "GatedAutoEncoder"}, {}, "says dict_class 'GatedAutoEncoder': a gated SAE"),
        ({"dict_class": "CrossCoder"}, {}, "says dict_class 'CrossCoder'; known are"),
        ({"submodule_name": "mlp_out_layer_3"}, {}, "'mlp_out_layer_3' is no residual stream"),
        ({"layer": 4}, {}, "says layer: 4 and submodule_name: 'resid_post_layer_3'"),
        ({"layer": "3"}, {}, "says layer: '3'; it must be a whole number"),
        ({"submodule_name": None, "layer": None}, {}, r"does not say which hook point it reads; give hook_points=\[l\]"),
        ({}, {"io": "in_and_out"}, "says io: 'in_and_out'; only SAEs on the output of a module"),
        ({"norm_factor": 2.0}, {}, "has the setting 'norm_factor': 2.0, which is not known"),
        ({"dict_size": 21}, {}, "says dict_size: 21, its weights have 20"),
    ],
)
def test_settings_of_saes_of_dictionary_learning(tmp_path, trainer, buffer, match):
    config = {"trainer": SHAPES | {"dict_class": "AutoEncoder"} | trainer, "buffer": buffer}
    refused(match, write(tmp_path, config, linear("bias"), SAE, torch.save))


# ---- sparsify

SPARSIFY = ("cfg.json", "sae.safetensors")
EXPANSION = {
    "activation": "topk",
    "expansion_factor": 32,
    "normalize_decoder": True,
    "num_latents": 0,
    "k": 5,
    "multi_topk": False,
}
EXPANSION |= {"skip_connection": False, "transcode": False, "d_in": D_MODEL}


def sparsified():
    ours = sae_tensors()
    return {"encoder.weight": ours["W_enc"].T, "encoder.bias": ours["b_enc"], "W_dec": ours["W_dec"], "b_dec": ours["b_dec"]}


def test_sparsify(tmp_path):
    folder = write(tmp_path / "layers.5", EXPANSION, sparsified(), SPARSIFY)
    crosscoder = load_crosscoder(folder)
    assert crosscoder.hook_points == (6,) and crosscoder.k == 5
    ours, x = sae_tensors(), inputs(D_MODEL)
    pre = ((x - ours["b_dec"]) @ ours["W_enc"] + ours["b_enc"]).relu()
    activations = largest(pre, 5)
    check(crosscoder, x[:, None], activations, (activations @ ours["W_dec"] + ours["b_dec"])[:, None])
    activations = pre * (pre > 1.5)
    fixed = load_crosscoder(folder, threshold=1.5)
    check(fixed, x[:, None], activations, (activations @ ours["W_dec"] + ours["b_dec"])[:, None])


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"transcode": True}, "says transcode: True; a transcoder reads one place"),
        ({"skip_connection": True}, "says skip_connection: True; a linear path"),
        ({"activation": "groupmax"}, "says activation: 'groupmax'; only 'topk' is read"),
        ({"signed": True}, "says signed: True; it keeps the largest activations of either sign"),
        ({"k": 0}, "says k: 0, which is out of range"),
        ({"num_latents": 21}, "says num_latents: 21, its weights have 20"),
        ({"input_norm": True}, "has the setting 'input_norm': True, which is not known"),
    ],
)
def test_settings_of_sparsify(tmp_path, config, match):
    refused(match, write(tmp_path / "layers.5", EXPANSION | config, sparsified(), SPARSIFY))


def test_where_sparsify_reads(tmp_path):
    refused(r"'layers\.5\.mlp' is no residual stream", write(tmp_path / "layers.5.mlp", EXPANSION, sparsified(), SPARSIFY))
    folder = write(tmp_path / "mine", EXPANSION, sparsified(), SPARSIFY)
    refused(r"does not say which hook point it reads; give hook_points=\[l\]", folder)
    assert load_crosscoder(folder, hook_points=[2]).hook_points == (2,)
    refused("is no residual stream", tmp_path / "layers.5.mlp", hook_points=[2])
    refused(
        "holds W_skip, a linear path",
        write(folder, EXPANSION, sparsified() | {"W_skip": torch.ones(3)}, SPARSIFY),
        hook_points=[2],
    )


# ---- formats that are recognised and refused


@pytest.mark.parametrize(
    ("files", "match"),
    [
        (
            ["config.json", "sae_weights.safetensors"],
            "is of llamascopium and cannot be read: its crosscoders switch a feature on",
        ),
        (
            ["config.yaml", "W_enc_0.safetensors", "W_dec_0.safetensors"],
            "is of circuit-tracer .* a cross-layer transcoder reads",
        ),
        (["config.yaml", "layer_0.safetensors"], "is of circuit-tracer .* a transcoder reads the input of an MLP"),
        (["hyperparams.json"], r"is of Llama Scope .* SAE\.from_pretrained"),
    ],
)
def test_refused_for_what_they_are(tmp_path, files, match):
    for name in files:
        (tmp_path / name).write_text("{}")
    refused(match, tmp_path)


@pytest.mark.parametrize("name", ["survey/llamascopium", "survey/circuit_tracer_clt"])
def test_the_survey_s_folders_that_are_refused(name):
    refused("cannot be read: ", real_folder(name))


def test_a_folder_in_no_known_format(tmp_path):
    (tmp_path / "weights.bin").write_bytes(b"1")
    (tmp_path / "notes.txt").write_text("x")
    match = r"is in no format that is read here: it holds notes\.txt, weights\.bin\. Read are: .*save_model.*save_crosscoder"
    refused(match, tmp_path)


def test_the_only_crosscoder_below_a_folder(tmp_path):
    write(tmp_path / "sae" / "layers.5", EXPANSION, sparsified(), SPARSIFY)
    assert load_crosscoder(tmp_path).hook_points == (6,)
    write(tmp_path / "sae" / "layers.6", EXPANSION, sparsified(), SPARSIFY)
    refused("holds 2 folders that may be crosscoders or SAEs; give one of them, such as '.*sae/layers.5'", tmp_path)


def test_a_file_that_is_named_as_a_source(tmp_path):
    folder = write(tmp_path / "layers.5", EXPANSION, sparsified(), SPARSIFY)
    refused("is a file; give the folder that it is in", folder / "cfg.json", FileNotFoundError)
    assert json.loads((folder / "cfg.json").read_text())["k"] == 5
