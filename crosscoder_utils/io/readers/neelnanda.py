"""Crosscoders of neelnanda-io/Crosscoders (layers of one model), and of ckkissane's replication for two models."""

import re
from collections.abc import Sequence
from pathlib import Path

from crosscoder_utils.crosscoder import Crosscoder
from crosscoder_utils.io.readers.checked_files import open_json, open_pickle
from crosscoder_utils.io.readers.options import Options
from crosscoder_utils.io.readers.reader import Reader
from crosscoder_utils.io.readers.settings import Settings
from crosscoder_utils.io.readers.weights import Weights, given_factors, hook_point_of, one_model, relu_threshold

_VERSION = re.compile(r"(\d+)\.pt")
_TRAINING = """
    seed batch_size buffer_mult buffer_size buffer_batches lr num_tokens l1_coeff beta1 beta2 seq_len enc_dtype model_name site
    device model_batch_size log_every save_every dec_init_norm name wandb_project wandb_entity n_models dataset log_interval
    save_interval model_name_a model_name_b
"""
_NOT_IN_FILE = (
    "its weights act on scaled activations, and the factors are in no file: 1 / normalisation_factor of the training code, or "
    "estimated_norm_scaling_factor of each model in the replication"
)


class NeelNandaReader(Reader):
    """`N.pt` and `N_cfg.json`, N counting the saves of a run: the newest is read."""

    name = "neelnanda-io/Crosscoders"
    layout = "N.pt and N_cfg.json"
    several_models = True

    def files(self, names: Sequence[str]) -> list[str]:
        versions = [int(match[1]) for name in names if (match := _VERSION.fullmatch(name)) and f"{match[1]}_cfg.json" in names]
        return [f"{max(versions)}_cfg.json", f"{max(versions)}.pt"] if versions else []

    def read(self, folder: Path, options: Options) -> Crosscoder:
        config, weights = self.files([path.name for path in folder.iterdir()])
        return _read(folder, folder / config, folder / weights, self.holds, options)


class ReplicationReader(Reader):
    """`cfg.json` and `cc_weights.pt`."""

    name = "crosscoder-model-diff-replication"
    layout = "cfg.json and cc_weights.pt"
    marks = ("cc_weights.pt",)
    others = ("cfg.json",)
    several_models = True

    def read(self, folder: Path, options: Options) -> Crosscoder:
        return _read(folder, folder / "cfg.json", folder / "cc_weights.pt", self.holds, options)


def _read(folder: Path, config_path: Path, weights_path: Path, holds: str, options: Options) -> Crosscoder:
    config, tensors = open_json(config_path, holds), open_pickle(weights_path, holds)
    W_enc = tensors.take("W_enc", shape=(None, None, None))
    slices, d_model, n_features = W_enc.shape
    config.expect_sizes(dict_size=("features", n_features), d_in=("d_model", d_model))
    weights = Weights(
        W_enc=W_enc,
        b_enc=tensors.take("b_enc", shape=(n_features,)),
        W_dec=tensors.take("W_dec", shape=(n_features, slices, d_model)),
        b_dec=tensors.take("b_dec", shape=(slices, d_model)),
    )
    tensors.refuse_rest()
    hook_points, of_models = _hook_points(config, slices, options)
    config.ignore(*_TRAINING.split())
    config.refuse_rest()
    if of_models:
        weights = weights.only(one_model(options, slices, folder))
    weights = weights.with_factors(given_factors(options, weights.n_points, f"{folder}: {_NOT_IN_FILE}"))
    return weights.crosscoder(hook_points, relu_threshold(n_features))


def _hook_points(config: Settings, slices: int, options: Options) -> tuple[list[int] | None, bool]:
    """Hook points, and whether the first axis of the weights counts models at one hook point instead of layers."""
    name = config.text("hook_point")
    if name is not None:
        return [hook_point_of(name)], True
    if options.model_index is not None:
        return None, True
    site = config.text("site", "resid_post")
    if site not in ("resid_pre", "resid_post"):
        raise ValueError(f"{config.path} says site: {site!r}; crosscoders here read 'resid_pre' or 'resid_post'")
    return [hook_point_of(f"blocks.{layer}.hook_{site}") for layer in range(slices)], False
