"""The methods as plainly as possible: one prompt, no cache, no batch, straight from the formulas.

Whatever `crosscoder_utils` does faster must equal this.
"""

import torch


def forward(setup, ids, deltas=None):
    """Full pass over `ids` (with BOS): stream at every hook point [pos, point, d_model] and logits [pos, vocab]."""
    names = ["blocks.0.hook_in"] + [f"blocks.{i}.hook_out" for i in range(setup.model.cfg.n_layers)]
    stream = {}

    def hook_for(point):
        def hook(value, hook):
            if deltas is not None:
                value = value + deltas[None, :, point]
            stream[point] = value
            return value

        return hook

    logits = setup.model.run_with_hooks(
        torch.tensor([ids]), fwd_hooks=[(name, hook_for(point)) for point, name in enumerate(names)]
    )
    return torch.stack([stream[point][0] for point in range(len(names))], dim=1), logits[0]


def residuals(setup, ids, deltas=None):
    """The same with the last token's logits only."""
    stream, logits = forward(setup, ids, deltas)
    return stream, logits[-1]


def pre_activation(setup, stream, feature):
    """p_k at every position, as a sum over hook points."""
    crosscoder = setup.crosscoder
    if crosscoder.center:
        stream = stream - stream.mean(-1, keepdim=True)
    total = crosscoder.b_enc[feature]
    for point in range(crosscoder.n_points):
        total = total + stream[:, point] @ crosscoder.W_enc[point, :, feature]
    return total


def activation(setup, stream, feature):
    p = pre_activation(setup, stream, feature)
    return torch.where(p > setup.crosscoder.threshold[feature], p, torch.zeros_like(p))


def no_deltas(setup, n_tokens):
    return torch.zeros(n_tokens, *setup.crosscoder.b_dec.shape, dtype=setup.crosscoder.b_dec.dtype)


def decoder_deltas(setup, ids, in_scope, feature, scales, coefficient):
    """scale_l * coefficient(E_k) * W_dec[k, l] at every token in scope."""
    E = activation(setup, residuals(setup, ids)[0], feature)
    deltas = no_deltas(setup, len(ids))
    for position in range(len(ids)):
        for point, scale in enumerate(scales):
            if in_scope(position):
                term = coefficient(E[position]) * setup.crosscoder.W_dec[feature, point]
                deltas[position, point] = scale * term
    return deltas


def extend_perturbation(setup, ids, in_scope, deltas, lr, steps, loss_of):
    """Deltas for the tokens that `deltas` does not cover yet, each found with the past already perturbed."""
    for position in range(len(deltas), len(ids)):
        P = no_deltas(setup, 1)
        for _ in range(steps if in_scope(position) else 0):
            P.requires_grad_()
            with torch.enable_grad():
                stream, _ = residuals(setup, ids[: position + 1], torch.cat([deltas, -P]))
                loss = loss_of(stream)[-1]
                (gradient,) = torch.autograd.grad(loss, P)
            P = (P - lr * gradient).detach()
        deltas = torch.cat([deltas, -P.detach()])
    return deltas


@torch.no_grad()
def write(setup, prompt, feature, n_tokens, deltas_for):
    """Greedy text under an intervention.

    `deltas_for(ids, deltas)` gives the deltas for all of `ids`; `deltas` are those of the step before.

    Returns:
        The generated ids, and the feature's activation before and after at every token of prompt and completion.
    """
    tokenizer = setup.tokenizer
    bos = [tokenizer.bos_token_id] if setup.preset.prepend_bos else []
    ids = bos + tokenizer(prompt).input_ids
    start, written = len(ids), []
    deltas = no_deltas(setup, 0)
    while True:
        deltas = deltas_for(ids, deltas)
        _, logits = residuals(setup, ids, deltas)
        token = int(logits.argmax())
        if len(written) == n_tokens or token == tokenizer.eos_token_id:
            break
        ids, written = [*ids, token], [*written, token]
    assert ids[start:] == written
    before = activation(setup, residuals(setup, ids)[0], feature)[len(bos) :]
    after = activation(setup, residuals(setup, ids, deltas)[0], feature)[len(bos) :]
    return written, before, after


@torch.no_grad()
def read_text(setup, text, feature, deltas_for):
    """A text that exists already, under an intervention; arguments as those of `write`, results per token without BOS.

    Returns:
        Loss of each token (NaN where nothing stands before it), KL(untouched || intervened) of what is predicted at each
        token, activation before and after, norms of edit and stream [token, point], and logits.
    """
    bos = [setup.tokenizer.bos_token_id] if setup.preset.prepend_bos else []
    ids, first = bos + setup.tokenizer(text).input_ids, len(bos)
    deltas = deltas_for(ids, no_deltas(setup, 0))
    clean, untouched = forward(setup, ids)
    stream, logits = forward(setup, ids, deltas)
    loss, kl = [], []
    for position in range(first, len(ids)):
        before = logits[position - 1] if position else torch.full_like(logits[0], torch.nan)
        loss.append(torch.logsumexp(before, 0) - before[ids[position]])
        p, q = torch.softmax(untouched[position], 0), torch.softmax(logits[position], 0)
        kl.append((p * (p / q).log()).sum())
    return {
        "loss": torch.stack(loss),
        "kl": torch.stack(kl),
        "activation_before": activation(setup, clean, feature)[first:],
        "activation_after": activation(setup, stream, feature)[first:],
        "edit_norm": deltas[first:].norm(dim=-1),
        "residual_norm": clean[first:].norm(dim=-1),
        "logits": logits[first:],
    }
