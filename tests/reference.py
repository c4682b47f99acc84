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


def extend_perturbation(setup, ids, in_scope, deltas, lr, steps, loss_of, penalty=0.0, features=()):
    """Deltas for the tokens that `deltas` does not cover yet, each found with the past already perturbed.

    With a penalty, on the squared changes of all but `features`; descent ends where the loss without it is 0.
    """
    for position in range(len(deltas), len(ids)):
        P = no_deltas(setup, 1)
        for _ in range(steps if in_scope(position) else 0):
            P.requires_grad_()
            with torch.enable_grad():
                stream, _ = residuals(setup, ids[: position + 1], torch.cat([deltas, -P]))
                loss = loss_of(stream)[-1]
                if penalty:
                    if loss == 0:
                        break
                    unedited = residuals(setup, ids[: position + 1], torch.cat([deltas, no_deltas(setup, 1)]))[0]
                    others = [k for k in range(setup.crosscoder.n_features) if k not in features]
                    changes = [(activation(setup, stream, k) - activation(setup, unedited, k))[-1] ** 2 for k in others]
                    loss = loss + penalty * sum(changes)
                (gradient,) = torch.autograd.grad(loss, P)
            P = (P - lr * gradient).detach()
        deltas = torch.cat([deltas, -P.detach()])
    return deltas


def statistics(setup, ids_of_texts):
    """Mean pre-activation of every feature where it does not fire, covariances, patterns, from all tokens but BOS at once."""
    crosscoder, bos = setup.crosscoder, int(setup.preset.prepend_bos)
    with torch.no_grad():
        stream = torch.cat([residuals(setup, ids)[0][bos:] for ids in ids_of_texts])
    pre = torch.stack([pre_activation(setup, stream, k) for k in range(crosscoder.n_features)], dim=1)
    silent = pre <= crosscoder.threshold
    off = torch.stack([pre[silent[:, k], k].mean() for k in range(crosscoder.n_features)])
    y = stream - stream.mean(0)
    covariances = []
    for point in range(crosscoder.n_points):
        S = y[:, point].T @ y[:, point] / len(y)
        covariances.append(S + 1e-3 * S.diagonal().mean() * torch.eye(len(S), dtype=S.dtype))
    whole = y.flatten(1).T @ y.flatten(1) / len(y)  # the stream at all hook points at once
    weights = crosscoder.W_enc
    if crosscoder.center:
        weights = weights - weights.mean(1, keepdim=True)
    pattern = (whole @ weights.flatten(0, 1)).T.reshape(crosscoder.W_dec.shape)
    return off, torch.stack(covariances), pattern


def pre_and_gradients(setup, ids, deltas, P, features):
    """Pre-activations of the last token of `ids` under P, its gradients [feature, point, d_model], and the stream there."""
    P = P.detach().requires_grad_()
    with torch.enable_grad():
        stream = residuals(setup, ids, torch.cat([deltas, P[None]]))[0][-1:]
        p = torch.cat([pre_activation(setup, stream, k) for k in features])
        g = torch.stack([torch.autograd.grad(one, P, retain_graph=True)[0] for one in p])
    return p.detach(), g, stream[0].detach()


def extend_solved(setup, ids, in_scope, deltas, features, goals, ablates, edit):
    """Deltas for the tokens that `deltas` does not cover yet, each found with the past already edited.

    `edit(ids, deltas, features, goals)` finds P at the last token, for the features that are to be moved there.
    """
    for position in range(len(deltas), len(ids)):
        now, P = ids[: position + 1], no_deltas(setup, 1)[0]
        if in_scope(position):
            p, _, _ = pre_and_gradients(setup, now, deltas, P, features)
            moved = [i for i, k in enumerate(features) if not ablates or p[i] > setup.crosscoder.threshold[k]]
            if moved:
                P = edit(now, deltas, [features[i] for i in moved], torch.stack([goals[i] for i in moved]))
        deltas = torch.cat([deltas, P.detach()[None]])
    return deltas


def newton(setup, ids, deltas, features, goals, spread):
    """P <- P + B (g B)^-1 (goal - p), with B = spread(g): one vector [point, d_model] for each feature.

    20 steps at most; one that does not come nearer is halved.
    """
    P, share = no_deltas(setup, 1)[0], 1.0
    p, g, _ = pre_and_gradients(setup, ids, deltas, P, features)
    for _ in range(20):
        if (goals - p).abs().max() < 1e-11:
            break
        B = spread(g)
        step = (B.flatten(1).T @ torch.linalg.solve(g.flatten(1) @ B.flatten(1).T, goals - p)).reshape(P.shape)
        there, its_g, _ = pre_and_gradients(setup, ids, deltas, P + share * step, features)
        if (goals - there).abs().max() < (goals - p).abs().max():
            P, p, g, share = P + share * step, there, its_g, 1.0
        else:
            share /= 2
    return P


def natural(setup, ids, deltas, features, goals, covariances):
    """B = S g, with a covariance S for each hook point."""

    def spread(g):
        return torch.stack([torch.stack([S @ v for S, v in zip(covariances, one)]) for one in g])

    return newton(setup, ids, deltas, features, goals, spread)


def patch(setup, ids, deltas, features, goals, vectors):
    """Hook point after hook point: set the stream to y' + sum_j c_j D_j; what that adds is P."""
    P = no_deltas(setup, 1)[0]
    p, _, y = pre_and_gradients(setup, ids, deltas, P, features)
    zero = [float(pre_activation(setup, torch.zeros_like(y)[None], k)) for k in features]
    A = torch.stack([
        torch.stack([pre_activation(setup, vectors[i][None], k)[0] - zero[j] for i in range(len(features))])
        for j, k in enumerate(features)
    ])  # fmt: skip
    values = y + torch.einsum("j,jpd->pd", torch.linalg.solve(A, goals - p), vectors)
    for point in range(len(P)):
        stream = residuals(setup, ids, torch.cat([deltas, P[None]]))[0][-1]
        P[point] = values[point] - stream[point]
    return P


def steepest(setup, ids, deltas, features, signs, scale):
    """The gradient at P = 0, of which the largest norm relative to the stream's, over hook points, is `scale`."""
    _, g, y = pre_and_gradients(setup, ids, deltas, no_deltas(setup, 1)[0], features)
    direction = sum(sign * one for sign, one in zip(signs, g))
    return scale * direction / max(float(v.norm() / w.norm()) for v, w in zip(direction, y))


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
