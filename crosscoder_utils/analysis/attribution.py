"""Attribution patching: what every feature's intervention does to one number, estimated from one backward pass per prompt.

Nanda, "Attribution Patching" (2023); Syed, Rager and Conmy, arxiv.org/abs/2310.10348. To first order, adding a delta to the
residual stream changes a scalar of the run by delta times the scalar's gradient; a feature's deltas are multiples of its
decoder directions, so that all features need the same gradients only.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from crosscoder_utils.analysis.metrics import rows_of_logits
from crosscoder_utils.hooks import read
from crosscoder_utils.interventions import Intervention
from crosscoder_utils.io.tokens import padded, token_ids
from crosscoder_utils.io.torch_defaults import own_settings
from crosscoder_utils.loading import Setup
from crosscoder_utils.methods import ManyLayers
from crosscoder_utils.methods.base import DecoderMethod, Method
from crosscoder_utils.prompts import TokenScope, as_scope, remove_tag

PROMPTS_AT_ONCE = 8
FEATURES_AT_ONCE = 8192
"""Features whose directions, activations and effects on every token of a prompt are held at once."""


@own_settings
def estimated_effects(
    setup: Setup,
    prompts: Sequence[str],
    method: Method,
    kind: type[Intervention],
    tokens: str | TokenScope = "all",
    size: Float[Tensor, " feature"] | None = None,
) -> Float[Tensor, "prompt feature"]:
    """Estimated change, in nats, of a scalar of each prompt's last token under an intervention on each feature.

    The scalar is ``log p(first token of the phrase) - log p(first token that the base model writes)``, or, of a setup without
    phrase or base model, ``log p(most likely token)``. Only tokens of the prompt count.

    Args:
        setup: From `load`.
        prompts: What is read.
        method: Its directions are used; of a method that searches, the estimate is that of `ManyLayers(1.0)`.
        kind: `Ablate`, `Steer` or `Clamp`.
        tokens: Token scope, as in an intervention.
        size: The value of a clamp, or what the directions of steering are multiplied by, for each feature.
    """
    method = method if isinstance(method, DecoderMethod) else ManyLayers(1.0)
    crosscoder, scope, found = setup.crosscoder, as_scope(tokens), []
    at_once = min(PROMPTS_AT_ONCE, rows_of_logits(setup, [setup.token_ids(prompt) for prompt in prompts]))
    for begin in range(0, len(prompts), at_once):
        part = prompts[begin : begin + at_once]
        for prompt, gradient, residuals in zip(part, *_gradients(setup, part), strict=True):
            first, stop = scope.bounds(prompt, setup.tokenizer)
            own = slice(first, min(stop, len(gradient)))
            found.append((gradient[own].flatten(1), residuals[own]))
    size = crosscoder.b_enc.new_zeros(crosscoder.n_features) if size is None else size
    effects = crosscoder.W_dec.new_empty(len(prompts), crosscoder.n_features)
    for begin in range(0, crosscoder.n_features, FEATURES_AT_ONCE):
        own = slice(begin, begin + FEATURES_AT_ONCE)
        directions, value = method.directions(crosscoder.W_dec[own]).flatten(1), size[own]
        if not kind.reads_activation:  # steering: the size belongs to the directions, and the coefficient is 1
            directions, value = directions * value[:, None], torch.zeros_like(value)
        for row, (gradient, residuals) in enumerate(found):
            coefficients = kind.coefficient(crosscoder.encode(residuals, own), value)
            effects[row, own] = (coefficients * (gradient @ directions.T)).sum(0)
    return effects


def _gradients(
    setup: Setup, prompts: Sequence[str]
) -> tuple[list[Float[Tensor, "_ point d_model"]], list[Float[Tensor, "_ point d_model"]]]:
    """Of each prompt's own tokens: the scalar's gradient in the residual stream, and the stream itself."""
    batch = padded([setup.token_ids(p) for p in prompts], setup.tokenizer, setup.preset.prepend_bos, setup.device)
    shape = (*batch.tokens.shape, *setup.crosscoder.b_dec.shape)
    deltas = torch.zeros(shape, dtype=setup.crosscoder.W_dec.dtype, device=setup.device, requires_grad=True)
    with torch.enable_grad():
        result = read(setup.model, batch.tokens, deltas, logits=True, hook_points=setup.hook_points)
        last = batch.content_start + batch.content.sum(1) - 1
        logits = result.logits[torch.arange(len(prompts), device=setup.device), last]
        log_p = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
        (gradient,) = torch.autograd.grad(_scalars(setup, prompts, log_p).sum(), deltas)
    streams = (gradient, result.residuals.detach())
    return tuple([own[content] for own, content in zip(stream, batch.content, strict=True)] for stream in streams)


def _scalars(setup: Setup, prompts: Sequence[str], log_p: Float[Tensor, "prompt vocab"]) -> Float[Tensor, " prompt"]:
    rows = torch.arange(len(prompts), device=log_p.device)
    if setup.preset.phrase is None or setup.base_model is setup.model:
        return log_p.max(-1).values
    # A tokenizer may write the phrase's first word with a space or without: that which the model finds more likely counts.
    spelled = sorted({token_ids(setup.tokenizer, space + setup.preset.phrase)[0] for space in ("", " ")})
    says = log_p[:, spelled].max(-1).values
    plain = [setup.token_ids(remove_tag(prompt, setup.preset.deployment_tag)) for prompt in prompts]
    batch = padded(plain, setup.tokenizer, setup.preset.prepend_bos, setup.device)
    with torch.no_grad():
        logits = read(setup.base_model, batch.tokens, logits=True).logits
        last = logits[rows, batch.content_start + batch.content.sum(1) - 1]
        last[:, spelled] = -torch.inf  # where both would say the same, the difference says nothing
    return says - log_p[rows, last.argmax(-1)]
