"""What was recorded of rows that have ended, as arrays of each row's own tokens."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from crosscoder_utils.engine.batch import Batch, Limits
from crosscoder_utils.hooks import read
from crosscoder_utils.io.tokens import padded
from crosscoder_utils.loading import Setup


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class RowRecords:
    """What the features and the residual stream did at each token of a row, BOS left out; None for an untouched row.

    With several features, activations are [token, target].

    Attributes:
        activation_before: The feature's activation in the clean model.
        activation_after: The same, encoded from the edited stream.
        pre_activation_before: As `activation_before`, without the JumpReLU.
        pre_activation_after: As `activation_after`, without the JumpReLU.
        edit_norm: Norm of what was added to the stream.
        residual_norm: Norm of the clean stream.
    """

    activation_before: Float[np.ndarray, "token *target"] | None = None
    activation_after: Float[np.ndarray, "token *target"] | None = None
    pre_activation_before: Float[np.ndarray, "token *target"] | None = None
    pre_activation_after: Float[np.ndarray, "token *target"] | None = None
    edit_norm: Float[np.ndarray, "token point"] | None = None
    residual_norm: Float[np.ndarray, "token point"] | None = None


@torch.no_grad()
def records_of(setup: Setup, batch: Batch, limits: Limits) -> Iterator[dict[str, Float[np.ndarray, "token ..."]]]:
    """Per row: name -> what was recorded at each token of prompt and completion, BOS left out; empty if nothing was."""
    if batch.records is None:
        yield from ({} for _ in range(len(batch)))
        return
    for rows in limits.parts(batch.rows, batch.tokens.shape[1]):
        part = batch.select(rows)
        arrays = {name: table.cpu().numpy() for name, table in _tables(setup, part, limits.record == "everything").items()}
        bounds = torch.stack([part.content_start - part.start, part.end - part.start], dim=1).tolist()
        for row, (request, (first, stop)) in enumerate(zip(part.requests, bounds, strict=True)):
            own = {name: array[row, first:stop] for name, array in arrays.items()}
            if not request.intervention.method.aims:
                own.pop("missed", None)  # only kept for others of the batch
            target = 0 if isinstance(request.intervention.feature, int) else slice(len(request.intervention.features))
            yield {name: array[:, target] if "activation" in name else array for name, array in own.items()}


def _tables(setup: Setup, batch: Batch, everything: bool) -> dict[str, Float[Tensor, "row pos ..."]]:
    """The records, without padding on the left."""
    bounds = torch.stack([batch.start, batch.end], dim=1).tolist()
    ids = [batch.tokens[row, begin:end].tolist() for row, (begin, end) in enumerate(bounds)]
    tokens = padded(ids, setup.tokenizer, setup.preset.prepend_bos, setup.device).tokens  # they have their BOS
    at = (batch.start[:, None] + torch.arange(tokens.shape[1], device=setup.device)).clamp(max=batch.tokens.shape[1] - 1)
    moved = {name: table[batch.rows[:, None], at] for name, table in vars(batch.records).items() if table is not None}
    tables = {
        "activation_before": batch.targets.encoder.activate(moved["pre_before"]),
        "activation_after": batch.targets.encoder.activate(moved["pre_after"]),
        "pre_activation_before": moved["pre_before"],
        "pre_activation_after": moved["pre_after"],
        "edit_norm": moved["edit_norm"],
        "residual_norm": moved["residual_norm"],
    }
    tables |= {"missed": moved["missed"]} if "missed" in moved else {}
    if everything:
        deltas = moved.get("deltas")
        if deltas is None:
            editable = batch.editable[batch.rows[:, None], at, None]
            deltas = batch.targets.deltas(batch.targets.coefficients(moved["pre_before"]) * editable)
        tables |= _others(setup, batch, tokens, deltas)
    return tables


def _others(setup: Setup, batch: Batch, tokens: Tensor, deltas: Tensor) -> dict[str, Float[Tensor, "row pos"]]:
    """How far the features that are no targets moved: both runs are read once more, whole, and encoded in full."""
    is_target = torch.zeros(len(batch), 1, setup.crosscoder.n_features, dtype=torch.bool, device=tokens.device)
    for row, request in enumerate(batch.requests):
        is_target[row, :, list(request.intervention.features)] = True
    runs = [read(setup.model, tokens, edit, hook_points=setup.hook_points) for edit in (None, deltas)]
    before, after = (setup.crosscoder.encode(run.residuals).masked_fill_(is_target, 0.0) for run in runs)
    total = (after - before).abs().sum(-1)
    return {
        "others_change": total / (~is_target).sum(-1),
        "others_change_relative": total / before.sum(-1).clamp(min=1e-9),
    }
