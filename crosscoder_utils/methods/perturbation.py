"""The post's perturbation: gradient descent on what is added to the residual stream."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from crosscoder_utils.io.validation import Count, Rate, Seed, settings
from crosscoder_utils.methods.base import SearchMethod, random_like

if TYPE_CHECKING:
    from crosscoder_utils.engine import Attempts


@settings
class Perturbation(SearchMethod):
    """Find by gradient descent, at each token, a small perturbation under which the encoder gives what is wanted.

    To ablate, the loss is the squared activation, so that descent ends where the feature no longer fires; to clamp, it is the
    squared distance of the pre-activation from the value. With several features, their losses are added up.

    Attributes:
        lr: Learning rate, 0 or more.
        steps: Number of gradient steps per token at most.
        random: Control: seed of random directions that replace the perturbation that was found, with the same norms.
    """

    lr: Rate
    steps: Count = 15
    random: Seed = None
    name: ClassVar[str] = "perturbation"
    strength_name: ClassVar[str] = "lr"

    @property
    def idle(self) -> bool:
        return self.lr == 0 or self.steps == 0

    @staticmethod
    def deltas(methods: Sequence["Perturbation"], attempts: "Attempts") -> Float[Tensor, "row point d_model"]:
        deltas = attempts.zero_deltas()  # the perturbation's negative; descending on one is descending on the other
        lr = deltas.new_tensor([m.lr for m in methods])[:, None, None]
        steps = torch.tensor([m.steps for m in methods], device=lr.device)
        rows = torch.arange(len(methods), device=lr.device)  # those still descending
        for done in range(max(m.steps for m in methods)):
            going = steps[rows] > done
            if done:
                going &= loss != 0  # where no feature fires, no gradient is left either
            if not going.all():
                rows, attempts = rows[going], attempts.select(going)
            if not len(rows):
                break
            with torch.enable_grad():
                tried = deltas[rows].requires_grad_()
                loss = attempts.losses(tried)
                (gradient,) = torch.autograd.grad(loss.sum(), tried)
            deltas[rows] = tried.detach() - lr[rows] * gradient
        for row, method in enumerate(methods):
            if method.random is not None:
                deltas[row] = random_like(deltas[row], method.random)
        return deltas
