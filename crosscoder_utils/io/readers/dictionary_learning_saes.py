"""SAEs of dictionary_learning (github.com/saprmarks/dictionary_learning)."""

import re
from pathlib import Path

import torch
from torch import Tensor

from crosscoder_utils.crosscoder import Crosscoder
from crosscoder_utils.io.readers.checked_files import open_json, open_pickle
from crosscoder_utils.io.readers.options import Options
from crosscoder_utils.io.readers.reader import Reader
from crosscoder_utils.io.readers.settings import Settings
from crosscoder_utils.io.readers.tensors import Tensors
from crosscoder_utils.io.readers.weights import (
    Weights,
    check_k,
    jumprelu_threshold,
    one_hook_point,
    refuse_factors,
    relu_threshold,
    topk_threshold,
)

CONFIG, WEIGHTS = "config.json", "ae.pt"
_LINEAR = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "decoder.weight"}
_OWN = {"W_enc": "W_enc", "b_enc": "b_enc", "W_dec": "W_dec", "b_dec": "b_dec"}
_NAMES = {  # class: the names of its tensors; those of linear layers have their axes swapped
    "AutoEncoder": _LINEAR | {"b_dec": "bias"},
    "AutoEncoderNew": _LINEAR | {"b_dec": "decoder.bias"},
    "AutoEncoderTopK": _LINEAR | {"b_dec": "b_dec"},
    "BatchTopKSAE": _LINEAR | {"b_dec": "b_dec"},
    "JumpReluAutoEncoder": _OWN,
    "MatryoshkaBatchTopKSAE": _OWN,
}
_READS_MINUS_BIAS = ("AutoEncoder", "AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE")
_TRAINING = """
    trainer_class lr l1_penalty warmup_steps resample_steps sparsity_warmup_steps steps decay_start seed device lm_name
    wandb_name auxk_alpha threshold_beta threshold_start_step top_k_aux bandwidth sparsity_penalty target_l0
    sparsity_function p_start p_end anneal_start sparsity_queue_length n_sparsity_updates group_fractions group_weights
    group_sizes
"""


class DictionaryReader(Reader):
    """`config.json` and `ae.pt`, as its trainers write them. Activations are those of the weights as they stand."""

    name = "dictionary_learning SAE"
    layout = f"{CONFIG} and {WEIGHTS}"
    marks = (WEIGHTS,)
    others = (CONFIG,)

    def read(self, folder: Path, options: Options) -> Crosscoder:
        config = open_json(folder / CONFIG, self.holds)
        trainer = config.mapping("trainer")
        kind = trainer.text("dict_class")
        if kind == "GatedAutoEncoder":
            raise ValueError(
                f"{config.path} says dict_class {kind!r}: a gated SAE switches features on by a second encoder, which "
                "thresholds on one pre-activation cannot express"
            )
        if kind not in _NAMES:
            raise ValueError(f"{config.path} says dict_class {kind!r}; known are {', '.join(_NAMES)}")
        refuse_factors(options, "dictionary_learning folds them into the weights before it saves")
        hook_points = one_hook_point(options, _hook_name(config, trainer), folder)
        tensors = open_pickle(folder / WEIGHTS, self.holds)
        weights = _weights(tensors, trainer, kind)
        threshold, k = _when_active(tensors, trainer, kind, weights.n_features)
        tensors.refuse_rest()
        trainer.ignore(*_TRAINING.split())
        trainer.refuse_rest()
        config.ignore("buffer")
        config.refuse_rest()
        return weights.crosscoder(hook_points, threshold, k)


def _hook_name(config: Settings, trainer: Settings) -> str | None:
    """The hook that it reads; None if the configuration does not say."""
    layer, module = trainer.count("layer"), trainer.text("submodule_name")
    config.mapping("buffer").expect("io", ("out",), "only SAEs on the output of a module are read")
    if module is None:
        return None if layer is None else f"blocks.{layer}.hook_resid_post"
    match = re.fullmatch(r"resid_post_layer_?(\d+)", module)
    if match is None:
        return module
    if layer not in (None, int(match[1])):
        raise ValueError(f"{trainer.path} says layer: {layer} and submodule_name: {module!r}; keep the right one")
    return f"blocks.{match[1]}.hook_resid_post"


def _weights(tensors: Tensors, trainer: Settings, kind: str) -> Weights:
    names = _NAMES[kind]
    swapped = names["W_enc"] == "encoder.weight"
    W_enc, W_dec = tensors.take(names["W_enc"], shape=(None, None)), tensors.take(names["W_dec"], shape=(None, None))
    if swapped:
        W_enc, W_dec = W_enc.T, W_dec.T
    d_model, n_features = W_enc.shape
    if W_dec.shape != (n_features, d_model):
        raise ValueError(
            f"{tensors.path}: {names['W_enc']} and {names['W_dec']} do not fit each other; take both from one checkpoint, with "
            "their axes as the library wrote them"
        )
    trainer.expect_sizes(activation_dim=("d_model", d_model), dict_size=("features", n_features))
    b_enc, b_dec = tensors.take(names["b_enc"], shape=(n_features,)), tensors.take(names["b_dec"], shape=(d_model,))
    weights = Weights.of_one_point(W_enc, b_enc, W_dec, b_dec)
    return weights.with_input_bias(weights.b_dec) if kind in _READS_MINUS_BIAS else weights


def _when_active(tensors: Tensors, trainer: Settings, kind: str, n_features: int) -> tuple[Tensor, int | None]:
    """Thresholds and k."""
    stored, stated = tensors.number("k"), trainer.count("k")
    if stored is not None and stated not in (None, stored):
        raise ValueError(f"{trainer.path} says k: {stated}, but {tensors.path} says {stored}; take both from one run")
    tensors.ignore("group_sizes")  # all groups are active
    if kind in ("AutoEncoder", "AutoEncoderNew"):
        return relu_threshold(n_features), None
    if kind == "JumpReluAutoEncoder":
        return jumprelu_threshold(tensors.take("threshold", shape=(n_features,))), None
    common = tensors.number("threshold")
    if kind == "AutoEncoderTopK":
        k = stated if stored is None else int(stored)
        return topk_threshold(n_features, signed=False), check_k(k, n_features, tensors.path)
    if common is None:
        raise ValueError(f"{tensors.path} lacks threshold, which a {kind} uses after training; take a complete file")
    return jumprelu_threshold(torch.full((n_features,), float(common))), None
