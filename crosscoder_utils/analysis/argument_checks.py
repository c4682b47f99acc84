"""Checks of what analysis and display are given, made before any pass of a model."""

from typing import Any

from crosscoder_utils.io.error_messages import shown
from crosscoder_utils.io.tokens import leading_bos, token_ids
from crosscoder_utils.io.validation import LARGEST, instance, mapped, texts, whole_number
from crosscoder_utils.loading import Setup


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


def checked_features(setup: Any, features: Any) -> dict[str, int]:
    """Role -> feature, if the setup is one and its crosscoder has them.

    Raises:
        ValueError: If it is no mapping of names to whole numbers.
        IndexError: If there is no such feature.
    """
    n_features = checked_setup(setup).crosscoder.n_features
    return mapped("features", features, lambda _, one: checked_feature(one, n_features), "roles to features")


def readable(setup: Setup, texts: list[str], room_for: int = 0) -> list[str]:
    """The texts of a dataset that are no longer than the context, with `room_for` tokens more."""
    most = setup.preset.context - setup.preset.prepend_bos - room_for
    return [text for text in texts if len(token_ids(setup.tokenizer, text)) <= most]


def checked_texts(setup: Setup, given: Any, stories: bool = False) -> list[str]:
    """One text or several as a list, if the model can read each of them.

    Args:
        setup: From `load`.
        given: What was given.
        stories: Whether each text needs a token whose likelihood the model says.

    Raises:
        ValueError: If there are none, or if one is no text, is empty or is longer than the context.
    """
    checked = texts("texts", given)
    if not checked:
        raise ValueError("texts holds 0 texts; give at least one")
    for i, text in enumerate(checked):
        ids = checked_setup(setup).token_ids(text)
        if stories and len(ids) + (setup.preset.prepend_bos and not leading_bos(setup.tokenizer, ids)) < 2:
            raise ValueError(f"texts[{i}]={shown(text, 60)} has one token only, which has no likelihood; leave it out")
    return checked
