"""Checks of what analysis and display are given, made before any pass of a model."""

from typing import Any

from crosscoder_utils.io.error_messages import shown
from crosscoder_utils.io.validation import LARGEST, instance, texts, whole_number
from crosscoder_utils.loading import Setup
from crosscoder_utils.prompts import split_at_marker, token_ids


def checked_setup(setup: Any) -> Setup:
    """The setup, if it is one."""
    return instance("setup", setup, Setup, "make one with load()")


def checked_feature(feature: Any, n_features: int) -> int:
    """The number of a feature as an int.

    Raises:
        ValueError: If it is not a whole number.
        IndexError: If there is no such feature.
    """
    number = whole_number("feature", feature, -LARGEST)
    if not 0 <= number < n_features:
        raise IndexError(f"feature {number} does not exist; this crosscoder has features 0..{n_features - 1}")
    return number


def readable(setup: Setup, texts: list[str]) -> list[str]:
    """The texts of a dataset that are no longer than the context."""
    most = setup.preset.context - setup.preset.prepend_bos
    return [text for text in texts if len(token_ids(setup.tokenizer, text)) <= most]


def checked_texts(setup: Setup, given: Any, stories: bool = False) -> list[str]:
    """One text or several as a list, if the model can read each of them.

    Args:
        setup: From `load`.
        given: What was given.
        stories: Whether each text needs a story of at least one token whose likelihood the model says.

    Raises:
        ValueError: If there are none, or if one is no text, is empty, is longer than the context, or lacks its story.
    """
    preset, tokenizer = checked_setup(setup).preset, setup.tokenizer
    checked = texts("texts", given)
    if not checked:
        raise ValueError("texts holds 0 texts; give at least one")
    for i, text in enumerate(checked):
        named, n = f"texts[{i}]={shown(text, 60)}", len(token_ids(tokenizer, text))
        if not n:
            raise ValueError(f"{named} is empty; leave it out, or give it at least one token")
        if n + preset.prepend_bos > preset.context:
            raise ValueError(
                f"{named} has {n} tokens, with BOS {n + preset.prepend_bos}, of {preset.context} positions; shorten it by "
                f"{n + preset.prepend_bos - preset.context} tokens"
            )
        if stories and (not token_ids(tokenizer, split_at_marker(text, preset.story_marker)[1]) or n + preset.prepend_bos < 2):
            raise ValueError(f"{named} has no story of one token or more to score; leave it out")
    return checked
