"""One token at which methods try what to add: what they may ask the intervened run, and the crosscoder."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crosscoder_utils.crosscoder import Crosscoder
from crosscoder_utils.engine.cache import Window
from crosscoder_utils.engine.cached_run import Run
from crosscoder_utils.engine.targets import Targets
from crosscoder_utils.methods.statistics import FeatureStatistics


@dataclass(frozen=True, eq=False)
class Attempts:
    """One token of each row, at which a method may try deltas before the text goes on.

    Attributes:
        targets: The rows' features.
        run: The intervened run.
        window: Its past before the token.
        tokens: The tokens.
        crosscoder: The whole of it.
        statistics: Those of the setup, if a row's method needs them.
    """

    targets: Targets
    run: Run
    window: Window
    tokens: Int[Tensor, "row 1"]
    crosscoder: Crosscoder
    statistics: FeatureStatistics | None = None

    def residuals(self, deltas: Float[Tensor, "row point d_model"]) -> Float[Tensor, "row 1 point d_model"]:
        """The residual stream under `deltas`; differentiable in them. Nothing of it is kept."""
        return self.run.read_window(self.window, self.tokens, lambda point: deltas[:, None, point]).residuals

    def pre_activations(self, deltas: Float[Tensor, "row point d_model"]) -> Float[Tensor, "row target"]:
        """The features' pre-activations, encoded from the residual stream under `deltas`."""
        return self.targets.encoder.pre_activations(self.residuals(deltas))[:, 0]

    def losses(self, deltas: Float[Tensor, "row point d_model"]) -> Float[Tensor, " row"]:
        """The interventions' losses under `deltas`."""
        return self.losses_of(self.residuals(deltas))

    def losses_of(self, residuals: Float[Tensor, "row 1 point d_model"]) -> Float[Tensor, " row"]:
        """The interventions' losses with this residual stream."""
        return self.targets.losses(self.targets.encoder.pre_activations(residuals))[:, 0]

    def linearized(
        self, deltas: Float[Tensor, "row point d_model"], of: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Float[Tensor, "row value"], Float[Tensor, "row value point d_model"]]:
        """The pre-activations under `deltas` and their Jacobian; or those of another function of `deltas`."""
        with torch.enable_grad():
            tried = deltas.detach().requires_grad_()
            values = (of or self.pre_activations)(tried)
            columns = values.sum(0).unbind()  # what one row adds changes no other row's values
            gradients = [torch.autograd.grad(one, tried, retain_graph=one is not columns[-1])[0] for one in columns]
        return values.detach(), torch.stack(gradients, dim=1)

    @cached_property
    def unedited(self) -> Float[Tensor, "row 1 point d_model"]:
        """The residual stream where nothing is added."""
        return self.residuals(self.zero_deltas())

    @property
    def decoder(self) -> Float[Tensor, "row target point d_model"]:
        """The features' decoder vectors."""
        return self.crosscoder.W_dec[self.targets.features]

    def others_change(self, residuals: Float[Tensor, "row 1 point d_model"]) -> Float[Tensor, " row"]:
        """Sum of the squared changes of all other features' activations, against the token without an edit."""
        encoder = self.crosscoder.encoder()
        now, before = (encoder.activate(encoder.pre_activations(one)[:, 0]) for one in (residuals, self.unedited))
        own = torch.zeros_like(now).scatter_add(1, self.targets.features, self.targets.real.to(now.dtype)) > 0
        return (now - before).masked_fill(own, 0.0).square().sum(1)

    def deltas_to(self, values: Float[Tensor, "row point d_model"]) -> Float[Tensor, "row point d_model"]:
        """What has to be added at each hook point so that the residual stream is `values` at all of them."""
        found = []

        def edit(point: int) -> Callable[[Tensor], Tensor]:
            def missing(residual: Tensor) -> Tensor:
                found.append(values[:, None, point].to(residual.dtype) - residual)
                return found[-1]

            return missing

        self.run.read_window(self.window, self.tokens, edit)
        return torch.stack(found, dim=-2)[:, 0].to(values.dtype)

    def zero_deltas(self) -> Float[Tensor, "row point d_model"]:
        return torch.zeros_like(self.targets.directions[:, 0])

    def select(self, rows: Tensor) -> "Attempts":
        """Those of some rows."""
        return replace(self, targets=self.targets.select(rows), window=self.window.select(rows), tokens=self.tokens[rows])
