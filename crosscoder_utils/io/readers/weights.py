"""What readers share: weights in this package's layout, what is folded into them, and rules for active features."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from crosscoder_utils.crosscoder import Crosscoder
from crosscoder_utils.io.readers.options import Options

NEVER = torch.finfo(torch.float32).max
"""A threshold that no pre-activation exceeds."""

_TRANSFORMER_LENS = re.compile(r"blocks\.(\d+)\.hook_resid_(pre|post)")
_TRANSFORMERS = re.compile(r"(?:[\w.]+\.)?(?:layers|h)\.(\d+)(?:\.output)?")


def hook_point_of(name: str) -> int:
    """Convert a hook name to a hook point: 0 is after the embedding, l after block l.

    ``blocks.0.hook_resid_pre`` is 0 and ``blocks.l.hook_resid_post`` is l + 1, as are the names that transformers gives a
    block's output, ``model.layers.l`` and ``transformer.h.l``, with or without ``.output``.

    Raises:
        ValueError: If the hook is not on the residual stream between blocks.
    """
    if match := _TRANSFORMER_LENS.fullmatch(name):
        return int(match[1]) + (match[2] == "post")
    if match := _TRANSFORMERS.fullmatch(name):
        return int(match[1]) + 1
    raise ValueError(
        f"{name!r} is no residual stream between blocks; crosscoders here read 'blocks.N.hook_resid_pre' or '...post'"
    )


@dataclass(frozen=True)
class Weights:
    """Encoder and decoder in the layout of `Crosscoder`, float32."""

    W_enc: Float[Tensor, "point d_model feature"]
    b_enc: Float[Tensor, " feature"]
    W_dec: Float[Tensor, "feature point d_model"]
    b_dec: Float[Tensor, "point d_model"]

    @staticmethod
    def of_one_point(
        W_enc: Float[Tensor, "d_model feature"],
        b_enc: Float[Tensor, " feature"],
        W_dec: Float[Tensor, "feature d_model"],
        b_dec: Float[Tensor, " d_model"],
    ) -> "Weights":
        """Those of an SAE."""
        return Weights(W_enc[None], b_enc, W_dec[:, None], b_dec[None])

    @property
    def n_points(self) -> int:
        return self.W_enc.shape[0]

    @property
    def n_features(self) -> int:
        return self.W_enc.shape[2]

    def with_factors(self, factors: Float[Tensor, " point"]) -> "Weights":
        """Those that act on raw activations, where these act on activations times `factors`."""
        return replace(
            self,
            W_enc=self.W_enc * factors[:, None, None],
            W_dec=self.W_dec / factors[:, None],
            b_dec=self.b_dec / factors[:, None],
        )

    def with_input_bias(self, bias: Float[Tensor, "point d_model"]) -> "Weights":
        """Those that read raw activations, where the encoder of these reads activations minus `bias`."""
        return replace(self, b_enc=self.b_enc - torch.einsum("pd,pdf->f", bias, self.W_enc))

    def with_unit(self, norm: Float[Tensor, " feature"]) -> "Weights":
        """Those whose activations are these ones' times `norm`, with the same reconstruction; where it is 0, never active."""
        divisor = torch.where(norm > 0, norm, 1.0)[:, None, None]
        return replace(self, W_enc=self.W_enc * norm, b_enc=self.b_enc * norm, W_dec=self.W_dec / divisor)

    def only(self, point: int) -> "Weights":
        """Those of one point, or of one model where the first axis counts models."""
        one = slice(point, point + 1)
        return Weights(self.W_enc[one], self.b_enc, self.W_dec[:, one], self.b_dec[one])

    def crosscoder(
        self,
        hook_points: Sequence[int] | None,
        threshold: Float[Tensor, " feature"],
        k: int | None = None,
        center: bool = False,
    ) -> Crosscoder:
        """The crosscoder, its hook points in ascending order."""
        W_enc, W_dec, b_dec = self.W_enc, self.W_dec, self.b_dec
        if hook_points is not None and len(hook_points) == self.n_points:
            order = sorted(range(self.n_points), key=hook_points.__getitem__)
            hook_points = sorted(hook_points)
            if order != list(range(self.n_points)):
                W_enc, W_dec, b_dec = W_enc[order], W_dec[:, order], b_dec[order]
        return Crosscoder(
            W_enc=W_enc.contiguous(),
            b_enc=self.b_enc.contiguous(),
            threshold=threshold.contiguous(),
            W_dec=W_dec.contiguous(),
            b_dec=b_dec.contiguous(),
            center=center,
            hook_points=None if hook_points is None else tuple(hook_points),
            k=k,
        )


