"""Methods that move pre-activations to a value, without a learning rate."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from crosscoder_utils.io.validation import Goal, Scale, Seed, settings
from crosscoder_utils.methods.base import SearchMethod, controlled
from crosscoder_utils.methods.solving import combination, solve

if TYPE_CHECKING:
    from crosscoder_utils.engine import Attempts


@settings
class NaturalPerturbation(SearchMethod):
    """Find, at each token, the most likely change of the residual stream that moves the pre-activation to a value.

    Of all changes P that do, to first order the one with the least ``P^T S^-1 P``, where S is the covariance of the stream at
    each hook point (hook points are taken to be independent). Gauss-Newton steps: ``P <- P + S g (to - p) / (g^T S g)``, with
    g the gradient of the pre-activation p; with several features g is a Jacobian, and the division a linear system.

    Attributes:
        to: With `Ablate`: "zero" (as None), "off", the mean pre-activation of the feature on training tokens on which it does
            not fire, or a number. `Clamp` says the value itself.
        random: Control: seed of random directions that replace what was found, with the same norms.
    """

    to: Goal = None
    random: Seed = None
    name: ClassVar[str] = "natural perturbation"

    @property
    def aims(self) -> bool:
        return True

    @property
    def statistics(self) -> bool:
        return True

    @staticmethod
    def deltas(methods: Sequence["NaturalPerturbation"], attempts: "Attempts") -> Float[Tensor, "row point d_model"]:
        covariance = attempts.statistics.covariance
        return controlled(methods, solve(attempts, lambda rows, jacobian: torch.einsum("pde,rtpe->rtpd", covariance, jacobian)))


@settings
class Patch(SearchMethod):
    """Set the residual stream at every hook point of a token to itself plus multiples of the features' vectors.

    The multiples are those with which the features, encoded from the stream that is set, have the pre-activation `to`: the
    solution of a linear system, since nothing lies between what is set and what is encoded.

    Attributes:
        to: As for `NaturalPerturbation`.
        along: "decoder" vectors, or the "pattern": how the stream changes with the pre-activation on training texts
            (`FeatureStatistics.pattern`).
        random: Control: seed of random directions that replace what was added, with the same norms.
    """

    to: Goal = None
    along: Literal["decoder", "pattern"] = "decoder"
    random: Seed = None
    name: ClassVar[str] = "patch"

    @property
    def aims(self) -> bool:
        return True

    @property
    def statistics(self) -> bool:
        return self.to == "off" or self.along == "pattern"

    @staticmethod
    def deltas(methods: Sequence["Patch"], attempts: "Attempts") -> Float[Tensor, "row point d_model"]:
        stream, targets = attempts.unedited[:, 0], attempts.targets
        vectors = attempts.decoder.clone()
        for row, method in enumerate(methods):
            if method.along == "pattern":
                vectors[row] = attempts.statistics.pattern[targets.features[row]]
        encoder = targets.encoder
        pre, system = encoder.pre_activations(stream[:, None])[:, 0], encoder.pre_activations(vectors)
        system = (system - encoder.bias[:, None]).transpose(1, 2)
        wanted, multiples = targets.acting(pre[:, None])[:, 0], torch.zeros_like(pre)
        for _ in range(pre.shape[1]):  # as often as another feature may begin to fire
            multiples = combination(system, targets.goal - pre, wanted)
            wanted = wanted | targets.acting((pre + (system @ multiples[..., None])[..., 0])[:, None])[:, 0]
        patched = stream + torch.einsum("rt,rtpd->rpd", multiples, vectors)
        return controlled(methods, attempts.deltas_to(patched))


@settings
class SteepestDescent(SearchMethod):
    """Add the gradient of the pre-activation where nothing is added, at each token: downwards to ablate, upwards to steer.

    Several features' gradients are added up, each with the sign of its way to the goal.

    Attributes:
        scale: Norm of what is added relative to the residual stream's, at the hook point where that is largest (as
            `relative_edit_norm` in tables). "auto" finds each feature's own multiple of its gradient that moves its
            pre-activation to `to`.
        to: Only with scale="auto"; as for `NaturalPerturbation`.
        random: Control: seed of random directions that replace the gradient, with the same norms.
    """

    scale: Scale = "auto"
    to: Goal = None
    random: Seed = None
    name: ClassVar[str] = "steepest descent"
    steers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.to is not None and self.scale != "auto":
            raise ValueError(f"SteepestDescent: to={self.to!r} is what scale='auto' moves the feature to; leave one out")

    @property
    def idle(self) -> bool:
        return self.scale == 0

    @property
    def aims(self) -> bool:
        return self.scale == "auto"

    @staticmethod
    def deltas(methods: Sequence["SteepestDescent"], attempts: "Attempts") -> Float[Tensor, "row point d_model"]:
        deltas, aiming = _steepest(methods, attempts), torch.tensor([m.aims for m in methods], device=attempts.tokens.device)
        if aiming.any():
            part = attempts if aiming.all() else attempts.select(aiming)
            gradients = part.linearized(part.zero_deltas())[1]
            deltas[aiming] = solve(part, lambda rows, _: gradients[rows])
        return controlled(methods, deltas)


def _steepest(methods: Sequence[SteepestDescent], attempts: "Attempts") -> Float[Tensor, "row point d_model"]:
    """The gradient with the norm that the methods' scales say; nothing where that is "auto"."""
    zero, targets = attempts.zero_deltas(), attempts.targets
    scales = zero.new_tensor([0.0 if m.aims else m.scale for m in methods])[:, None, None]
    if not scales.any():
        return zero
    pre, jacobian = attempts.linearized(zero)
    signs = (targets.goal - pre).sign() * targets.acting(pre[:, None])[:, 0]
    direction, stream = torch.einsum("rt,rtpd->rpd", signs, jacobian), attempts.unedited[:, 0].to(zero.dtype)
    largest = (direction.norm(dim=-1) / stream.norm(dim=-1)).amax(1)[:, None, None]
    return torch.where(largest > 0, scales * direction / largest, 0.0)
