"""A crosscoder: one sparse dictionary over the residual stream of all layers.

A sparse autoencoder (SAE) on one hook point is the case of one layer, and goes through the same methods.

Shapes: ``point`` counts the hook points that the crosscoder was trained on, ``feature`` dictionary entries; ``any`` is any
number of leading axes such as batch and position.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from numbers import Integral

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class FeatureEncoder:
    """The encoder of some features, or of all: the one place where residuals are centred, cast and multiplied.

    Either the same features for everything that is read, or features of its own for each row of a batch.

    Attributes:
        weights: Encoder weights, the hook points' one after the other.
        bias: Encoder bias.
        threshold: A feature is active where its pre-activation exceeds it.
        center: Whether residuals lose their mean over d_model first.
    """

    weights: Float[Tensor, "*row flat feature"]
    bias: Float[Tensor, "*row feature"]
    threshold: Float[Tensor, "*row feature"]
    center: bool

    def pre_activations(self, residuals: Float[Tensor, "*any point d_model"]) -> Float[Tensor, "*any feature"]:
        """``p = sum_l y_l W_enc[l] + b_enc``; with features of their own, rows are the residuals' first axis."""
        residuals = residuals.to(self.weights.dtype)
        if self.center:
            residuals = residuals - residuals.mean(-1, keepdim=True)
        return residuals.flatten(-2) @ self.weights + self._beside_tokens(self.bias)

    def activate(self, pre_activations: Float[Tensor, "*any feature"]) -> Float[Tensor, "*any feature"]:
        """The pre-activation where it exceeds the threshold, else 0 (JumpReLU); NaN stays NaN."""
        return torch.where(pre_activations <= self._beside_tokens(self.threshold), 0.0, pre_activations)

    def select(self, rows: Tensor | slice) -> "FeatureEncoder":
        """That of some rows."""
        return FeatureEncoder(self.weights[rows], self.bias[rows], self.threshold[rows], self.center)

    def _beside_tokens(self, values: Tensor) -> Tensor:
        return values if values.ndim == 1 else values[:, None]


