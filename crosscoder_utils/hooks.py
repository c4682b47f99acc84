"""Passes over the residual stream: read it at hook points, add to it.

Hook point 0 is the residual stream after the embedding, hook point l the one after block l. A crosscoder may cover only some
of them; ``point`` then counts those.
"""

import copy
import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources import build_bridge_from_module
from transformers import Cache, PreTrainedModel
from transformers.activations import GELUTanh, NewGELUActivation

from crosscoder_utils.io.error_messages import in_one_line

Edit = Callable[[int], Float[Tensor, "row pos d_model"] | Callable[[Tensor], Tensor] | None]
"""What to add to the residual stream at a hook point, or a function of the stream there that says so; None for nothing."""


@dataclass(frozen=True, eq=False)
class PlainModel:
    """A causal language model as transformers loaded it: without hook points, and so faster than a bridge.

    Attributes:
        causal_lm: The whole model, which gives logits.
        parts: Names of its transformer blocks, and of the norm between the last block and the unembedding.
        lock: Held while hooks are on the blocks, so that threads do not see each other's.
    """

    causal_lm: PreTrainedModel
    parts: tuple[str, str]
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    @cached_property
    def blocks(self) -> nn.ModuleList:
        return self.causal_lm.get_submodule(self.parts[0])

    @cached_property
    def final_norm(self) -> nn.Module:
        return self.causal_lm.get_submodule(self.parts[1])

    @cached_property
    def arguments(self) -> frozenset[str]:
        """Names of what a pass takes."""
        return frozenset(inspect.signature(self.causal_lm.base_model.forward).parameters)


_PLAIN_MODELS: WeakKeyDictionary[TransformerBridge, PlainModel] = WeakKeyDictionary()


def bridge(model: PreTrainedModel, name: str) -> TransformerBridge:
    """Put TransformerLens' hook points around a copy of `model` that shares its weights; `model` itself stays as it is."""
    memo = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    copied = copy.deepcopy(model, memo)
    try:
        wrapped = build_bridge_from_module(copied, type(model).__name__, hf_config=model.config, model_name=name).eval()
    except (ValueError, KeyError, AttributeError, NotImplementedError) as error:
        raise ValueError(
            f"TransformerLens cannot wrap a {type(model).__name__} ({in_one_line(error)}); use an architecture that it has an "
            "adapter for, such as LlamaForCausalLM"
        ) from error
    parts = tuple(wrapped.adapter.component_mapping[part].name for part in ("blocks", "ln_final"))
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):  # the same formula, in one operation in place of eight
                setattr(module, name, GELUTanh())
    _PLAIN_MODELS[wrapped] = PlainModel(model, parts)
    return wrapped


def plain(model: TransformerBridge | PlainModel) -> PlainModel:
    """The transformers model that a bridge was put around; hooks on the bridge do not act in it.

    Raises:
        ValueError: If the bridge was not made by `load` or `loading.wrap`.
    """
    if isinstance(model, PlainModel):
        return model
    if model not in _PLAIN_MODELS:
        raise ValueError(
            "this TransformerBridge was made elsewhere; wrap the transformers model with loading.wrap(model, name)"
        )
    return _PLAIN_MODELS[model]


@contextmanager
def residual_hooks(
    model: TransformerBridge | PlainModel,
    edit: Edit | Float[Tensor, "row pos point d_model"] | None = None,
    hook_points: Sequence[int] | None = None,
) -> Iterator[list[Float[Tensor, "row pos d_model"]]]:
    """Within the context, passes through `model` are edited, and append the edited residual stream to the yielded list.

    The hooks are removed when the context is left, also by an exception.

    Args:
        model: A bridge, or the plain model.
        edit: What to add: a function of the hook point (its number among `hook_points`), or a tensor for all of them.
        hook_points: Hook points of the model, ascending. None means all of them.

    Example:
        >>> with residual_hooks(setup.model) as captured:
        ...     setup.model(tokens)
        >>> torch.stack(captured, dim=-2).shape  # [row, pos, point, d_model]
    """
    captured: list[Tensor] = []
    edit_at = (lambda point: edit[:, :, point]) if isinstance(edit, Tensor) else edit

    def edited(residual: Tensor, point: int) -> Tensor:
        delta = None if edit_at is None else edit_at(point)
        delta = delta(residual) if callable(delta) else delta
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
    for point, layer in enumerate(hook_points):
        if layer == 0:
            handles.append(model.blocks[0].register_forward_pre_hook(before_first, with_kwargs=True))
        else:
            handles.append(model.blocks[layer - 1].register_forward_hook(after(point)))
    try:
        yield captured
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True, eq=False)
class Pass:
    """What one pass gave.

    Attributes:
        captured: The residual stream at each hook point as the next block saw it, edits included.
        logits: None if they were not asked for.
    """

    captured: list[Float[Tensor, "row pos d_model"]] = field(repr=False)
    logits: Float[Tensor, "row pos vocab"] | None

    @property
    def residuals(self) -> Float[Tensor, "row pos point d_model"]:
        """All hook points' at once, in single precision at least, whatever the model computes in."""
        stream = torch.stack(self.captured, dim=-2)
        return stream.to(torch.promote_types(stream.dtype, torch.float32))


def read(
    model: TransformerBridge | PlainModel,
    tokens: Int[Tensor, "row pos"],
    edit: Edit | Float[Tensor, "row pos point d_model"] | None = None,
    logits: bool = False,
    hook_points: Sequence[int] | None = None,
    cache: Cache | None = None,
    **positions: Tensor,
) -> Pass:
    """Read tokens in one pass: whole texts, or with a `cache` what follows the texts in it.

    Without a cache, rows of different lengths are padded on the right: what comes after a token does not change it. With
    one, `positions` are the model's arguments `attention_mask` and `position_ids`.
    """
    model = plain(model)
    run = model.causal_lm if logits else model.causal_lm.base_model
    known = {name: value for name, value in positions.items() if name in model.arguments}
    known["cache" if "cache" in model.arguments else "past_key_values"] = cache  # the name since transformers 5.24, and before
    with model.lock, residual_hooks(model, edit, hook_points) as captured:
        output = run(tokens, use_cache=cache is not None, **known)
    return Pass(captured, output.logits if logits else None)
