"""Interventions inside TransformerLens: the edits of `run` as hooks, for a user's own passes through the bridge."""

from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor

from crosscoder_utils.engine.reading import deltas_of, text_requests
from crosscoder_utils.generation import as_rows
from crosscoder_utils.interventions import Intervention
from crosscoder_utils.io.tokens import padded
from crosscoder_utils.io.torch_defaults import own_settings
from crosscoder_utils.io.validation import finite_number, instance, one_text
from crosscoder_utils.loading import Setup

Hook = Callable[..., Tensor]


def input_ids(setup: Setup, text: str) -> Int[Tensor, "1 token"]:
    """A text's tokens as `run` gives them to the model: with a BOS if the preset says so, or the text brings one."""
    instance("setup", setup, Setup, "make one with load()")
    return padded([setup.token_ids(text)], setup.tokenizer, setup.preset.prepend_bos, setup.device).tokens


@own_settings
def fwd_hooks(setup: Setup, text: str, intervention: Intervention | None, memory_gb: float = 2.0) -> list[tuple[str, Hook]]:
    """Hooks for TransformerLens that apply exactly the edits which `run` applies to `text`.

    They are worked out here, once; the hooks add them to the residual stream of passes through `setup.model` that read
    `input_ids(setup, text)`, in any number of rows. Nothing stays on the model.

    Raises:
        ValueError: As `run` does, and if an edit is infinite or NaN. A hook raises it if the model reads another number of
            tokens than the text has.

    Example:
        >>> hooks = fwd_hooks(setup, text, Ablate(feature, ManyLayers(scale=1.0)))
        >>> logits = setup.model.run_with_hooks(input_ids(setup, text), fwd_hooks=hooks)
        >>> with setup.model.hooks(fwd_hooks=hooks):
        ...     logits, cache = setup.model.run_with_cache(input_ids(setup, text))
    """
    text, memory_gb = one_text("text", text), finite_number("memory_gb", memory_gb, 0, 1e6)
    if intervention is not None:
        instance("intervention", intervention, Intervention, "give Ablate(feature, method) or None")
    as_rows(setup, text, intervention)
    [request] = text_requests(setup, [text], [intervention])
    if intervention is None:
        return []
    deltas = deltas_of(setup, request, memory_gb)
    if not bool(torch.isfinite(deltas.square().sum())):
        raise ValueError(f"the edit is infinite or NaN under {intervention}; use a smaller scale or learning rate")

    def hook_at(point: int) -> Hook:
        def add(value: Tensor, hook: object) -> Tensor:
            if value.shape[1] != len(deltas):
                raise ValueError(
                    f"these hooks are for a text of {len(deltas)} tokens with BOS, the model reads {value.shape[1]}; give it "
                    "input_ids(setup, text), or make hooks for the other text"
                )
            return value + deltas[:, point].to(value)

        return add

    names = [f"blocks.{layer - 1}.hook_out" if layer else "blocks.0.hook_in" for layer in setup.hook_points]
    return [(name, hook_at(point)) for point, name in enumerate(names)]
