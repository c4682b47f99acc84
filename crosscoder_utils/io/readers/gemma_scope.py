"""Gemma Scope: crosscoders and residual SAEs of Gemma 3 (Gemma Scope 2), residual SAEs of Gemma 2 (Gemma Scope 1)."""

import re
from collections.abc import Sequence
from pathlib import Path

import torch

from crosscoder_utils.crosscoder import Crosscoder
from crosscoder_utils.io.readers.checked_files import open_json, open_npz, open_safetensors
from crosscoder_utils.io.readers.options import Options
from crosscoder_utils.io.readers.reader import Reader
from crosscoder_utils.io.readers.settings import Settings
from crosscoder_utils.io.readers.tensors import Tensors
from crosscoder_utils.io.readers.weights import Weights, hook_point_of, jumprelu_threshold, one_hook_point, refuse_factors

CONFIG, SAFETENSORS, NPZ = "config.json", "params.safetensors", "params.npz"
_LAYER_FILE = re.compile(r"params_layer_(\d+)\.safetensors")
_LAYERS = re.compile(r"(.*)\{([\d, ]+)\}(.*)")  # "model.layers.{7,13}.output"
_RAW = "Gemma Scope's weights act on raw activations"
_SKIP = {"affine": "a linear path around the features, which the crosscoder here does not have"}


class GemmaScopeCrosscoderReader(Reader):
    """`config.json` and one `params_layer_i.safetensors` for each hook point.

    These are weakly causal: features of hook point i read hook point i and write to all. As one `Crosscoder`, the encoder is
    block-diagonal, features ordered by the hook point that they read, zeros stored.
    """

    name = "Gemma Scope 2 crosscoder"
    layout = f"{CONFIG} and params_layer_0.safetensors, params_layer_1.safetensors and so on"

    def files(self, names: Sequence[str]) -> list[str]:
        found = sorted(name for name in names if _LAYER_FILE.fullmatch(name))
        return [CONFIG, *found] if found and CONFIG in names else found

    def stated_hook_points(self, folder: Path) -> list[int]:
        return [hook_point_of(name) for name in _hook_names(open_json(folder / CONFIG, self.holds), "crosscoder")]

    def memory(self, sizes: Sequence[int]) -> float:
        """One file holds a hook point's own block of the encoder; in memory, its features have one for every hook point."""
        return sum(sizes) * 2 * len(sizes) / (len(sizes) + 1) + max(sizes)

    def read(self, folder: Path, options: Options) -> Crosscoder:
        refuse_factors(options, _RAW)
        config = open_json(folder / CONFIG, self.holds)
        hook_points = [hook_point_of(name) for name in _hook_names(config, "crosscoder")]
        paths = [folder / f"params_layer_{i}.safetensors" for i in range(len(hook_points))]
        more = sorted({path.name for path in folder.glob("params_layer_*.safetensors")} - {path.name for path in paths})
        if more:
            raise ValueError(f"{folder} holds {more[0]}, but {config.path} names {len(paths)} hook points; fetch it again")
        weights, threshold = _one_crosscoder(paths, self.holds)
        config.expect_sizes(width=("features", weights.n_features))
        config.refuse_rest()
        return weights.crosscoder(hook_points, jumprelu_threshold(threshold))


class GemmaScope2Reader(Reader):
    """`config.json` and `params.safetensors`."""

    name = "Gemma Scope 2"
    layout = f"{CONFIG} and {SAFETENSORS}"
    marks = (SAFETENSORS,)
    others = (CONFIG,)

    def read(self, folder: Path, options: Options) -> Crosscoder:
        refuse_factors(options, _RAW)
        config = open_json(folder / CONFIG, self.holds)
        names = _hook_names(config, "sae")
        if len(names) != 1:
            raise ValueError(f"{config.path} names {len(names)} hook points, an SAE reads one; fetch the folder again")
        hook_point = hook_point_of(names[0])
        weights, threshold = _sae(open_safetensors(folder / SAFETENSORS, self.holds), "w_enc", "w_dec")
        if config.flag("apply_b_dec_to_input"):
            weights = weights.with_input_bias(weights.b_dec)
        config.expect_sizes(width=("features", weights.n_features))
        config.refuse_rest()
        return weights.crosscoder((hook_point,), threshold)


