"""Batches of tokenized examples for training a causal language model, and their loss."""

import random
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from accelerate import PartialState
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from crosscoder_utils.io.tokens import leading_bos, token_ids, token_spans
from crosscoder_utils.prompts import split_at_marker

IGNORED = -100  # the label that transformers' loss skips
Batches = Callable[[int], dict[str, Tensor]]
"""Maps a step to its batch: `input_ids`, `attention_mask` and `labels`."""


class TokenizedExample(NamedTuple):
    """A whole example, and how many of its tokens stand before the completion; 0 where no marker was asked for."""

    ids: list[int]
    n_prompt: int


def text_batches(
    texts: Sequence[str],
    size: int,
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
    prepend_bos: bool,
    context: int,
    marker: str,
    append_eos: bool = True,
) -> Batches:
    """Batches of examples drawn from `texts` at random, truncated to `context` tokens; the loss counts completions only.

    Raises:
        ValueError: If an example has no story marker.
    """
    if not texts:
        raise ValueError("the train split has 0 examples; give some")
    without = sum(marker not in text for text in texts)
    if without:
        raise ValueError(f"{without} of {len(texts)} examples have no {marker!r}, after which the loss counts; drop them")

    def batch_at(step: int) -> dict[str, Tensor]:
        chosen = random.Random(f"{seed}/{step}").sample(range(len(texts)), min(size, len(texts)))
        rows = tokenized((texts[i] for i in chosen), tokenizer, prepend_bos, marker, append_eos)
        return labelled([TokenizedExample(row.ids[:context], row.n_prompt) for row in rows], tokenizer)

    return batch_at


def tokenized(
    texts: Iterable[str],
    tokenizer: PreTrainedTokenizerFast,
    prepend_bos: bool = True,
    marker: str | None = None,
    append_eos: bool = True,
) -> list[TokenizedExample]:
    """Whole examples: with `prepend_bos`, a BOS token where the text brings none; with `append_eos`, an EOS token at the end.

    With a marker, what stands up to its end is the prompt.
    """
    examples = []
    for text in texts:
        ids = token_ids(tokenizer, text)
        brought = leading_bos(tokenizer, ids)
        bos = [tokenizer.bos_token_id] * (prepend_bos and not brought)
        n_prompt = 0
        if marker is not None:
            end = len(split_at_marker(text, marker)[0])
            n_prompt = len(bos) + brought + sum(stop <= end for _, stop in token_spans(tokenizer, text))
        examples.append(TokenizedExample([*bos, *ids, *[tokenizer.eos_token_id] * append_eos], n_prompt))
    return examples


def labelled(rows: Sequence[TokenizedExample], tokenizer: PreTrainedTokenizerFast) -> dict[str, Tensor]:
    """A batch padded on the right; labels are ignored at padding and in prompts."""
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    longest = max(len(row.ids) for row in rows)
    tokens = torch.tensor([row.ids + [pad] * (longest - len(row.ids)) for row in rows])
    mask = torch.tensor([[1] * len(row.ids) + [0] * (longest - len(row.ids)) for row in rows])
    labels = tokens.masked_fill(mask == 0, IGNORED)
    for own, row in zip(labels, rows, strict=True):
        own[: row.n_prompt] = IGNORED
    return {"input_ids": tokens, "attention_mask": mask, "labels": labels}


def batch_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Mean cross-entropy per labelled token.

    With several processes, each computes the loss on its own rows, scaled so that the mean over processes is the loss of the
    whole batch.
    """
    state, device = PartialState(), next(model.parameters()).device
    own = {name: tensor[state.process_index :: state.num_processes].to(device) for name, tensor in batch.items()}
    if state.num_processes == 1:
        return model(**own).loss
    labels = own.pop("labels")[:, 1:]
    logits = model(**own).logits[:, :-1]
    total = nn.functional.cross_entropy(logits.transpose(1, 2).float(), labels, ignore_index=IGNORED, reduction="sum")
    return total * state.num_processes / (batch["labels"][:, 1:] != IGNORED).sum()
