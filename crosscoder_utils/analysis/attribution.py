"""Attribution patching: what every feature's intervention does to one number, estimated from one backward pass per prompt.

Nanda, "Attribution Patching" (2023); Syed, Rager and Conmy, arxiv.org/abs/2310.10348. To first order, adding a delta to the
residual stream changes a scalar of the run by delta times the scalar's gradient; a feature's deltas are multiples of its
decoder directions, so that all features need the same gradients only.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from crosscoder_utils.hooks import read
from crosscoder_utils.interventions import Intervention
from crosscoder_utils.io.tokens import padded, token_ids
from crosscoder_utils.io.torch_defaults import own_settings
from crosscoder_utils.loading import Setup
from crosscoder_utils.methods import ManyLayers
from crosscoder_utils.methods.base import DecoderMethod, Method
from crosscoder_utils.prompts import TokenScope, as_scope, remove_tag

PROMPTS_AT_ONCE = 8


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
    directions = method.directions(setup.crosscoder.W_dec).flatten(1)
    value = directions.new_zeros(len(directions)) if size is None else size
    if not kind.reads_activation:  # steering: the size belongs to the directions, and the coefficient is 1
        directions, value = directions * value[:, None], torch.zeros_like(value)
    scope, effects = as_scope(tokens), []
    for begin in range(0, len(prompts), PROMPTS_AT_ONCE):
        part = prompts[begin : begin + PROMPTS_AT_ONCE]
        gradients, activations = _gradients(setup, part)
        for prompt, gradient, activation in zip(part, gradients, activations, strict=True):
            first, stop = scope.bounds(prompt, setup.tokenizer)
            own = slice(first, min(stop, len(gradient)))
            coefficients = kind.coefficient(activation[own], value)
            effects.append((coefficients * (gradient[own].flatten(1) @ directions.T)).sum(0))
    return torch.stack(effects)


def _gradients(
    setup: Setup, prompts: Sequence[str]
) -> tuple[list[Float[Tensor, "token point d_model"]], list[Float[Tensor, "token feature"]]]:
    """Of each prompt's own tokens: the scalar's gradient in the residual stream, and the features' activations."""
    batch = padded([setup.token_ids(p) for p in prompts], setup.tokenizer, setup.preset.prepend_bos, setup.device)
    shape = (*batch.tokens.shape, *setup.crosscoder.b_dec.shape)
    deltas = torch.zeros(shape, dtype=setup.crosscoder.W_dec.dtype, device=setup.device, requires_grad=True)
    with torch.enable_grad():
        result = read(setup.model, batch.tokens, deltas, logits=True, hook_points=setup.hook_points)
        last = batch.content_start + batch.content.sum(1) - 1
        logits = result.logits[torch.arange(len(prompts), device=setup.device), last]
        log_p = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
        (gradient,) = torch.autograd.grad(_scalars(setup, prompts, log_p).sum(), deltas)
    with torch.no_grad():
        residuals = result.residuals.detach()
        encoded = [setup.crosscoder.encode(own[content]) for own, content in zip(residuals, batch.content, strict=True)]
    return [own[content] for own, content in zip(gradient, batch.content, strict=True)], encoded


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
