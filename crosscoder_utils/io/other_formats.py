"""Read crosscoders and SAEs written by other libraries.

Formats: the model-diffing replication (github.com/oli-clive-griffin/model-diffing, early 2025), its successor crosscode
(github.com/oli-clive-griffin/crosscode, mid 2025), and SAELens (github.com/decoderesearch/SAELens). No code in
a file is executed: pickles are read as tensors only, YAML as plain data only.

Letters in the first two formats' tensor names: X is the crosscoding axes (models and hook points, or hook points alone), D is
d_model, H or L the features.
"""

import math
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from crosscoder_utils.crosscoder import Crosscoder
from crosscoder_utils.io.error_messages import in_one_line
from crosscoder_utils.io.files import read_json, read_safetensors, read_yaml

PICKLE, PICKLE_CONFIG, EXPERIMENT_CONFIG = "model.pt", "model_cfg.yaml", "experiment_config.yaml"
SAE_CONFIG, SAE_WEIGHTS = "cfg.json", "sae_weights.safetensors"

_NAMES = {  # our name: the names in model-diffing and crosscode
    "W_enc": ("W_enc_XDH", "_W_enc_XiDiL"),
    "b_enc": ("b_enc_H", "_b_enc_L", "b_enc_L"),
    "W_dec": ("W_dec_HXD", "_W_dec_LXoDo"),
    "b_dec": ("b_dec_XD", "_b_dec_XoDo"),
    "log_threshold": ("hidden_activation.log_threshold_H", "_activation_fn.log_threshold_L", "activation_fn.log_threshold_L"),
}
_KINDS = ("jumprelu", "relu", "topk", "batchtopk")
_HOOK_NAME = re.compile(r"blocks\.(\d+)\.hook_resid_(pre|post)")


@dataclass(frozen=True)
class _Activation:
    """Rule for which features are active: those above a threshold, or the k largest."""

    kind: str
    k: int | None = None


def hook_point_of(name: str) -> int:
    """Convert a TransformerLens hook name: ``blocks.0.hook_resid_pre`` is hook point 0, ``blocks.l.hook_resid_post`` is l + 1.

    Raises:
        ValueError: If the hook is not on the residual stream between blocks.
    """
    match = _HOOK_NAME.fullmatch(name)
    if match is None:
        raise ValueError(
            f"{name!r} is no residual stream between blocks; crosscoders here read 'blocks.N.hook_resid_pre' or '...post'"
        )
    return int(match[1]) + (match[2] == "post")


def read_pickled(
    folder: Path, scaling_factors: Sequence[float] | None, model_index: int | None, threshold: float | None
) -> Crosscoder:
    """Read a folder of the model-diffing replication or of crosscode; see `load_crosscoder`."""
    for name in (PICKLE, PICKLE_CONFIG):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} is missing; such a folder holds {PICKLE} and {PICKLE_CONFIG}")
    config, state = read_yaml(folder / PICKLE_CONFIG), _read_pickle(folder / PICKLE)
    found = {ours: next((state[name].float() for name in names if name in state), None) for ours, names in _NAMES.items()}
    for name in ("W_enc", "W_dec"):
        if found[name] is None:
            held = ", ".join(sorted(state)) or "nothing"
            raise ValueError(f"{folder / PICKLE} lacks {' or '.join(_NAMES[name])}; it holds {held}")
    W_enc, W_dec, b_dec = _of_one_model(found, model_index, folder)
    points, d_model, n_features = W_enc.shape
    b_dec = torch.zeros(points, d_model) if b_dec is None else b_dec
    W_enc, W_dec, b_dec = _fold(W_enc, W_dec, b_dec, state, scaling_factors, folder)
    activation = _activation_of(config)
    if activation.kind == "jumprelu" and found["log_threshold"] is None:
        raise ValueError(
            f"{folder / PICKLE} is a JumpReLU crosscoder without log_threshold, so it is incomplete; fetch it again"
        )
    limits = found["log_threshold"].exp() if activation.kind == "jumprelu" else None
    hook_points = _hook_points_of(folder)
    order = range(points)
    if hook_points is not None and len(hook_points) == points:
        order = sorted(order, key=hook_points.__getitem__)
        hook_points = tuple(sorted(hook_points))
    return Crosscoder(
        W_enc=W_enc[list(order)].contiguous(),
        b_enc=torch.zeros(n_features) if found["b_enc"] is None else found["b_enc"],
        W_dec=W_dec[:, list(order)].contiguous(),
        b_dec=b_dec[list(order)].contiguous(),
        hook_points=hook_points,
        **_when_active(activation, limits, n_features, -math.inf, threshold),
    )