def relu_threshold(n_features: int) -> Float[Tensor, " feature"]:
    """Thresholds of a ReLU."""
    return torch.zeros(n_features)


def jumprelu_threshold(threshold: Float[Tensor, " feature"]) -> Float[Tensor, " feature"]:
    """Thresholds of a JumpReLU that multiplies a ReLU: a negative one leaves the ReLU alone."""
    return threshold.clamp(min=0)


def topk_threshold(n_features: int, signed: bool) -> Float[Tensor, " feature"]:
    """Thresholds beside TopK: none if negative pre-activations may be among the k largest, else those of a ReLU."""
    return torch.full((n_features,), -math.inf if signed else 0.0)


def check_k(k: int | None, n_features: int, path: Path) -> int:
    """Return the k of a TopK, or raise a `ValueError` if there is none or it is out of range."""
    if k is None:
        raise ValueError(f"{path} states no k; add the number of active features per token to it")
    if not 0 < k <= n_features:
        raise ValueError(f"{path} says k: {k}, which is out of range; its weights have {n_features} features")
    return k


def batch_topk_threshold(options: Options, k: int | float | None, n_features: int) -> Float[Tensor, " feature"]:
    """The threshold that the caller gave, for a BatchTopK without one.

    Raises:
        ValueError: If none was given.
    """
    if options.threshold is None:
        raise ValueError(
            "BatchTopK says which features are active in a whole batch, not on one token; give threshold=..., for instance "
            f"from threshold_for(residuals, k={k}) of the crosscoder loaded with threshold=0"
        )
    return torch.full((n_features,), options.threshold)


def given_factors(options: Options, n_points: int, reason: str) -> Float[Tensor, " point"]:
    """The caller's scale factors.

    Raises:
        ValueError: If there are none, with the reason why they are needed, or not one for each hook point.
    """
    factors = options.scaling_factors
    if factors is None:
        raise ValueError(
            f"{reason}; give scaling_factors=[...], the factor on the activations at each of the {n_points} hook points"
        )
    if len(factors) != n_points:
        raise ValueError(f"scaling_factors={list(factors)} should be {n_points} positive numbers, one per hook point")
    return torch.tensor(factors, dtype=torch.float32)


def refuse_factors(options: Options, reason: str) -> None:
    """Raise a `ValueError` if the caller gave scale factors, with the reason why none are needed."""
    if options.scaling_factors is not None:
        raise ValueError(f"scaling_factors={list(options.scaling_factors)} cannot be used: {reason}; leave them out")


def one_model(options: Options, n_models: int, folder: Path) -> int:
    """Index of the model whose weights to take.

    Raises:
        ValueError: If there are several models and none was chosen, or the chosen one does not exist.
    """
    index = options.model_index
    if index is None and n_models > 1:
        raise ValueError(f"{folder} is a crosscoder over {n_models} models; choose one with model_index=0..{n_models - 1}")
    if index is not None and index >= n_models:
        raise ValueError(f"model_index={index} does not exist in {folder}; it has 0..{n_models - 1}")
    return index or 0


def one_hook_point(options: Options, name: str | None, folder: Path) -> tuple[int, ...]:
    """The hook point of an SAE whose files may not state it.

    Args:
        options: The caller's hook points count where there is no name.
        name: Its hook name, as far as the files or the folder say.
        folder: For the error message.

    Raises:
        ValueError: If neither says it, or the name is not of the residual stream between blocks.
    """
    stated = None if name is None else (hook_point_of(name),)
    hook_points = stated or options.hook_points
    if hook_points is None:
        raise ValueError(
            f"{folder} does not say which hook point it reads; give hook_points=[l]: 0 is after the embedding, l after block l"
        )
    return hook_points
