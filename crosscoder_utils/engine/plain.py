"""The transformers model inside a TransformerBridge, without hook points and with fused operations: what is run fast.

A bridge puts a hook point at every place one may want to look at, and pays for it at every token. The engine looks at the
residual stream only, so it runs the modules inside the bridge, which share its weights.
"""

import copy
from dataclasses import dataclass
from functools import partial
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent
from transformers import PreTrainedModel
from transformers.activations import GELUTanh, NewGELUActivation
from transformers.models.gpt_neo.modeling_gpt_neo import GPTNeoSelfAttention


@dataclass(frozen=True, eq=False)
class PlainModel:
    """A causal language model as transformers knows it.

    Attributes:
        causal_lm: Gives logits.
        blocks: Its transformer blocks, in order.
    """

    causal_lm: PreTrainedModel
    blocks: nn.ModuleList

    @property
    def body(self) -> nn.Module:
        """All but the unembedding."""
        return self.causal_lm.base_model

    @property
    def dtype(self) -> torch.dtype:
        return self.causal_lm.dtype

    @property
    def device(self) -> torch.device:
        return self.causal_lm.device


_plain_models: WeakKeyDictionary[TransformerBridge, PlainModel] = WeakKeyDictionary()


def plain(bridge: TransformerBridge) -> PlainModel:
    """The model inside `bridge`, made on first use; weights are shared, hooks on the bridge are not."""
    if bridge not in _plain_models:
        _plain_models[bridge] = _unwrap(bridge)
    return _plain_models[bridge]


def _unwrap(bridge: TransformerBridge) -> PlainModel:
    original = bridge.original_model
    shared = [*original.parameters(), *original.buffers()]
    memo = {id(tensor): tensor for tensor in shared}
    # Children come after their parents in modules(), and deepcopy of a parent finds its children in the memo.
    for module in reversed(list(original.modules())):
        if isinstance(module, GeneralizedComponent):
            memo[id(module)] = copy.deepcopy(module.original_component, memo)
    model = copy.deepcopy(original, memo)
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):  # the same formula in eight operations
                setattr(module, name, GELUTanh())
        if isinstance(module, GPTNeoSelfAttention):
            module._attn = partial(_gpt_neo_attention, module)
    # Of the configuration's copy: GPTNeo's own check would refuse, not knowing the function above.
    model.config._attn_implementation_internal = "sdpa"
    return PlainModel(model, model.get_submodule(bridge.adapter.component_mapping["blocks"].name))


def _gpt_neo_attention(
    module: GPTNeoSelfAttention,
    query: Float[Tensor, "row head pos d_head"],
    key: Float[Tensor, "row head key d_head"],
    value: Float[Tensor, "row head key d_head"],
    attention_mask: Float[Tensor, "row 1 pos key"] | None = None,
) -> tuple[Tensor, None]:
    """GPTNeo's unscaled attention in one call; takes a mask of its own for any choice of keys.

    Local layers see the last `window_size` of the keys that the mask lets through.
    """
    window = module.config.window_size if module.attention_type == "local" else key.shape[-2]
    if window < key.shape[-2]:
        if attention_mask is None:
            allowed = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
        else:
            allowed = attention_mask == 0
        seen_after = allowed.flip(-1).cumsum(-1).flip(-1)
        attention_mask = torch.zeros(allowed.shape, dtype=query.dtype, device=query.device)
        attention_mask.masked_fill_(~(allowed & (seen_after <= window)), torch.finfo(query.dtype).min)
    output = nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, is_causal=attention_mask is None and query.shape[-2] > 1, scale=1.0
    )
    return output, None