def read_saelens(folder: Path, threshold: float | None) -> Crosscoder:
    """Read a residual SAE of SAELens as a crosscoder over one hook point; see `load_crosscoder`."""
    for name in (SAE_CONFIG, SAE_WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} is missing; a SAELens folder holds {SAE_CONFIG} and {SAE_WEIGHTS}")
    config, weights = read_json(folder / SAE_CONFIG), read_safetensors(folder / SAE_WEIGHTS)
    missing = [name for name in ("W_enc", "b_enc", "W_dec", "b_dec") if name not in weights]
    if missing:
        raise ValueError(f"{folder / SAE_WEIGHTS} lacks {', '.join(missing)}; fetch it again")
    W_enc, b_enc, W_dec, b_dec = (weights[name].float() for name in ("W_enc", "b_enc", "W_dec", "b_dec"))
    normalized = config.get("normalize_activations", "none")
    if normalized not in ("none", None):
        raise ValueError(
            f"{folder / SAE_CONFIG} says normalize_activations {normalized!r}; fold the norm into the weights with SAELens' "
            "fold_activation_norm_scaling_factor, and save it again"
        )
    activation = _sae_activation_of(config, folder)
    if config.get("rescale_acts_by_decoder_norm"):
        norm = W_dec.norm(dim=-1, keepdim=True)
        W_enc, b_enc, W_dec = W_enc * norm.T, b_enc * norm[:, 0], W_dec / norm
    if config.get("apply_b_dec_to_input", True):
        b_enc = b_enc - b_dec @ W_enc  # equivalent to an encoder that reads x - b_dec
    if activation.kind == "jumprelu" and "threshold" not in weights:
        raise ValueError(f"{folder / SAE_WEIGHTS} is a JumpReLU SAE without threshold; fetch it again")
    hook = config.get("hook_name") or config.get("metadata", {}).get("hook_name")
    return Crosscoder(
        W_enc=W_enc[None].contiguous(),
        b_enc=b_enc,
        W_dec=W_dec[:, None].contiguous(),
        b_dec=b_dec[None],
        hook_points=None if hook is None else (hook_point_of(hook),),
        **_when_active(activation, weights.get("threshold"), len(b_enc), 0.0, threshold),
    )


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than tensors, and reading it might run code; get it as safetensors, or from a source you trust "
            "and save its state dict again"
        ) from error
    except (RuntimeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged or cut short ({in_one_line(error)}); fetch it again") from error
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"{path} is not a state dict of tensors; save the model's state_dict()")
    return dict(state)