class GemmaScope1Reader(Reader):
    """`params.npz`; the layer is in the name of the folder, such as `layer_20/width_16k/average_l0_71`."""

    name = "Gemma Scope 1"
    layout = NPZ
    marks = (NPZ,)

    def read(self, folder: Path, options: Options) -> Crosscoder:
        refuse_factors(options, _RAW)
        place = folder.resolve()
        _refuse_other_sites(place)
        layers = [match[1] for part in (place, *place.parents[:2]) if (match := re.fullmatch(r"layer_(\d+)", part.name))]
        hook_points = one_hook_point(options, f"blocks.{layers[0]}.hook_resid_post" if layers else None, folder)
        weights, threshold = _sae(open_npz(folder / NPZ, self.holds), "W_enc", "W_dec")
        return weights.crosscoder(hook_points, threshold)


def _hook_names(config: Settings, kind: str) -> list[str]:
    """The hooks that the configuration names, once it is sure that it is of this kind."""
    stated = config.text("type", kind)
    if stated != kind:
        raise ValueError(
            f"{config.path} says type: {stated!r}; of Gemma Scope 2, crosscoders and residual SAEs are read, not transcoders, "
            "which read one place and write another"
        )
    config.expect("architecture", ("jump_relu",), "only 'jump_relu' is known")
    config.expect("affine_connection", (False,), _SKIP["affine"])
    read, written = config.text("hf_hook_point_in"), config.text("hf_hook_point_out")
    if read is None:
        raise ValueError(f"{config.path} has no hf_hook_point_in, which names the layers; fetch it again")
    if written not in (None, read):
        raise ValueError(f"{config.path} reads {read!r} and writes {written!r}; only those that write where they read are read")
    config.ignore("model_name", "l0")
    several = _LAYERS.fullmatch(read)
    return [f"{several[1]}{layer.strip()}{several[3]}" for layer in several[2].split(",")] if several else [read]


def _one_crosscoder(paths: Sequence[Path], holds: str) -> tuple[Weights, torch.Tensor]:
    """Weights and thresholds; files are read one at a time into tensors of the final size."""
    weights, threshold = None, None
    for point, path in enumerate(paths):
        tensors, points = open_safetensors(path, holds), len(paths)
        if weights is None:
            d_model, n = tensors.take("w_enc", shape=(None, None)).shape
            total = n * points
            weights = Weights(
                torch.zeros(points, d_model, total),
                torch.empty(total),
                torch.empty(total, points, d_model),
                torch.empty(points, d_model),
            )
            threshold = torch.empty(total)
        own = slice(point * n, (point + 1) * n)
        weights.W_enc[point, :, own] = tensors.take("w_enc", shape=(d_model, n))
        weights.b_enc[own] = tensors.take("b_enc", shape=(n,))
        weights.W_dec[own] = tensors.take("w_dec", shape=(n, points, d_model))
        weights.b_dec[point] = tensors.take("b_dec", shape=(d_model,))
        threshold[own] = tensors.take("threshold", shape=(n,))
        tensors.refuse_rest(_SKIP)
    return weights, threshold


def _sae(tensors: Tensors, w_enc: str, w_dec: str) -> tuple[Weights, torch.Tensor]:
    b_enc = tensors.take("b_enc", shape=(None,))
    n_features = len(b_enc)
    W_enc = tensors.take(w_enc, shape=(None, n_features))
    d_model = len(W_enc)
    weights = Weights.of_one_point(
        W_enc,
        b_enc,
        tensors.take(w_dec, shape=(n_features, d_model)),
        tensors.take("b_dec", shape=(d_model,)),
    )
    threshold = jumprelu_threshold(tensors.take("threshold", shape=(n_features,)))
    tensors.refuse_rest(_SKIP)
    return weights, threshold


def _refuse_other_sites(place: Path) -> None:
    """Raise a `ValueError` if the names of the folders say that this is no residual SAE; the file does not."""
    for part in place.parts:
        if re.search(r"gemma-scope.*-(mlp|att|transcoders)$", part):
            raise ValueError(f"{place} is of {part.rpartition('--')[2]}; only residual SAEs, gemma-scope-...-res, are read")
    if "embedding" in (place.name, place.parent.name, place.parent.parent.name):
        raise ValueError(f"{place} reads the embedding before Gemma scales it, which is no hook point; use one of a layer")
