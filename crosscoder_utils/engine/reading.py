"""Texts that exist already, read by both runs: nothing is written, so no keys and values are kept.

Along fixed directions, two passes are exact: the clean one says how much each feature fires on all tokens, the intervened one
reads them with all edits at once. A search goes through the text token by token, as through a prompt (`editing.Searching`);
what it has found is then read in the same two passes.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from crosscoder_utils.engine.batch import Limits, Request, as_requests, within_bounds
from crosscoder_utils.engine.decoding import Decoding, family
from crosscoder_utils.engine.editing import AlongDirections
from crosscoder_utils.engine.memory_budget import plan_readings, plan_searches
from crosscoder_utils.engine.sampling import Sampler
from crosscoder_utils.engine.targets import Targets
from crosscoder_utils.hooks import read
from crosscoder_utils.interventions import Intervention
from crosscoder_utils.io.tokens import TokenBatch, padded
from crosscoder_utils.loading import Setup
from crosscoder_utils.methods.statistics import statistics_for
from crosscoder_utils.prompts import TokenScope

Arrays = dict[str, np.ndarray]


def text_requests(setup: Setup, texts: Sequence[str], interventions: Sequence[Intervention | None]) -> list[Request]:
    """Check and tokenize texts; a `Request` whose prompt is the whole text."""
    return as_requests(setup, texts, interventions, lambda text, scope: _bounds(setup, text, scope))


def _bounds(setup: Setup, text: str, scope: TokenScope) -> tuple[int, float]:
    """A scope in a text means what it means where `generate` has written the text after its prompt."""
    before, marker, _ = text.partition(setup.preset.story_marker or text)
    prompt = before + marker
    if scope.kind == "generated" and not (setup.preset.story_marker and marker):
        lacks = "preset has none" if setup.preset.story_marker is None else f"text has no {setup.preset.story_marker!r}"
        raise ValueError(
            f"tokens='generated' needs to know where the prompt ends, which a story marker says, and the {lacks}; use "
            "from_marker or from_position"
        )
    if scope.kind == "marker" and scope.marker not in prompt:
        prompt = text
    return scope.bounds(prompt, setup.tokenizer, text)


@torch.no_grad()
def read_texts(
    setup: Setup, requests: Sequence[Request], memory_gb: float, batch_size: int, logits: bool
) -> Iterator[tuple[int, Arrays]]:
    """Read texts under interventions; yields each row's number and its arrays, one entry per token without BOS.

    `loss` and `kl` are there for every row, `logits` if asked for, the records where the row has an intervention. A row of
    which an edit or a logit was not finite has `failed`, and NaN everywhere.
    """
    families = defaultdict(list)
    for number, request in enumerate(requests):
        families[family(request) or AlongDirections].append(number)
    for kind, numbers in families.items():
        if kind is AlongDirections:
            for part in plan_readings(setup, requests, numbers, memory_gb, batch_size):
                yield from zip(part, _read_part(setup, [requests[n] for n in part], None, logits), strict=True)
            continue
        for batch, limits in plan_searches(setup, requests, numbers, memory_gb, batch_size):
            deltas = searched_deltas(setup, [requests[n] for n in batch], limits)
            place = {number: row for row, number in enumerate(batch)}
            for part in plan_readings(setup, requests, batch, memory_gb, batch_size, share=0.5):
                own = deltas[[place[number] for number in part]]
                yield from zip(part, _read_part(setup, [requests[n] for n in part], own, logits), strict=True)


@torch.no_grad()
def deltas_of(setup: Setup, request: Request, memory_gb: float) -> Float[Tensor, "pos point d_model"]:
    """What the intervened run gets at each token of a text, its BOS included."""
    if family(request) is not AlongDirections:
        [(_, limits)] = plan_searches(setup, [request], [0], memory_gb, 1)
        return searched_deltas(setup, [request], limits)[0]
    batch = _padded(setup, [request])
    residuals = read(setup.model, batch.tokens, hook_points=setup.hook_points).residuals
    targets = _targets(setup, [request])
    return _along_directions(targets, targets.encoder.pre_activations(residuals), batch, [request])[0]


def searched_deltas(setup: Setup, requests: Sequence[Request], limits: Limits) -> Float[Tensor, "row pos point d_model"]:
    """What a method finds to add at each token; rows are padded on the right."""
    decoding = Decoding(setup, requests, range(len(requests)), limits, Sampler())
    batch = decoding.state.batch
    decoding.edits.read_prompts()
    decoding.edits.next_logits(batch.n_prompt - 1)
    at = batch.start[:, None] + torch.arange(batch.n_prompt - int(batch.start.min()), device=setup.device)
    found = batch.records.deltas[batch.rows[:, None], at.clamp(max=batch.n_prompt - 1)]
    return found.masked_fill((at >= batch.n_prompt)[..., None, None], 0.0)


def _targets(setup: Setup, requests: Sequence[Request]) -> Targets:
    interventions = [request.intervention for request in requests]
    return Targets.of(interventions, setup.crosscoder, statistics_for(setup, interventions))


def _read_part(setup: Setup, requests: Sequence[Request], deltas: Tensor | None, logits: bool) -> Iterator[Arrays]:
    """Read rows that fit together, each different text once in the clean run; `deltas` are worked out where not given."""
    batch, targets = _padded(setup, requests), _targets(setup, requests)
    first_row = {request.prompt: row for row, request in reversed(list(enumerate(requests)))}
    number = {text: index for index, text in enumerate(first_row)}
    text = [number[request.prompt] for request in requests]
    clean = read(setup.model, batch.tokens[list(first_row.values())], logits=True, hook_points=setup.hook_points)
    residuals = clean.residuals[text]
    pre_before = targets.encoder.pre_activations(residuals)
    if deltas is None:
        deltas = _along_directions(targets, pre_before, batch, requests)
    deltas = deltas[:, : batch.tokens.shape[1]]
    # Rows that get no edit are not read again: of them, the intervened run is the clean one, bit for bit.
    edited, pre_after, intervened = torch.nonzero(deltas.flatten(1).ne(0).any(1))[:, 0], pre_before.clone(), None
    if len(edited):
        intervened = read(setup.model, batch.tokens[edited], deltas[edited], logits=True, hook_points=setup.hook_points)
        pre_after[edited] = targets.select(edited).encoder.pre_activations(intervened.residuals)
    tables = {
        "activation_before": targets.encoder.activate(pre_before),
        "activation_after": targets.encoder.activate(pre_after),
        "pre_activation_before": pre_before,
        "pre_activation_after": pre_after,
        "edit_norm": deltas.norm(dim=-1),
        "residual_norm": residuals.norm(dim=-1).to(pre_before.dtype),
    }
    finite, place = torch.isfinite(deltas.square().flatten(1).sum(1)).tolist(), {r: n for n, r in enumerate(edited.tolist())}
    bounds = zip(batch.content_start.tolist(), batch.content.sum(1).tolist(), strict=True)
    for row, (start, n_tokens) in enumerate(bounds):
        own = slice(start, start + n_tokens)
        before = clean.logits[text[row], : own.stop]
        after = intervened.logits[place[row], : own.stop] if row in place else before
        arrays = _predictions(before, after, batch.tokens[row], own) | ({"logits": after[own]} if logits else {})
        if requests[row].intervention is not None:
            arrays |= {name: table[row, own] for name, table in tables.items()}
        failed = not (finite[row] and bool(torch.isfinite(after.amax(-1)).all()))
        yield {"failed": failed} | {name: _array(requests[row], name, one, failed) for name, one in arrays.items()}


def _padded(setup: Setup, requests: Sequence[Request]) -> TokenBatch:
    return padded([r.ids for r in requests], setup.tokenizer, setup.preset.prepend_bos, setup.device)


def _along_directions(
    targets: Targets, pre: Float[Tensor, "row pos target"], batch: TokenBatch, requests: Sequence[Request]
) -> Float[Tensor, "row pos point d_model"]:
    position = torch.arange(pre.shape[1], device=pre.device) - batch.content_start[:, None]
    editable = batch.content & within_bounds(requests, position)
    return targets.deltas(torch.where(editable[..., None], targets.coefficients(pre), 0.0))


def _predictions(
    before: Float[Tensor, "pos vocab"], after: Float[Tensor, "pos vocab"], tokens: Tensor, own: slice
) -> dict[str, Float[Tensor, " token"]]:
    """Loss of one row's own tokens in the intervened run, and the divergence of what is predicted at them."""
    said = tokens[max(own.start, 1) : own.stop, None]
    log_q = _log_softmax(after)
    loss = -log_q[max(own.start, 1) - 1 : own.stop - 1].gather(1, said)[:, 0]
    if own.start == 0:  # nothing stands before the first token that could predict it
        loss = torch.cat([loss.new_full((1,), torch.nan), loss])
    if after is before:
        return {"loss": loss, "kl": torch.zeros_like(loss)}
    return {"loss": loss, "kl": kl_divergence(_log_softmax(before[own]), log_q[own])}


def kl_divergence(log_p: Float[Tensor, "*any vocab"], log_q: Float[Tensor, "*any vocab"]) -> Float[Tensor, "*any"]:
    """``KL(p || q)`` in nats; tokens that p rules out add nothing, whatever q says of them."""
    p = log_p.exp()
    return torch.where(p == 0, 0.0, p * (log_p - log_q)).sum(-1).clamp(min=0.0)


def _log_softmax(logits: Float[Tensor, "*any vocab"]) -> Float[Tensor, "*any vocab"]:
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)


def _array(request: Request, name: str, values: Tensor, failed: bool) -> np.ndarray:
    """One row's values in memory of their own, so that they do not hold those of the rows beside it."""
    if "activation" in name:
        features = request.intervention.features
        values = values[:, 0] if isinstance(request.intervention.feature, int) else values[:, : len(features)]
    array = values.to(torch.promote_types(values.dtype, torch.float32)).cpu().numpy().copy()
    return np.full_like(array, np.nan) if failed else array