def _of_one_model(
    found: Mapping[str, Tensor | None], model_index: int | None, folder: Path
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Encoder, decoder and decoder bias of one model; without a model axis there is only one."""
    W_enc, W_dec, b_dec = found["W_enc"], found["W_dec"], found["b_dec"]
    if W_enc.ndim == 3:
        return W_enc, W_dec, b_dec
    if W_enc.ndim != 4:
        raise ValueError(
            f"{folder}: the encoder has shape {tuple(W_enc.shape)}; it should have 3 axes (hook points, d_model, features), or "
            "4 with models first"
        )
    index = _model_index(len(W_enc), model_index, folder)
    return W_enc[index], W_dec[:, index], None if b_dec is None else b_dec[index]


def _model_index(n_models: int, model_index: int | None, folder: Path) -> int:
    if model_index is None and n_models > 1:
        raise ValueError(f"{folder} is a crosscoder over {n_models} models; choose one with model_index=0..{n_models - 1}")
    index = model_index or 0
    if not 0 <= index < n_models:
        raise ValueError(f"model_index={index} does not exist in {folder}; it has 0..{n_models - 1}")
    return index


def _fold(W_enc, W_dec, b_dec, state, scaling_factors, folder) -> tuple[Tensor, Tensor, Tensor]:
    """Fold scale factors into the weights, so that they act on raw activations."""
    if bool(state.get("is_folded", False)):
        return W_enc, W_dec, b_dec
    if scaling_factors is None:
        raise ValueError(
            f"{folder} is not folded: its weights act on activations scaled to a norm of sqrt(d_model) at each of the "
            f"{len(W_enc)} hook points; give scaling_factors=[...], the factor on the activations at each"
        )
    factors = torch.tensor(list(scaling_factors), dtype=W_enc.dtype)
    if factors.shape != (len(W_enc),) or not (torch.isfinite(factors) & (factors > 0)).all():
        raise ValueError(f"scaling_factors={list(scaling_factors)} should be {len(W_enc)} positive numbers, one per hook point")
    return W_enc * factors[:, None, None], W_dec / factors[:, None], b_dec / factors[:, None]


def _activation_of(config: Mapping) -> _Activation:
    inner = config.get("activation_fn") or {}
    name = config.get("hidden_activation_classname") or inner.get("classname")
    settings = config.get("hidden_activation_cfg") or inner.get("cfg") or {}
    kind = str(name).lower().removesuffix("activation")
    if kind not in _KINDS:
        raise ValueError(f"{PICKLE_CONFIG} says activation {name!r}; known are JumpReLU, ReLU, TopK and BatchTopK")
    return _Activation(kind, settings.get("k", settings.get("k_per_example")) if "topk" in kind else None)


def _sae_activation_of(config: Mapping, folder: Path) -> _Activation:
    kind = config.get("architecture", "standard")
    settings = config.get("activation_fn_kwargs") or {}
    if kind == "standard":
        kind = config.get("activation_fn") or config.get("activation_fn_str") or "relu"
    if kind not in _KINDS:
        raise ValueError(f"{folder / SAE_CONFIG} says {kind!r}; known are standard, jumprelu, topk and batchtopk SAEs")
    return _Activation(kind, config.get("k", settings.get("k")) if "topk" in kind else None)


def _when_active(
    activation: _Activation, limits: Tensor | None, n_features: int, topk_limit: float, threshold: float | None
) -> dict[str, Tensor | int | None]:
    """Arguments `threshold` and `k` of `Crosscoder`."""
    if activation.kind == "jumprelu":
        return {"threshold": limits.float()}
    if activation.kind == "relu":
        return {"threshold": torch.zeros(n_features)}
    if activation.k is None:
        raise ValueError(
            f"a {activation.kind} crosscoder needs k, and its configuration has none; add it to the configuration file"
        )
    if activation.kind == "batchtopk" and threshold is None:
        raise ValueError(
            "BatchTopK says which features are active in a whole batch, not on one token; give threshold=..., for instance "
            f"from threshold_for(residuals, k={activation.k}) of the crosscoder loaded with threshold=0"
        )
    return {"threshold": torch.full((n_features,), topk_limit), "k": int(activation.k)}


def _hook_points_of(folder: Path) -> list[int] | None:
    """Hook points from the experiment's configuration; None if there is no such file."""
    path = folder / EXPERIMENT_CONFIG
    names = _find(read_yaml(path), "hookpoints") if path.is_file() else None
    return None if names is None else [hook_point_of(name) for name in names]


def _find(tree, key: str):
    """First value of `key` in nested mappings, depth first; None if there is none."""
    if not isinstance(tree, Mapping):
        return None
    if key in tree:
        return tree[key]
    return next((found for value in tree.values() if (found := _find(value, key)) is not None), None)
