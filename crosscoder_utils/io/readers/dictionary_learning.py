"""Crosscoders and SAEs of dictionary_learning (github.com/saprmarks; crosscoders: github.com/jkminder)."""

from pathlib import Path

import torch
from torch import Tensor

from crosscoder_utils.crosscoder import Crosscoder
from crosscoder_utils.io.readers.checked_files import open_json, open_safetensors
from crosscoder_utils.io.readers.options import Options
from crosscoder_utils.io.readers.reader import Reader
from crosscoder_utils.io.readers.settings import Settings
from crosscoder_utils.io.readers.tensors import Tensors
from crosscoder_utils.io.readers.weights import NEVER, Weights, one_model, refuse_factors, relu_threshold

CONFIG, WEIGHTS = "config.json", "model.safetensors"
_NORMALISATIONS = {1: "CROSSCODER", 2: "SAE", 3: "MIXED", 4: "NONE", 5: "DECOUPLED"}  # the library's numbers
_EPSILON = 1e-8  # the library's, beside deviations and scales


class CrossCoderReader(Reader):
    """`config.json` and `model.safetensors` of a CrossCoder or BatchTopKCrossCoder.

    The first axis of its weights counts models or hook points, which the files do not tell. With `model_index`, it counts
    models; otherwise hook points, unless there are two of them and no `hook_points` were given.
    """

    name = "dictionary_learning crosscoder"
    layout = f"{CONFIG} and {WEIGHTS}"
    marks = (WEIGHTS,)
    others = (CONFIG,)
    several_models = True

    def read(self, folder: Path, options: Options) -> Crosscoder:
        config = open_json(folder / CONFIG, self.holds)
        _check_config(config)
        refuse_factors(options, "the activations' mean and scale are in its files")
        tensors = open_safetensors(folder / WEIGHTS, self.holds)
        weights = _weights(tensors, config)
        norm = _code_norm(tensors, config, weights)
        threshold = _threshold(tensors, config, norm, weights.n_features)
        weights, mean = _unscaled(weights, tensors, config)
        tensors.refuse_rest()
        config.refuse_rest()
        if options.model_index is not None or (weights.n_points == 2 and options.hook_points is None):
            index = one_model(options, weights.n_points, folder)
            weights, mean = weights.only(index), mean[index : index + 1]
        return weights.with_input_bias(mean).crosscoder(None, threshold)


def _check_config(config: Settings) -> None:
    if "dict_size" not in config:
        raise ValueError(f"{config.path} has no dict_size, so it is no crosscoder's; a transformers model has such files too")
    config.expect("dict_class", ("CrossCoder", "BatchTopKCrossCoder"), "known are CrossCoder and BatchTopKCrossCoder")
    config.expect("encoder_layers", (), "it encodes some of its layers only; the crosscoder here reads all its hook points")
    config.expect("latent_processor", (), "it changes activations between encoder and decoder")
    config.ignore("activation_mean", "activation_std")  # the tensors decide
    config.ignore("init_with_transpose", "norm_init_scale", "same_init_for_all_layers", "target_rms")


def _weights(tensors: Tensors, config: Settings) -> Weights:
    W_enc = tensors.take("encoder.weight", shape=(None, None, None))
    points, d_model, n_features = W_enc.shape
    config.expect_sizes(
        num_layers=("layers", points),
        num_decoder_layers=("layers", points),
        activation_dim=("d_model", d_model),
        dict_size=("features", n_features),
    )
    W_dec = tensors.take("decoder.weight", shape=(points, n_features, d_model))
    b_enc, b_dec = tensors.take("encoder.bias", shape=(n_features,)), tensors.take("decoder.bias", shape=(points, d_model))
    return Weights(W_enc, b_enc, W_dec.transpose(0, 1), b_dec)


def _code_norm(tensors: Tensors, config: Settings, weights: Weights) -> Tensor | None:
    """What activations are multiplied by before they are compared with the threshold; None if each point has its own."""
    number, stated = tensors.number("code_normalization_id"), config.text("code_normalization")
    # Where neither says it, the library's default.
    kind = (stated or "CROSSCODER").upper() if number is None else _NORMALISATIONS.get(number)
    if kind is None or (stated is not None and stated.upper() != kind):
        raise ValueError(f"{config.path} says code_normalization: {stated!r}, but {tensors.path} has number {number}")
    sae, crosscoder = config.number("code_normalization_alpha_sae", 1.0), config.number("code_normalization_alpha_cc", 0.1)
    together, summed = weights.W_dec.flatten(1).norm(dim=1), weights.W_dec.norm(dim=-1).sum(1)
    norms = {
        "CROSSCODER": summed,
        "SAE": together,
        "MIXED": sae * together + crosscoder * summed,
        "NONE": torch.ones_like(summed),
    }
    if kind not in _NORMALISATIONS.values():
        raise ValueError(f"{config.path} says code_normalization: {kind!r}; known are {', '.join(_NORMALISATIONS.values())}")
    return norms.get(kind)


def _threshold(tensors: Tensors, config: Settings, norm: Tensor | None, n_features: int) -> Tensor:
    """Thresholds on the activations themselves. One below 0 was never set: the library then applies a ReLU."""
    if "threshold" not in tensors:
        config.expect("k", (), f"but {tensors.path} lacks the threshold of a BatchTopKCrossCoder; fetch it again")
        return relu_threshold(n_features)
    if norm is None:
        raise ValueError(
            f"{config.path} says code_normalization: 'DECOUPLED', so a feature may be active at one hook point only; "
            "the crosscoder here has one activation for all"
        )
    k, common = tensors.number("k"), float(tensors.number("threshold"))
    if k is not None:
        config.expect("k", (k,), f"but {tensors.path} says {k}; take both from one run")
    if common < 0:
        return relu_threshold(n_features)
    return torch.where(norm > 0, common / norm, NEVER).clamp(max=NEVER)


def _unscaled(weights: Weights, tensors: Tensors, config: Settings) -> tuple[Weights, Tensor]:
    """Weights that reconstruct activations x and read x - mean, where these act on (x - mean) * scale; and the mean."""
    shape = tuple(weights.b_dec.shape)
    mean = tensors.take_if_there("activation_mean", shape=shape)
    deviation = tensors.take_if_there("activation_std", shape=shape)
    scale = tensors.take_if_there("activation_global_scale")
    tensors.ignore("target_rms")  # is in the scale
    if mean is None or deviation is None or mean.isnan().any() or deviation.isnan().any():
        return weights, torch.zeros(shape)  # the library normalises nothing then
    if not config.flag("keep_relative_variance", True):
        scale = 1 / (deviation + _EPSILON)
    elif scale is None or tuple(scale.shape) not in ((), shape[:1]):
        found = None if scale is None else tuple(scale.shape)
        raise ValueError(f"{tensors.path}: activation_global_scale has shape {found}; it should be () or ({shape[0]},)")
    else:
        scale = scale.expand(shape[0])[:, None]
    undone = 1 / (scale + _EPSILON) if scale.shape[1] == 1 else deviation + _EPSILON
    unscaled = Weights(
        W_enc=weights.W_enc * scale[:, :, None],
        b_enc=weights.b_enc,
        W_dec=weights.W_dec * undone,
        b_dec=weights.b_dec * undone + mean,
    )
    return unscaled, mean
