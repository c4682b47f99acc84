"""Texts to token ids and back, BOS tokens, and rows of ids in one tensor."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
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


def token_texts(tokenizer: PreTrainedTokenizerFast, tokens: str | Sequence[int]) -> list[str]:
    """The text of each token, of a text or of token ids; joined, they are the whole text. A BOS at its beginning is no token.

    A character that takes several tokens is the text of the first of them, and the others' texts are empty.
    """
    if isinstance(tokens, str):
        whole, ends = tokens, [end for _, end in token_spans(tokenizer, tokens)]
    else:
        decode = partial(tokenizer.decode, clean_up_tokenization_spaces=False)
        whole, ends = decode(tokens), []
        for n in range(1, len(tokens) + 1):
            # While bytes of a character are missing, the decoded text differs from the whole in its last character.
            read = decode(tokens[:n])
            known = next((i for i, (a, b) in enumerate(zip(read, whole)) if a != b), min(len(read), len(whole)))
            ends.append(known + (known < len(read)))
    ends = [*accumulate(ends[:-1], max), len(whole)] if ends else []
    return [whole[begin:end] for begin, end in pairwise([0, *ends])]


def continuation(tokenizer: PreTrainedTokenizerFast, before: Sequence[int], ids: Sequence[int]) -> str:
    """The text that token ids add to those before them. Decoded alone, it would lose a blank with some tokenizers."""
    decode, last = partial(tokenizer.decode, clean_up_tokenization_spaces=False), list(before[-4:])
    whole, known = decode([*last, *ids]), decode(last)
    return whole[len(known) :] if whole.startswith(known) else decode(ids)


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