@dataclass(frozen=True, eq=False)
class Crosscoder:
    """An acausal crosscoder: its encoder reads all its hook points, its decoder writes to all of them.

    A feature is active where its pre-activation exceeds its threshold (JumpReLU; with thresholds of 0, ReLU), and, if `k` is
    given, is among the k largest of the token (TopK; thresholds are -inf then).

    Attributes:
        W_enc: Encoder weights.
        b_enc: Encoder bias.
        threshold: A feature is active where its pre-activation exceeds it.
        W_dec: Decoder directions.
        b_dec: Decoder bias.
        center: Whether residuals lose their mean over d_model before encoding, as in TransformerLens 2's processed models.
        hook_points: Hook points of the model that this crosscoder covers, ascending: 0 is after the embedding, l after block l.
            None means all of them.
        k: TopK: at most so many features are active on a token. None means any number.
    """

    W_enc: Float[Tensor, "point d_model feature"]
    b_enc: Float[Tensor, " feature"]
    threshold: Float[Tensor, " feature"]
    W_dec: Float[Tensor, "feature point d_model"]
    b_dec: Float[Tensor, "point d_model"]
    center: bool = False
    hook_points: tuple[int, ...] | None = None
    k: int | None = None

    def __post_init__(self) -> None:
        tensors, W_enc, covered = (self.b_enc, self.threshold, self.W_dec, self.b_dec), self.W_enc, self.hook_points
        if W_enc.ndim != 3 or not W_enc.is_floating_point() or any(one.dtype != W_enc.dtype for one in tensors):
            raise ValueError(f"W_enc is {tuple(W_enc.shape)}, {W_enc.dtype}; it needs 3 axes, and all tensors one float dtype")
        p, d, f = W_enc.shape
        for name, shape in {"b_enc": (f,), "threshold": (f,), "W_dec": (f, p, d), "b_dec": (p, d)}.items():
            if tuple(getattr(self, name).shape) != shape:
                raise ValueError(
                    f"{name} has shape {tuple(getattr(self, name).shape)} but W_enc {tuple(W_enc.shape)} asks for "
                    f"{shape}; take all tensors from one checkpoint"
                )
        whole = all(isinstance(n, Integral) and not isinstance(n, bool) for n in (*(covered or ()), self.k or 0))
        if not whole or not isinstance(self.center, bool):
            raise ValueError(f"hook_points={covered} and k={self.k!r} are whole numbers, center={self.center!r} true or false")
        if covered is not None and (len(covered) != p or list(covered) != sorted(set(covered)) or covered[0] < 0):
            raise ValueError(
                f"hook_points={covered} do not fit weights with {p} hook points; give {p} different ones, ascending, "
                "0 for after the embedding and l for after block l"
            )
        if self.k is not None and not 0 < self.k <= f:
            raise ValueError(f"k={self.k} is out of range; this crosscoder has {f} features")

    @property
    def n_points(self) -> int:
        return self.W_enc.shape[0]

    @property
    def d_model(self) -> int:
        return self.W_enc.shape[1]

    @property
    def n_features(self) -> int:
        return self.W_enc.shape[2]

    def digest(self) -> str:
        """16 hexadecimal digits of weights, thresholds and settings: the same wherever every activation is the same."""
        settings = [self.center, list(self.hook_points or range(self.n_points)), self.k]
        found = hashlib.sha256(json.dumps([list(self.W_enc.shape), settings]).encode())
        for tensor in (self.W_enc, self.b_enc, self.threshold, self.W_dec, self.b_dec):
            found.update(tensor_bytes(tensor))
        return found.hexdigest()[:16]

    def to(self, *args, **kwargs) -> "Crosscoder":
        """The same crosscoder on another device or in another dtype; takes what `Tensor.to` takes."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{n: t.to(*args, **kwargs) for n, t in tensors.items() if isinstance(t, Tensor)})

    def encoder(self, features: Sequence[int] | slice | Int[Tensor, "*row target"] | None = None) -> FeatureEncoder:
        """The encoder of `features`, by default of all; with one row of features for each row of a batch, of each row's own."""
        weights = self.W_enc.flatten(0, 1)
        if features is None or isinstance(features, slice):  # views of the weights
            own = slice(None) if features is None else features
            return FeatureEncoder(weights[:, own], self.b_enc[own], self.threshold[own], self.center)
        features = torch.as_tensor(features, device=weights.device)
        own = weights.T[features].transpose(-1, -2).contiguous()
        return FeatureEncoder(own, self.b_enc[features], self.threshold[features], self.center)

    def pre_activations(
        self, residuals: Float[Tensor, "*any point d_model"], features: Sequence[int] | slice | None = None
    ) -> Float[Tensor, "*any feature"]:
        """What the JumpReLU is applied to: ``p = sum_l y_l W_enc[l] + b_enc``; of `features` only, if given."""
        return self.encoder(features).pre_activations(residuals)

    def encode(
        self, residuals: Float[Tensor, "*any point d_model"], features: Sequence[int] | slice | None = None
    ) -> Float[Tensor, "*any feature"]:
        """Feature activations; of `features` only, if given."""
        if self.k is not None:
            active = self.encoder().activate(self.pre_activations(residuals))
            values, largest = active.topk(self.k, dim=-1)
            activations = torch.zeros_like(active).scatter(-1, largest, values)
            return activations if features is None else activations[..., features]
        encoder = self.encoder(features)
        return encoder.activate(encoder.pre_activations(residuals))

    def decode(self, activations: Float[Tensor, "*any feature"]) -> Float[Tensor, "*any point d_model"]:
        """Reconstruct the residual stream (its centred version, if `center`) from feature activations."""
        return (activations @ self.W_dec.flatten(1)).unflatten(-1, (self.n_points, self.d_model)) + self.b_dec

    def with_threshold(self, threshold: float) -> "Crosscoder":
        """The same dictionary with one fixed threshold for every feature, in place of TopK.

        Interventions need to know where a feature is active without all others; `threshold_for` finds a fitting one.
        """
        return replace(self, threshold=torch.full_like(self.threshold, threshold), k=None)

    def threshold_for(self, residuals: Float[Tensor, "token point d_model"], k: int | None = None) -> float:
        """The threshold above which `k` features (by default, the crosscoder's own k) are active on an average token.

        What BatchTopK dictionaries use at inference (Bussmann, Leask and Nanda 2024, arxiv.org/abs/2412.06410).

        Raises:
            ValueError: If the crosscoder has no k, and none is given.
        """
        k = k or self.k
        if k is None:
            raise ValueError("this crosscoder has thresholds and no k; give k=")
        values = self.pre_activations(residuals).flatten()
        n = min(k * len(residuals), len(values) - 1)
        at, below = values.topk(n + 1).values[-2:]
        return max(float((at + below) / 2), 0.0)

    def check_feature(self, feature: Integral) -> int:
        """Return `feature`, or raise an `IndexError` if there is no such feature."""
        if isinstance(feature, bool) or not 0 <= feature < self.n_features:
            raise IndexError(f"feature {feature} does not exist; this crosscoder has features 0..{self.n_features - 1}")
        return int(feature)

    def check_point(self, point: Integral) -> int:
        """Return `point`, or raise an `IndexError` if there is no such hook point."""
        if isinstance(point, bool) or not 0 <= point < self.n_points:
            covered = "" if self.hook_points is None else f", which are the hook points {self.hook_points} of the model"
            raise IndexError(f"point={point} does not exist; this crosscoder has points 0..{self.n_points - 1}{covered}")
        return int(point)


def tensor_bytes(tensor: Tensor) -> np.ndarray:
    """What a tensor of any dtype and device holds, byte by byte."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
