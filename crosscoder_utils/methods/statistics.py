"""What methods need to know of a setup: how features and the residual stream behave on training texts.

Measured once, and kept in the user's cache: the folder that the environment variable CROSSCODER_UTILS_CACHE names, else
`crosscoder_utils` in XDG_CACHE_HOME or `~/.cache`. A file is named after everything that made it. A cache that cannot be
written is no error; then they are measured again in every process.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from crosscoder_utils.crosscoder import tensor_bytes
from crosscoder_utils.hooks import read
from crosscoder_utils.io.datasets import read_rows
from crosscoder_utils.io.files import read_safetensors, whole_file
from crosscoder_utils.io.tokens import leading_bos, padded, token_ids
from crosscoder_utils.io.torch_defaults import own_settings
from crosscoder_utils.io.transformers_models import config_settings
from crosscoder_utils.io.validation import Texts, instance, whole_number
from crosscoder_utils.io.validation import texts as checked_texts
from crosscoder_utils.loading import Setup

if TYPE_CHECKING:
    from crosscoder_utils.interventions import Intervention

N_TOKENS = 20_000
"""Training tokens that statistics are measured on by default.

On both embedded models (width 128 and 20 training prompts, tag and mediator feature), shares of stories change by 5 points at
most from 3,000 tokens on with a natural perturbation and an automatic scale, and by 15 with a patch along the pattern; see
benchmarks/evidence.
"""
RIDGE = 1e-3
"""Share of its mean diagonal that is added to the diagonal of a covariance, so that it has an inverse."""
_VERSION = 1
_BATCH = 32


@dataclass(frozen=True, eq=False)
class FeatureStatistics:
    """Measured over the tokens of training texts, BOS left out.

    Attributes:
        mean_off: Mean pre-activation of each feature over the tokens on which it does not fire; NaN if it always fires.
        mean_on: The same over the tokens on which it fires; NaN if it never fires.
        covariance: Of the residual stream at each hook point, with `RIDGE`.
        pattern: Covariance of each feature's pre-activation with the residual stream at all hook points: the encoder weights
            times the stream's whole covariance, which says how the stream changes with the feature (Haufe et al. 2014,
            doi.org/10.1016/j.neuroimage.2013.10.067).
        n_tokens: Number of tokens.
        made_for: 16 hexadecimal digits of the model and the crosscoder.
        digest: The same of these and the tokens.
    """

    mean_off: Float[Tensor, " feature"]
    mean_on: Float[Tensor, " feature"]
    covariance: Float[Tensor, "point d_model d_model"]
    pattern: Float[Tensor, "feature point d_model"]
    n_tokens: int
    made_for: str
    digest: str

    def off(self, feature: int) -> float:
        """Mean pre-activation of a feature where it does not fire; raises a `ValueError` if it always fires."""
        if self.mean_off[feature].isnan():
            raise ValueError(
                f"feature {feature} fires on all of {self.n_tokens} training tokens, so to='off' has no mean to take; use "
                "to='zero' or a number, or statistics of more texts"
            )
        return float(self.mean_off[feature])


_IN_USE: WeakKeyDictionary[Setup, FeatureStatistics] = WeakKeyDictionary()
_GIVEN: WeakKeyDictionary[Setup, str] = WeakKeyDictionary()


@own_settings
@torch.no_grad()
def feature_statistics(setup: Setup, n_tokens: int = N_TOKENS, texts: Texts | None = None) -> FeatureStatistics:
    """Measure statistics, or read them from the cache if the same were measured before.

    Args:
        setup: From `load`.
        n_tokens: Number of tokens, the first ones of the texts. With fewer in them, all are taken.
        texts: By default the preset's training texts, of both kinds, in their order.

    Raises:
        ValueError: If the preset has no data and no texts are given, or if there are fewer tokens than twice the width of the
            residual stream, from which no covariance can be told.
    """
    instance("setup", setup, Setup, "make one with load()")
    ids, count = _token_rows(setup, whole_number("n_tokens", n_tokens, 1), texts)
    least = 2 * setup.crosscoder.d_model
    if count < least:
        raise ValueError(
            f"statistics of {count} tokens do not tell a covariance of width {setup.crosscoder.d_model}; give at least {least} "
            "tokens, with n_tokens= or more texts"
        )
    made_for = _made_for(setup)
    digest = hashlib.sha256(json.dumps([made_for, list(map(list, ids))]).encode()).hexdigest()[:16]
    tensors = _cached(setup, digest)
    if tensors is None:
        tensors = _measured(setup, ids, count)
        with contextlib.suppress(OSError, ValueError), whole_file(_path(digest)) as aside:  # measured again next time
            save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, aside)
    tensors = {name: tensor.to(setup.device) for name, tensor in tensors.items()}
    return FeatureStatistics(**tensors, n_tokens=count, made_for=made_for, digest=digest)


def set_statistics(setup: Setup, statistics: FeatureStatistics) -> None:
    """Let methods use these statistics with a setup, in place of those of the preset's first `N_TOKENS` training tokens.

    Raises:
        ValueError: If they are another model's or crosscoder's.
    """
    instance("setup", setup, Setup, "make one with load()")
    instance("statistics", statistics, FeatureStatistics, "measure them with feature_statistics(setup)")
    if statistics.made_for != _made_for(setup) or statistics.pattern.device != setup.device:
        raise ValueError(
            f"statistics were measured with another model, crosscoder or device than setup {setup.preset.name!r} has; measure "
            "them with feature_statistics(setup)"
        )
    _IN_USE[setup], _GIVEN[setup] = statistics, statistics.digest


def given_statistics(setup: Setup) -> str | None:
    """Digest of what `set_statistics` was given, on which results depend then; None if they are the preset's."""
    return _GIVEN.get(setup)


