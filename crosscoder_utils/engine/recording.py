"""What was recorded of rows that have ended, as arrays of each row's own tokens."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from crosscoder_utils.engine.batch import Batch, Limits
from crosscoder_utils.engine.targets import Targets
from crosscoder_utils.hooks import read
from crosscoder_utils.loading import Setup
from crosscoder_utils.prompts import padded


@torch.no_grad()
def records_of(setup: Setup, batch: Batch, limits: Limits) -> Iterator[dict[str, Float[np.ndarray, "token ..."]]]:
    """Per row: name -> what was recorded at each token of prompt and completion, BOS left out; empty if nothing was."""
    if batch.records is None:
        yield from ({} for _ in range(len(batch)))
        return
    records, targets = batch.records, Targets.of([r.intervention for r in batch.requests], setup.crosscoder)
    tables = {
        "activation_before": targets.encoder.activate(records.pre_before),
        "activation_after": targets.encoder.activate(records.pre_after),
        "pre_activation_before": records.pre_before,
        "pre_activation_after": records.pre_after,
        "edit_norm": records.edit_norm,
        "residual_norm": records.residual_norm,
    }
    if limits.record == "everything":
        tables |= _others(setup, batch, targets, limits)
    arrays = {name: table.cpu().numpy() for name, table in tables.items()}
    first = (batch.start + int(setup.preset.prepend_bos)).tolist()
    for row, (begin, end, request) in enumerate(zip(first, batch.end.tolist(), batch.requests, strict=True)):
        own = {name: array[row, begin:end] for name, array in arrays.items()}
        n_targets = 0 if isinstance(request.intervention.feature, int) else slice(len(request.intervention.features))
        yield {name: array[:, n_targets] if "activation" in name else array for name, array in own.items()}


def _others(setup: Setup, batch: Batch, targets: Targets, limits: Limits) -> dict[str, Float[Tensor, "row position"]]:
    """How far the features that are no targets moved: both runs are read once more, whole, and encoded in full."""
    change, relative = (torch.zeros_like(batch.records.residual_norm[..., 0]) for _ in range(2))
    for rows in limits.parts(batch.rows, batch.tokens.shape[1]):
        own, deltas = batch.select(rows), _deltas(batch.select(rows), targets.select(rows))
        is_target = torch.zeros(len(rows), 1, setup.crosscoder.n_features, dtype=torch.bool, device=rows.device)
        for row, request in enumerate(own.requests):
            is_target[row, :, list(request.intervention.features)] = True
        # Without padding on the left, no mask is needed.
        begins, ends = own.start.tolist(), own.end.tolist()
        bos = int(setup.preset.prepend_bos)
        ids = [own.tokens[row, begin + bos : end].tolist() for row, (begin, end) in enumerate(zip(begins, ends))]
        tokens = padded(ids, setup.tokenizer, setup.preset.prepend_bos, setup.device).tokens
        at = (own.start[:, None] + torch.arange(tokens.shape[1], device=rows.device)).clamp(max=deltas.shape[1] - 1)
        moved = deltas[torch.arange(len(rows), device=rows.device)[:, None], at]
        before, after = (_encode(setup, tokens, edit).masked_fill_(is_target, 0.0) for edit in (None, moved))
        total = (after - before).abs().sum(-1)
        change[rows[:, None], at] = total / (~is_target).sum(-1)
        relative[rows[:, None], at] = total / before.sum(-1).clamp(min=1e-9)
    return {"others_change": change, "others_change_relative": relative}


def _deltas(batch: Batch, targets: Targets) -> Float[Tensor, "row position point d_model"]:
    if batch.records.deltas is not None:
        return batch.records.deltas
    return targets.deltas(targets.coefficients(batch.records.pre_before) * batch.editable[..., None])


def _encode(setup: Setup, tokens: Tensor, edit: Tensor | None) -> Float[Tensor, "row pos feature"]:
    return setup.crosscoder.encode(read(setup.model, tokens, edit, hook_points=setup.hook_points).residuals)
