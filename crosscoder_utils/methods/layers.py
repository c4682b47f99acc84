"""Methods that add the features' decoder terms, at one hook point or at all."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from crosscoder_utils.crosscoder import Crosscoder
from crosscoder_utils.io.validation import Goal, Scale, Scales, Seed, Whole, settings
from crosscoder_utils.methods.base import DecoderMethod, controlled, random_like
from crosscoder_utils.methods.solving import solve

if TYPE_CHECKING:
    from crosscoder_utils.engine import Attempts


class _Layers(DecoderMethod):
    """Decoder terms, times a scale that is given, or with "auto" found at each token."""

    def __post_init__(self) -> None:
        if self.to is not None and self.scale != "auto":
            raise ValueError(f"{type(self).__name__}: to={self.to!r} is what scale='auto' moves the feature to; leave one out")

    @property
    def searches(self) -> bool:
        return self.scale == "auto"

    @property
    def aims(self) -> bool:
        return self.searches

    @property
    def idle(self) -> bool:
        return False

    def directions(self, W_dec: Float[Tensor, "target point d_model"]) -> Float[Tensor, "target point d_model"]:
        directions = self.terms(W_dec)
        return directions if self.random is None else random_like(directions, self.random)

    @staticmethod
    def deltas(methods: Sequence["_Layers"], attempts: "Attempts") -> Float[Tensor, "row point d_model"]:
        """With scale="auto": each feature's own multiple of its decoder term that moves it to its goal."""
        terms = torch.stack([m.terms(own) for m, own in zip(methods, attempts.decoder, strict=True)])
        return controlled(methods, solve(attempts, lambda rows, jacobian: terms[rows]))


@settings
class SingleLayer(_Layers):
    """Add `scale` times the features' decoder terms at one hook point.

    Attributes:
        point: Hook point, counted from 0 among those of the crosscoder.
        scale: 1 adds the term itself. "auto" finds at each token the scale at which the pre-activation, encoded from the
            intervened run, is `to`.
        random: Control: seed of random directions that replace the features' own, with the same norms. None: no control.
        to: Only with scale="auto" and `Ablate`: "zero" (as None), "off", the mean pre-activation of the feature on training
            tokens on which it does not fire, or a number.
    """

    point: Whole
    scale: Scale = 1.0
    random: Seed = None
    to: Goal = None
    name: ClassVar[str] = "single layer"

    def check(self, crosscoder: Crosscoder) -> None:
        crosscoder.check_point(self.point)

    def terms(self, W_dec: Float[Tensor, "target point d_model"]) -> Float[Tensor, "target point d_model"]:
        terms = torch.zeros_like(W_dec)
        terms[:, self.point] = (1.0 if self.searches else self.scale) * W_dec[:, self.point]
        return terms


@settings
class ManyLayers(_Layers):
    """Add `scale` times the features' decoder terms at every hook point.

    Attributes:
        scale: One number, or one per hook point. None means 1 / (number of hook points). "auto" finds at each token the scale
            at which the pre-activation, encoded from the intervened run, is `to`.
        random: Control: seed of random directions that replace the features' own, with the same norms. None: no control.
        to: As for `SingleLayer`.
    """

    scale: Scales = None
    random: Seed = None
    to: Goal = None
    name: ClassVar[str] = "many layers"

    def check(self, crosscoder: Crosscoder) -> None:
        if isinstance(self.scale, tuple) and len(self.scale) != crosscoder.n_points:
            raise ValueError(
                f"scale has {len(self.scale)} numbers, the crosscoder {crosscoder.n_points} hook points; give one for each"
            )

    def terms(self, W_dec: Float[Tensor, "target point d_model"]) -> Float[Tensor, "target point d_model"]:
        if self.searches:
            return W_dec
        return W_dec.new_tensor(1 / W_dec.shape[1] if self.scale is None else self.scale).reshape(-1, 1) * W_dec
