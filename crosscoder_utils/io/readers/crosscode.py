"""Crosscoders of crosscode and of its predecessor, model-diffing (github.com/oli-clive-griffin, 2025).

Letters in tensor names: X is the crosscoding axes (models and hook points, or hook points alone), D is d_model, H or L the
features.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from crosscoder_utils.crosscoder import Crosscoder
from crosscoder_utils.io.readers.checked_files import open_pickle, open_yaml
from crosscoder_utils.io.readers.options import Options
from crosscoder_utils.io.readers.reader import Reader
from crosscoder_utils.io.readers.settings import Settings
from crosscoder_utils.io.readers.tensors import Tensors
from crosscoder_utils.io.readers.weights import (
    Weights,
    batch_topk_threshold,
    check_k,
    given_factors,
    hook_point_of,
    one_model,
    refuse_factors,
    relu_threshold,
    topk_threshold,
)

PICKLE, CONFIG, EXPERIMENT = "model.pt", "model_cfg.yaml", "experiment_config.yaml"
_EPOCH = re.compile(r"epoch_(\d+)_step_(\d+)")

_W_ENC = ("_W_enc_XiDiL", "W_enc_XDH", "W_enc_XDL", "W_enc_MLDH")  # the newest name first
_W_DEC = ("_W_dec_LXoDo", "W_dec_HXD", "W_dec_LXD", "W_dec_HMLD")
_B_ENC = ("b_enc_L", "_b_enc_L", "b_enc_H")
_B_DEC = ("_b_dec_XoDo", "b_dec_XD", "b_dec_MLD")
_LOG_THRESHOLD = (
    "_activation_fn.log_threshold_L",
    "activation_fn.log_threshold_L",
    "hidden_activation.log_threshold_H",
    "hidden_activation.log_threshold_L",
)
_FACTORS = [f"folded_scaling_factors_{axes}" for axes in ("in_Xi", "out_Xo", "X", "M", "ML")]
_SKIP = "a skip connection from inputs to outputs, which the crosscoder here does not have; train one without skip_linear"

_ACTIVATIONS = {
    "ReLUActivation": "relu",
    "ReluActivation": "relu",
    "JumpReLUActivation": "jumprelu",
    "JumpReluActivation": "jumprelu",
    "JumpReLUActivationFunction": "jumprelu",
    "AnthropicJumpReLUActivation": "jumprelu",
    "AnthropicSTEJumpReLUActivation": "jumprelu",
    "TopkActivation": "topk",
    "BatchTopkActivation": "batchtopk",
}


class CrosscodeReader(Reader):
    """`model.pt` and `model_cfg.yaml`, alone, in an artifact's `model/` or in a run's `epoch_N_step_M/`."""

    name = "crosscode"
    layout = f"{PICKLE} and {CONFIG}"
    several_models = True

    def files(self, names: Sequence[str]) -> list[str]:
        inner = _inner_folder(names)
        if inner is None:
            return []
        above = EXPERIMENT if inner else f"../{EXPERIMENT}"
        wanted = (f"{inner}{PICKLE}", f"{inner}{CONFIG}", f"{inner}{EXPERIMENT}", above)
        return [name for name in wanted if name in names]

    def read(self, folder: Path, options: Options) -> Crosscoder:
        inner = _inner_folder([path.relative_to(folder).as_posix() for path in (*folder.glob("*"), *folder.glob("*/*"))])
        folder = (folder / (inner or "")).resolve()
        config = open_yaml(folder / CONFIG, self.holds)
        kind, k = _activation(config)
        tensors = open_pickle(folder / PICKLE, self.holds)
        weights = _weights(tensors, config, options, folder)
        weights = _unscaled(weights, tensors, options, folder)
        n_features = weights.n_features
        if kind == "jumprelu":
            threshold, k = tensors.take(*_LOG_THRESHOLD, shape=(n_features,)).exp(), None
        elif kind == "relu":
            threshold, k = relu_threshold(n_features), None
        elif kind == "topk":
            threshold, k = topk_threshold(n_features, signed=True), check_k(k, n_features, folder / CONFIG)
        else:
            threshold, k = batch_topk_threshold(options, k, n_features), None
        tensors.ignore(*_FACTORS)
        tensors.refuse_rest({"W_skip": _SKIP})
        config.refuse_rest()
        return weights.crosscoder(_hook_points(folder), threshold, k)


def _inner_folder(names: Sequence[str]) -> str | None:
    """The subfolder with the weights, with a slash at its end: the newest of a run, none at the top; None in another format."""
    if PICKLE in names or CONFIG in names:
        return ""
    if f"model/{PICKLE}" in names or f"model/{CONFIG}" in names:
        return "model/"
    folders = {name.partition("/")[0] for name in names if name.endswith((f"/{PICKLE}", f"/{CONFIG}"))}
    epochs = [match for name in folders if (match := _EPOCH.fullmatch(name))]
    newest = max(epochs, key=lambda match: (int(match[1]), int(match[2])), default=None)
    return None if newest is None else f"{newest[0]}/"


def _activation(config: Settings) -> tuple[str, int | None]:
    """Which features are active, and k of TopK and BatchTopK."""
    inner = config.mapping("activation_fn")
    names = [config.text(f"{start}_classname") for start in ("hidden_activation", "activation", "activation_fn")]
    name = next(filter(None, names), None) or inner.text("classname")
    kind = _ACTIVATIONS.get(name)
    if name == "GroupMaxActivation":
        raise ValueError(
            f"{config.path} says activation {name!r}, which keeps the largest of each group of features; the crosscoder here "
            "has thresholds or TopK: train one with TopkActivation"
        )
    if kind is None:
        raise ValueError(f"{config.path} says activation {name!r}; known are JumpReLU, ReLU, TopK and BatchTopK")
    k = None
    for settings in (
        *map(config.mapping, ("hidden_activation_cfg", "activation_cfg", "activation_fn_cfg")),
        inner.mapping("cfg"),
    ):
        settings.ignore("size", "bandwidth", "backprop_through_input", "log_threshold_init")
        k = settings.count("k", settings.count("k_per_example", k))
        settings.refuse_rest()
    inner.refuse_rest()
    return kind, k


def _weights(tensors: Tensors, config: Settings, options: Options, folder: Path) -> Weights:
    """The weights of one model. Without an axis of models there is only one."""
    if "n_layers_out" in config:
        raise ValueError(f"{folder / CONFIG} is a cross-layer transcoder, which writes to other places than it reads from")
    W_enc, W_dec = tensors.take(*_W_ENC), tensors.take(*_W_DEC)
    if W_enc.ndim not in (3, 4) or not W_enc.numel():
        raise ValueError(
            f"{folder / PICKLE}: the encoder has shape {tuple(W_enc.shape)}; it should have 3 axes (hook points, d_model, "
            "features), or 4 with models first; SAEs and transcoders of these libraries are not read"
        )
    *axes, d_model, n_features = W_enc.shape
    _check_sizes(config, axes, d_model, n_features)
    W_dec = tensors.take(*_W_DEC, shape=(n_features, *axes, d_model))
    b_dec = _bias(tensors, config, "use_decoder_bias", _B_DEC, (*axes, d_model))
    b_enc = _bias(tensors, config, "use_encoder_bias", _B_ENC, (n_features,))
    if len(axes) == 1:
        one_model(options, 1, folder)
        return Weights(W_enc, b_enc, W_dec, b_dec)
    if _experiment(folder, "token_window_size"):
        raise ValueError(f"{folder} is a crosscoder over a window of tokens; only those over hook points of one token are read")
    index = one_model(options, len(W_enc), folder)
    return Weights(W_enc[index], b_enc, W_dec[:, index], b_dec[index])


def _check_sizes(config: Settings, axes: list[int], d_model: int, n_features: int) -> None:
    config.expect_sizes(
        n_models=("models", axes[0]),
        n_hookpoints=("hook points", axes[-1]),
        d_model=("d_model", d_model),
        hidden_dim=("features", n_features),
        n_latents=("features", n_features),
    )
    stated = config.counts("crosscoding_dims")
    if stated is not None and list(stated) != axes:
        raise ValueError(
            f"{config.path} says crosscoding_dims: {list(stated)}, its weights have {axes}; take both from one run"
        )
    config.expect("linear_skip", (False,), _SKIP)
    config.expect("skip_linear", (False,), _SKIP)
    config.ignore("dtype")


def _bias(tensors: Tensors, config: Settings, key: str, names: Sequence[str], shape: Sequence[int]) -> Tensor:
    """A bias, zeros if the crosscoder was trained without one."""
    if key not in config:
        found = tensors.take_if_there(*names, shape=shape)
        return torch.zeros(*shape) if found is None else found
    return tensors.take(*names, shape=shape) if config.flag(key) else torch.zeros(*shape)


def _unscaled(weights: Weights, tensors: Tensors, options: Options, folder: Path) -> Weights:
    """The weights that act on raw activations."""
    if tensors.number("is_folded"):
        refuse_factors(options, f"those of {folder} are folded into its weights already")
        return weights
    reason = f"{folder} is not folded: its weights act on activations scaled to a norm of sqrt(d_model)"
    return weights.with_factors(given_factors(options, weights.n_points, reason))


def _hook_points(folder: Path) -> list[int] | None:
    """Hook points from the experiment's configuration, in the order of the weights; None if there is none."""
    found = _experiment(folder, "hookpoints")
    names = None if found is None else found.texts("hookpoints", "blocks.0.hook_resid_pre")
    if names is None and (found := _experiment(folder, "hookpoint")):
        names = [found.text("hookpoint")]
    return None if names is None else [hook_point_of(name) for name in names]


def _experiment(folder: Path, key: str) -> Settings | None:
    """The settings with `key` of the experiment's configuration, beside the weights or one level above."""
    for path in (folder / EXPERIMENT, folder.parent / EXPERIMENT):
        if path.is_file():
            return open_yaml(path, "it is a file of YAML").find(key)
    return None
