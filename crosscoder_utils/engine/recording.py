"""What the features and the residual stream did, from the tables of a batch that has been written."""

import numpy as np
import torch
from torch import Tensor

from crosscoder_utils.engine.token_writing import TokenWriter
from crosscoder_utils.engine.writing import Writer
from crosscoder_utils.hooks import read

RECORDS = ("target", "everything", "nothing")


@torch.no_grad()
def records_of(writer: Writer, record: str) -> dict[str, np.ndarray]:
    """Name -> table [row, column, ...]; empty for untouched rows and where nothing is asked for."""
    if record == "nothing" or not writer.touched:
        return {}
    tables = {
        "activation_before": _activate(writer, writer.pre_before),
        "activation_after": _activate(writer, writer.pre_after),
        "pre_activation_before": writer.pre_before,
        "pre_activation_after": writer.pre_after,
        "edit_norm": _edit_norm(writer),
        "residual_norm": writer.residual_norm,
    }
    if record == "everything":
        tables |= _others(writer)
    return {name: table.cpu().numpy() for name, table in tables.items()}


def _activate(writer: Writer, pre_activations: Tensor) -> Tensor:
    return writer.targets.activate(pre_activations)


def _edit_norm(writer: Writer) -> Tensor:
    if isinstance(writer, TokenWriter):
        return writer.deltas.norm(dim=-1)
    # |sum_k c_k d_k|^2 = sum_jk c_j c_k (d_j . d_k)
    directions = writer.targets.directions
    products = torch.einsum("rjpd,rkpd->rpjk", directions, directions)
    return torch.einsum("rcj,rpjk,rck->rcp", writer.coefficients, products, writer.coefficients).clamp(min=0).sqrt()


def _others(writer: Writer) -> dict[str, Tensor]:
    """How far the features that are no targets moved: both streams read whole once more, and encoded in full."""
    crosscoder, targets = writer.setup.crosscoder, writer.targets
    change, relative = (torch.zeros_like(writer.residual_norm[..., 0]) for _ in range(2))
    is_target = torch.zeros(len(writer.source), crosscoder.n_features, dtype=torch.bool, device=change.device)
    for row, own in enumerate(writer.source):
        is_target[row, list(own.intervention.features)] = True
    for part in writer.limits.parts(len(writer.source), int(writer.length.max())):
        width = int(writer.length[part].max())
        tokens = writer.tokens[part, :width]
        if isinstance(writer, TokenWriter):
            edit = writer.deltas[part, :width]
        else:
            edit = targets.select(part).edits(writer.coefficients[part, :width])
        mask = is_target[part, None]
        before, after = (_encode(writer, tokens, one).masked_fill_(mask, 0.0) for one in (None, edit))
        moved = (after - before).abs().sum(-1)
        change[part, :width] = moved / (~mask).sum(-1)
        relative[part, :width] = moved / before.sum(-1).clamp(min=1e-9)
    return {"others_change": change, "others_change_relative": relative}


def _encode(writer: Writer, tokens: Tensor, edit) -> Tensor:
    crosscoder = writer.setup.crosscoder
    return crosscoder.encode(read(writer.model, tokens, edit, hook_points=crosscoder.hook_points).residuals)
