"""Completions of the engine against those of the plain implementation in `reference.py`."""

import reference
import torch

from crosscoder_utils import Ablate, Clamp, Perturbation, SingleLayer, Steer, generate

N_TOKENS = 8


def plain_deltas(setup, prompt, intervention):
    """`deltas_for` of `reference.write` for the intervention, with the token scope worked out by hand."""
    feature, method = intervention.feature, intervention.method
    offset = 1 if setup.preset.prepend_bos else 0
    n_prompt = len(setup.tokenizer(prompt).input_ids)
    if intervention.tokens == "all":
        start, stop = 0, 10**6
    elif intervention.tokens == "prompt":
        start, stop = 0, n_prompt
    elif intervention.tokens == "generated":
        start, stop = n_prompt, 10**6
    else:  # from_marker("Story:", -3): "Story" and ":" are the prompt's last two tokens
        start, stop = n_prompt - 5, 10**6

    def in_scope(position):
        return start <= position - offset < stop

    if isinstance(method, Perturbation):

        def loss_of(stream):
            if isinstance(intervention, Ablate):
                return reference.activation(setup, stream, feature) ** 2
            return (reference.pre_activation(setup, stream, feature) - intervention.value) ** 2

        def deltas_for(ids, deltas):
            return reference.extend_perturbation(setup, ids, in_scope, deltas, method.lr, method.steps, loss_of)

    else:
        n = setup.n_points
        if isinstance(method, SingleLayer):
            scales = [method.scale if point == method.point else 0.0 for point in range(n)]
        else:
            scales = [1 / n if method.scale is None else method.scale] * n
        coefficient = {
            Ablate: lambda E: -E,
            Steer: lambda E: 1.0,
            Clamp: lambda E: intervention.value - E,
        }[type(intervention)]

        def deltas_for(ids, deltas):
            return reference.decoder_deltas(setup, ids, in_scope, feature, scales, coefficient)

    return deltas_for


def check(setup, prompt, intervention):
    [fast] = generate(setup, [prompt], intervention, max_new_tokens=N_TOKENS)
    deltas_for = plain_deltas(setup, prompt, intervention)
    ids, before, after = reference.write(setup, prompt, intervention.feature, N_TOKENS, deltas_for)
    assert fast.token_ids == ids
    torch.testing.assert_close(torch.tensor(fast.activation_before), before, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(torch.tensor(fast.activation_after), after, atol=1e-4, rtol=1e-4)
    return fast