def statistics_for(setup: Setup, interventions: Sequence["Intervention | None"]) -> FeatureStatistics | None:
    """The setup's statistics if a method needs them, measured if need be; raises what `feature_statistics` raises."""
    needing = next((one.method for one in interventions if one is not None and one.method.statistics), None)
    if needing is None:
        return None
    if setup not in _IN_USE:
        if setup.preset.data is None:
            raise ValueError(
                f"{needing} needs statistics of training texts, and preset {setup.preset.name!r} has no data; give some: "
                "set_statistics(setup, feature_statistics(setup, texts=[...]))"
            )
        _IN_USE[setup] = feature_statistics(setup)
    return _IN_USE[setup]


def _token_rows(setup: Setup, n_tokens: int, texts: Texts | None) -> tuple[list[list[int]], int]:
    """Token ids of texts, each cut after the context, up to the number of tokens, and how many they are without BOS."""
    if texts is None:
        given: Iterator[str] = (row["text"] for row in read_rows(setup.preset.data, "train", setup.preset.name))
    else:
        given = iter(checked_texts("texts", texts))
    rows, left = [], n_tokens
    for text in given:
        ids = token_ids(setup.tokenizer, text)
        own_bos = leading_bos(setup.tokenizer, ids)
        row = ids[: min(setup.preset.context - (setup.preset.prepend_bos and not own_bos), left + own_bos)]
        rows += [row] if len(row) > own_bos else []
        left -= len(row) - own_bos
        if left <= 0:
            break
    return rows, n_tokens - left


def _measured(setup: Setup, ids: Sequence[Sequence[int]], count: int) -> dict[str, Tensor]:
    """Sums over batches are kept in double precision, of deviations from the first batch's mean."""
    crosscoder, encoder = setup.crosscoder, setup.crosscoder.encoder()
    sums, shift = {}, None
    for first in range(0, len(ids), _BATCH):
        batch = padded(ids[first : first + _BATCH], setup.tokenizer, setup.preset.prepend_bos, setup.device)
        stream = read(setup.model, batch.tokens, hook_points=setup.hook_points).residuals[batch.content]
        pre = encoder.pre_activations(stream)
        fires = (encoder.activate(pre) != 0).to(stream.dtype)
        pre = pre.to(stream.dtype)
        shift = (stream.mean(0), pre.mean(0)) if shift is None else shift
        y, p = stream - shift[0], pre - shift[1]
        part = {
            "n": torch.tensor(float(len(y))), "y": y.sum(0), "p": p.sum(0), "yy": torch.einsum("tpd,tpe->pde", y, y),
            "yp": (y.flatten(1).T @ p), "on": fires.sum(0), "p_on": (pre * fires).sum(0), "p_off": (pre * (1 - fires)).sum(0),
        }  # fmt: skip
        sums = {name: sums.get(name, 0.0) + value.double() for name, value in part.items()}
    n = sums["n"].item()
    y, p = sums["y"] / n, sums["p"] / n
    covariance = sums["yy"] / n - y[:, :, None] * y[:, None]
    mean_diagonal = covariance.diagonal(dim1=1, dim2=2).mean(1)
    covariance += (RIDGE * mean_diagonal)[:, None, None] * torch.eye(y.shape[1], dtype=y.dtype, device=y.device)
    pattern = sums["yp"] / n - y.flatten()[:, None] * p
    found = {
        "mean_off": sums["p_off"] / (n - sums["on"]), "mean_on": sums["p_on"] / sums["on"], "covariance": covariance,
        "pattern": pattern.T.unflatten(1, y.shape),
    }  # fmt: skip
    return {name: value.to(crosscoder.W_enc.dtype) for name, value in found.items()}


def _made_for(setup: Setup) -> str:
    model = setup.transformers_model
    said = [_VERSION, setup.crosscoder.digest(), str(setup.crosscoder.W_enc.dtype), setup.preset.prepend_bos]
    digest = hashlib.sha256(json.dumps([*said, config_settings(model.config)], sort_keys=True).encode())
    for _, tensor in sorted(model.state_dict().items()):
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()[:16]


def _path(digest: str) -> Path:
    environment = os.environ
    folder = environment.get("CROSSCODER_UTILS_CACHE")
    if not folder:
        folder = Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "crosscoder_utils"
    return Path(folder) / f"statistics-{digest}.safetensors"


def _cached(setup: Setup, digest: str) -> dict[str, Tensor] | None:
    """What a file of the cache holds; None if there is none, or it is damaged."""
    W_dec = setup.crosscoder.W_dec
    n_features, points, width = W_dec.shape
    shapes = {"mean_off": (n_features,), "mean_on": (n_features,), "covariance": (points, width, width), "pattern": W_dec.shape}
    try:
        tensors = read_safetensors(_path(digest))
    except (OSError, RuntimeError, ValueError):
        return None
    fits = {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {n: tuple(s) for n, s in shapes.items()}
    return tensors if fits and all(tensor.dtype == W_dec.dtype for tensor in tensors.values()) else None
