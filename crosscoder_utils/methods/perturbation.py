"""The post's perturbation: gradient descent on what is added to the residual stream."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from crosscoder_utils.io.validation import Count, Penalty, Rate, Seed, settings
from crosscoder_utils.methods.base import SearchMethod, controlled

if TYPE_CHECKING:
    from crosscoder_utils.engine import Attempts


@settings
class Perturbation(SearchMethod):
    """Find by gradient descent, at each token, a small perturbation under which the encoder gives what is wanted.

    To ablate, the loss is the squared activation, so that descent ends where the feature no longer fires; to clamp, it is the
    squared distance of the pre-activation from the value. With several features, their losses are added up. Descent ends early
    where the loss without the penalty is 0.

    Attributes:
        lr: Learning rate, 0 or more.
        steps: Number of gradient steps per token at most.
        random: Control: seed of random directions that replace the perturbation that was found, with the same norms.
        penalty: Weight in the loss of the summed squared changes of all other features' activations, against the token
            without a perturbation. None: 0.
    """

    lr: Rate
    steps: Count = 15
    random: Seed = None
    penalty: Penalty = None
    name: ClassVar[str] = "perturbation"
    strength_name: ClassVar[str] = "lr"

    @property
    def idle(self) -> bool:
        return self.lr == 0 or self.steps == 0

    @staticmethod
    def deltas(methods: Sequence["Perturbation"], attempts: "Attempts") -> Float[Tensor, "row point d_model"]:
        deltas = attempts.zero_deltas()  # the perturbation's negative; descending on one is descending on the other
        lr = deltas.new_tensor([m.lr for m in methods])[:, None, None]
        penalty = deltas.new_tensor([m.penalty or 0.0 for m in methods])[:, None, None]
        steps = torch.tensor([m.steps for m in methods], device=lr.device)
        rows = torch.arange(len(methods), device=lr.device)  # those still descending
        losing = torch.ones_like(rows, dtype=torch.bool)
        for done in range(max(m.steps for m in methods)):
            going = (steps[rows] > done) & losing
            if not going.all():
                rows, attempts = rows[going], attempts.select(going)
            if not len(rows):
                break
            loss, gradient = _descent(attempts, deltas[rows], penalty[rows])
            losing = loss != 0  # where no feature fires, no gradient is left either
            deltas[rows] -= lr[rows] * gradient.masked_fill(loss[:, None, None] == 0, 0.0)
        return controlled(methods, deltas)


def _descent(
    attempts: "Attempts", deltas: Float[Tensor, "row point d_model"], penalty: Float[Tensor, "row 1 1"]
) -> tuple[Float[Tensor, " row"], Float[Tensor, "row point d_model"]]:
    """The losses under `deltas`, without penalty, and the gradient with it."""
    if not penalty.any():
        values, gradients = attempts.linearized(deltas, lambda tried: attempts.losses(tried)[:, None])
        return values[:, 0], gradients[:, 0]
    _ = attempts.unedited  # read without gradients

    def parts(tried: Float[Tensor, "row point d_model"]) -> Float[Tensor, "row part"]:
        stream = attempts.residuals(tried)
        return torch.stack([attempts.losses_of(stream), attempts.others_change(stream)], dim=1)

    values, gradients = attempts.linearized(deltas, parts)
    return values[:, 0], gradients[:, 0] + penalty * gradients[:, 1]
