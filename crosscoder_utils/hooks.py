"""One pass over the residual stream: read it at every hook point, add deltas to it, keep a KV cache.

Hook point 0 is the residual stream after the embedding, hook point l the stream after block l.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import DynamicCache


def hook_point_names(model: TransformerBridge) -> list[str]:
    """TransformerLens names of the residual hook points, in order."""
    blocks = range(model.cfg.n_layers)
    return ["blocks.0.hook_in", *(f"blocks.{i}.hook_out" for i in blocks)]


@contextmanager
def residual_hooks(
    model: TransformerBridge, deltas: Float[Tensor, "row pos point d_model"] | None = None
) -> Iterator[list[Float[Tensor, "row pos d_model"]]]:
    """Within the context, passes through `model` add `deltas` and append the (edited) stream to the yielded list.

    The hooks are gone when the context is left, also by an exception.

    Example:
        >>> with residual_hooks(model) as captured:
        ...     model(tokens)
        >>> torch.stack(captured, dim=-2).shape  # [row, pos, point, d_model]
    """
    captured: list[Tensor] = []

    def hook_for(point: int):
        def hook(residual: Tensor, hook) -> Tensor:
            if deltas is not None:
                residual = residual + deltas[:, :, point].to(residual.dtype)
            captured.append(residual)
            return residual

        return hook

    with model.hooks(fwd_hooks=[(name, hook_for(point)) for point, name in enumerate(hook_point_names(model))]):
        yield captured


@dataclass(frozen=True)
class Pass:
    """What one pass gave.

    Attributes:
        residuals: The stream as the next block saw it, deltas included.
        logits: Of all positions, or of the last one only.
    """

    residuals: Float[Tensor, "row pos point d_model"]
    logits: Float[Tensor, "row pos vocab"]


class Stream:
    """A model reading left-padded rows of text piece by piece, with a KV cache of what it has read.

    `peek` tries deltas without reading on; `read` moves on. Two streams over one model do not know of each other: their
    caches are their own.
    """

    def __init__(self, model: TransformerBridge) -> None:
        self.model = model
        self._cache: DynamicCache | None = None
        self._mask: Tensor | None = None

    def read(
        self,
        tokens: Int[Tensor, "row pos"],
        mask: Bool[Tensor, "row pos"],
        deltas: Float[Tensor, "row pos point d_model"] | None = None,
        all_logits: bool = False,
    ) -> Pass:
        """Read `tokens` with `deltas` added to the stream, and keep their keys and values."""
        result, self._cache, self._mask = self._run(tokens, mask, deltas, all_logits)
        return result

    def peek(
        self,
        tokens: Int[Tensor, "row pos"],
        mask: Bool[Tensor, "row pos"],
        deltas: Float[Tensor, "row pos point d_model"] | None = None,
    ) -> Pass:
        """What `read` would give, leaving the stream where it is."""
        return self._run(tokens, mask, deltas, all_logits=False)[0]

    def _run(self, tokens: Tensor, mask: Tensor, deltas: Tensor | None, all_logits: bool):
        if self._mask is not None:
            mask = torch.cat([self._mask, mask], dim=1)
        # Left padding is right only with positions counted from the mask.
        positions = (mask.long().cumsum(1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        cache = _fork(self._cache)
        with residual_hooks(self.model, deltas) as captured:
            logits = self.model(
                tokens,
                attention_mask=mask.long(),
                position_ids=positions,
                past_key_values=cache,
                **({} if all_logits else {"logits_to_keep": 1}),
            )
        return Pass(torch.stack(captured, dim=-2), logits), cache, mask


def _fork(cache: DynamicCache | None) -> DynamicCache:
    """A cache with the same contents that grows by itself: growing makes new tensors and leaves the shared ones alone."""
    fork = DynamicCache()
    for index, layer in enumerate(cache.layers if cache is not None else ()):
        fork.update(layer.keys, layer.values, index)
    return fork
