"""Moving pre-activations to a value at one token: Newton's method, which the methods without a learning rate share.

All of them add combinations of some vectors B_j, one for each feature, and differ in the vectors only. With the
pre-activations p of the token under what is added, and their Jacobian J, one step is ``P <- P + B (J B)^-1 (goal - p)``. A
step that does not come nearer is halved.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

if TYPE_CHECKING:
    from crosscoder_utils.engine import Attempts

MOST_STEPS = 20
"""Steps per token at most. Two to four do, since a pre-activation is nearly linear in what is added."""

Spread = Callable[[Tensor, Float[Tensor, "row target point d_model"]], Float[Tensor, "row target point d_model"]]
"""The vectors B_j of some rows (given by their numbers), and the Jacobian there."""


def solve(attempts: "Attempts", spread: Spread) -> Float[Tensor, "row point d_model"]:
    """What to add so that the re-encoded pre-activations are the rows' goals; where no step comes near, the nearest try.

    Only features that the intervention acts on are moved; with ablation those that fire, also if they begin to fire on the way.
    """
    targets, best = attempts.targets, attempts.zero_deltas()
    pre, jacobian = attempts.linearized(best)
    wanted = targets.acting(pre[:, None])[:, 0]
    stop = torch.finfo(pre.dtype).eps ** 0.5 * _distance(targets.goal, pre, wanted).clamp(min=targets.SHORT)
    share, rows = torch.ones_like(stop), torch.arange(len(pre), device=pre.device)  # of a step; the rows still moving
    for _ in range(MOST_STEPS):
        goal, basis = targets.goal[rows], spread(rows, jacobian)
        steps = combination(torch.einsum("rtpd,rupd->rtu", jacobian, basis), goal - pre, wanted[rows])
        tried = best[rows] + torch.einsum("r,rt,rtpd->rpd", share[rows], steps, basis)
        some = attempts.select(rows)
        there, its_jacobian = some.linearized(tried)
        wanted[rows] |= some.targets.acting(there[:, None])[:, 0]
        now, distance = _distance(goal, pre, wanted[rows]), _distance(goal, there, wanted[rows])
        nearer = distance < now  # never where something is infinite or NaN
        best[rows[nearer]], pre[nearer], jacobian[nearer] = tried[nearer], there[nearer], its_jacobian[nearer]
        share[rows] = torch.where(nearer, 1.0, share[rows] / 2)
        going = torch.minimum(distance.nan_to_num(torch.inf), now) > stop[rows]
        rows, pre, jacobian = rows[going], pre[going], jacobian[going]
        if not len(rows):
            break
    return best


def combination(
    system: Float[Tensor, "row target target"], missing: Float[Tensor, "row target"], wanted: Bool[Tensor, "row target"]
) -> Float[Tensor, "row target"]:
    """The multiples c of each row's vectors for which ``system c = missing`` at the wanted targets; others have none.

    Of a singular system, the least squares solution of least norm.
    """
    dtype, wide = system.dtype, torch.promote_types(system.dtype, torch.float32)  # no linear algebra in half precision
    system, missing, both = system.to(wide), missing.to(wide), wanted[:, :, None] & wanted[:, None]
    system = torch.where(both, system, 0.0).nan_to_num(0.0, 0.0, 0.0) + torch.diag_embed((~wanted).to(system.dtype))
    missing = torch.where(wanted, missing, 0.0).nan_to_num(0.0, 0.0, 0.0)
    inverse = torch.linalg.pinv(system, rtol=torch.finfo(wide).eps ** 0.75)
    return (inverse @ missing[..., None])[..., 0].to(dtype)


def _distance(
    goal: Float[Tensor, "row target"], pre: Float[Tensor, "row target"], wanted: Bool[Tensor, "row target"]
) -> Float[Tensor, " row"]:
    return torch.where(wanted, (goal - pre).abs(), 0.0).amax(1)
