"""A crosscoder: one sparse dictionary over the residual stream of all layers.

A sparse autoencoder (SAE) on one hook point is the case of one layer, and goes through the same methods.

Shapes: ``point`` counts the hook points that the crosscoder was trained on, ``feature`` dictionary entries; ``any`` is any
number of leading axes such as batch and position.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Crosscoder:
    """An acausal crosscoder: its encoder reads all its hook points, its decoder writes to all of them.

    A feature is active where its pre-activation exceeds its threshold (JumpReLU; with thresholds of 0, ReLU), and, if `k` is
    given, is among the k largest of the token (TopK; thresholds are -inf then).

    Attributes:
        W_enc: Encoder weights.
        b_enc: Encoder bias.
        threshold: What the pre-activation has to exceed.
        W_dec: Decoder directions.
        b_dec: Decoder bias.
        center: Whether activations lose their mean over d_model before encoding, as TransformerLens 2 models' did.
        hook_points: Which of the model's: 0 after the embedding, l after block l; ascending. None is all of them.
        k: Most features that are active on a token; None for any number.
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
        points, d_model, features = self.W_enc.shape
        expected = {
            "b_enc": (features,),
            "threshold": (features,),
            "W_dec": (features, points, d_model),
            "b_dec": (points, d_model),
        }
        for name, shape in expected.items():
            if tuple(getattr(self, name).shape) != shape:
                raise ValueError(
                    f"{name} has shape {tuple(getattr(self, name).shape)} but W_enc {tuple(self.W_enc.shape)} asks for "
                    f"{shape}; the weights do not belong together"
                )
        places = self.hook_points
        if places is not None and (len(places) != points or list(places) != sorted(set(places)) or places[0] < 0):
            raise ValueError(
                f"hook_points={places} do not name the {points} hook points of the weights; give as many, ascending, from 0 "
                "(after the embedding) on"
            )
        if self.k is not None and not 0 < self.k <= features:
            raise ValueError(f"k={self.k} is out of range; this crosscoder has {features} features")

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

    def pre_activations(
        self, residuals: Float[Tensor, "*any point d_model"], features: Sequence[int] | None = None
    ) -> Float[Tensor, "*any feature"]:
        """What the JumpReLU is applied to: ``p = sum_l y_l W_enc[l] + b_enc``; of `features` only, if given."""
        W_enc, b_enc = self.W_enc, self.b_enc
        if features is not None:
            W_enc, b_enc = W_enc[..., features], b_enc[features]
        return self._centered(residuals).flatten(-2) @ W_enc.flatten(0, 1) + b_enc

    def activate(
        self, pre_activations: Float[Tensor, "*any feature"], features: Sequence[int] | Tensor | None = None
    ) -> Float[Tensor, "*any feature"]:
        """The pre-activation where the feature is active, else 0.

        Raises:
            ValueError: If only some features are given, but whether they are active depends on the others (TopK).
        """
        threshold = self.threshold if features is None else self.threshold[features]
        active = torch.where(pre_activations > threshold, pre_activations, 0.0)
        if self.k is None:
            return active
        if features is not None:
            raise ValueError(f"with k={self.k} a feature's activation depends on all others; encode all of them")
        values, largest = active.topk(self.k, dim=-1)
        return torch.zeros_like(active).scatter(-1, largest, values)

    def encode(
        self, residuals: Float[Tensor, "*any point d_model"], features: Sequence[int] | None = None
    ) -> Float[Tensor, "*any feature"]:
        """Feature activations; of `features` only, if given."""
        if self.k is not None and features is not None:
            return self.encode(residuals)[..., features]
        return self.activate(self.pre_activations(residuals, features), features)

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

    def check_feature(self, feature: int) -> int:
        """Return `feature`, or raise an `IndexError` if there is no such feature."""
        if isinstance(feature, bool) or not 0 <= feature < self.n_features:
            raise IndexError(f"feature {feature} does not exist; this crosscoder has features 0..{self.n_features - 1}")
        return int(feature)

    def check_point(self, point: int) -> int:
        """Return `point`, or raise an `IndexError` if there is no such hook point."""
        if isinstance(point, bool) or not 0 <= point < self.n_points:
            places = "" if self.hook_points is None else f" (of the model: {self.hook_points})"
            raise IndexError(
                f"hook point {point} does not exist; this crosscoder has hook points 0..{self.n_points - 1}{places}"
            )
        return int(point)

    def _centered(self, residuals: Tensor) -> Tensor:
        return residuals - residuals.mean(-1, keepdim=True) if self.center else residuals


def tensor_bytes(tensor: Tensor) -> np.ndarray:
    """What a tensor of any dtype and device holds, byte by byte."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
