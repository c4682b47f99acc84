"""Methods that add the features' decoder terms, at one hook point or at all."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from crosscoder_utils.crosscoder import Crosscoder
from crosscoder_utils.io.validation import Number, Numbers, Seed, Whole, settings
from crosscoder_utils.methods.base import DecoderMethod, random_like


@settings
class SingleLayer(DecoderMethod):
    """Add `scale` times the features' decoder terms at one hook point.

    Attributes:
        point: Hook point, counted from 0 among those of the crosscoder.
        scale: 1 adds the term itself.
        random: Control: seed of random directions that replace the features' own, with the same norms. None: no control.
    """

    point: Whole
    scale: Number = 1.0
    random: Seed = None
    name: ClassVar[str] = "single layer"

    def check(self, crosscoder: Crosscoder) -> None:
        crosscoder.check_point(self.point)

    def directions(self, W_dec: Float[Tensor, "target point d_model"]) -> Float[Tensor, "target point d_model"]:
        directions = torch.zeros_like(W_dec)
        directions[:, self.point] = self.scale * W_dec[:, self.point]
        return directions if self.random is None else random_like(directions, self.random)


@settings
class ManyLayers(DecoderMethod):
    """Add `scale` times the features' decoder terms at every hook point.

    Attributes:
        scale: One number, or one per hook point. None means 1 / (number of hook points).
        random: Control: seed of random directions that replace the features' own, with the same norms. None: no control.
    """

    scale: Numbers = None
    random: Seed = None
    name: ClassVar[str] = "many layers"

    def check(self, crosscoder: Crosscoder) -> None:
        if isinstance(self.scale, tuple) and len(self.scale) != crosscoder.n_points:
            raise ValueError(
                f"scale has {len(self.scale)} numbers, the crosscoder {crosscoder.n_points} hook points; give one for each"
            )

    def directions(self, W_dec: Float[Tensor, "target point d_model"]) -> Float[Tensor, "target point d_model"]:
        scale = 1 / W_dec.shape[1] if self.scale is None else self.scale
        directions = W_dec.new_tensor(scale).reshape(-1, 1) * W_dec
        return directions if self.random is None else random_like(directions, self.random)
