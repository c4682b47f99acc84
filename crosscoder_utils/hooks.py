"""Passes over the residual stream: read it at hook points, add to it.

Hook point 0 is the residual stream after the embedding, hook point l the stream after block l. A crosscoder may have been
trained on some of them only; ``point`` then counts those.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from crosscoder_utils.engine.kv_cache import KVCache, Past, RowCache
from crosscoder_utils.engine.plain import PlainModel, plain

Edit = Callable[[int], Float[Tensor, "row pos d_model"] | None]
"""What to add to the stream at a hook point; None for nothing."""


@contextmanager
def residual_hooks(
    model: TransformerBridge | PlainModel,
    edit: Edit | Float[Tensor, "row pos point d_model"] | None = None,
    hook_points: Sequence[int] | None = None,
) -> Iterator[list[Float[Tensor, "row pos d_model"]]]:
    """Within the context, passes through `model` are edited, and append the edited stream to the yielded list.

    The hooks are gone when the context is left, also by an exception.

    Args:
        model: A bridge, or the model inside it.
        edit: What to add to the stream: a function of the hook point (its place among `hook_points`), or all of it.
        hook_points: Which hook points, in ascending order; all of them by default.

    Example:
        >>> with residual_hooks(setup.model) as captured:
        ...     setup.model(tokens)
        >>> torch.stack(captured, dim=-2).shape  # [row, pos, point, d_model]
    """
    captured: list[Tensor] = []
    edit_at = (lambda point: edit[:, :, point]) if isinstance(edit, Tensor) else edit

    def edited(residual: Tensor, point: int) -> Tensor:
        delta = None if edit_at is None else edit_at(point)
        if delta is not None:
            residual = residual + delta.to(residual.dtype)
        captured.append(residual)
        return residual

    def before_first(block, args, kwargs):
        if args:
            return (edited(args[0], 0), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": edited(kwargs["hidden_states"], 0)}

    def after(point: int):
        def hook(block, args, output):
            if isinstance(output, tuple):
                return edited(output[0], point), *output[1:]
            return edited(output, point)

        return hook

    if hook_points is None:
        hook_points = range(len(model.blocks) + 1)
    handles = []
    for point, place in enumerate(hook_points):
        if place == 0:
            handles.append(model.blocks[0].register_forward_pre_hook(before_first, with_kwargs=True))
        else:
            handles.append(model.blocks[place - 1].register_forward_hook(after(point)))
    try:
        yield captured
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class Pass:
    """What one pass gave.

    Attributes:
        residuals: The stream as the next block saw it, edits included.
        logits: None if not asked for.
    """

    residuals: Float[Tensor, "row pos point d_model"]
    logits: Float[Tensor, "row pos vocab"] | None


def read(
    model: TransformerBridge | PlainModel,
    tokens: Int[Tensor, "row pos"],
    edit: Edit | Float[Tensor, "row pos point d_model"] | None = None,
    logits: bool = False,
    hook_points: Sequence[int] | None = None,
) -> Pass:
    """Read whole texts at once, without a cache.

    Rows of different lengths are padded on the right: what comes after a token does not change it.
    """
    return _run(model, tokens, hook_points, edit, logits)


class Stream:
    """A model reading rows of text piece by piece, with a cache of the keys and values of what it has read.

    Column c of the cache belongs to the row's token at position c, BOS included; each row may be at a column of its own.
    Reading a column again overwrites it. Two streams over one model do not know of each other.
    """

    def __init__(
        self,
        model: TransformerBridge | PlainModel,
        n_rows: int,
        n_columns: int,
        hook_points: Sequence[int] | None = None,
    ) -> None:
        self.model, self.hook_points = model, hook_points
        self.cache = RowCache(n_rows, n_columns)

    def read(
        self,
        rows: slice | Int[Tensor, " row"],
        tokens: Int[Tensor, "row pos"],
        columns: Int[Tensor, "row pos"],
        edit: Edit | None = None,
        logits: bool = False,
    ) -> Pass:
        """Read the tokens at `columns` of `rows`.

        Where rows read different numbers of tokens, the shorter ones say their last again.
        """
        return _run(self.model, tokens, self.hook_points, edit, logits, self.cache.at(rows, columns))

    def attempt(
        self, past: Past, tokens: Int[Tensor, "row 1"], deltas: Float[Tensor, "row point d_model"]
    ) -> Float[Tensor, "row 1 point d_model"]:
        """The stream at one token of each row with `deltas` added, differentiable in them; nothing is kept."""
        return _run(self.model, tokens, self.hook_points, deltas[:, None], cache=past.attempt()).residuals


def _run(model, tokens, hook_points, edit, logits: bool = False, cache: KVCache | None = None) -> Pass:
    if isinstance(model, TransformerBridge):
        model = plain(model)
    kwargs = {"use_cache": False}
    if cache is not None:
        mask = cache.mask(model.dtype)
        kwargs = {"attention_mask": mask, "position_ids": cache.columns, "past_key_values": cache, "use_cache": True}
    with residual_hooks(model, edit, hook_points) as captured:
        if logits:
            found = model.causal_lm(tokens, **kwargs).logits
        else:
            model.body(tokens, **kwargs)
            found = None
    return Pass(torch.stack(captured, dim=-2), found)
