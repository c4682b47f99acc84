"""Texts with the feature activations of their tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from crosscoder_utils.analysis.argument_checks import checked_feature, checked_texts
from crosscoder_utils.analysis.metrics import content_residuals
from crosscoder_utils.analysis.sparse_activations import SparseActivations, encode_sparse
from crosscoder_utils.io.tokens import token_spans, token_texts
from crosscoder_utils.io.torch_defaults import own_settings
from crosscoder_utils.io.validation import Texts, instances
from crosscoder_utils.loading import Setup


@dataclass(frozen=True, eq=False)
class EncodedText:
    """One text with the feature activations of its tokens, BOS excluded.

    Attributes:
        text: The text.
        tokens: The text's tokens as strings; joined, they are the text. A character that takes several tokens is the string of
            the first, and the others' strings are empty.
        spans: Start and end of each token in the text, in characters.
        active: Feature activations on each token, of which only those other than 0 are held.
    """

    text: str
    tokens: list[str]
    spans: list[tuple[int, int]]
    active: SparseActivations

    @property
    def activations(self) -> Float[Tensor, "token feature"]:
        """Activations of all features on each token, a table that is made each time: 4 bytes x tokens x features."""
        return self.active.table()


@own_settings
@torch.no_grad()
def encode_texts(setup: Setup, texts: Texts) -> list[EncodedText]:
    """Encode every token of `texts`, one or several. The result takes 20 bytes for each activation other than 0.

    Raises:
        ValueError: If a text is empty or longer than the context.
    """
    encoded, texts = [], checked_texts(setup, texts)
    for text, residuals in zip(texts, content_residuals(setup, texts), strict=True):
        spans = token_spans(setup.tokenizer, text)
        tokens = token_texts(setup.tokenizer, text)
        encoded.append(EncodedText(text, tokens, spans, encode_sparse(setup.crosscoder, residuals).to("cpu")))
    return encoded


def some_encoded(texts: Any, name: str = "texts") -> list[EncodedText]:
    """Encoded texts as a list, if there is at least one; one stands for a list of it."""
    texts = instances(name, texts, EncodedText, "make it with encode_texts(setup, texts)")
    if not texts:
        raise ValueError(f"{name} holds 0 encoded texts; give at least one, from encode_texts(setup, texts)")
    return texts


def whole_characters(tokens: Sequence[str], values: Sequence[float]) -> list[tuple[str, float]]:
    """Tokens with their values; a token without a text of its own adds to the one before it, which has the largest value."""
    joined: list[tuple[str, float]] = []
    for token, value in zip(tokens, values, strict=True):
        if token or not joined:
            joined.append((token, float(value)))
        else:
            joined[-1] = joined[-1][0], max(joined[-1][1], float(value))
    return joined


def with_feature(texts: Any, feature: Any) -> tuple[list[EncodedText], int]:
    """Encoded texts and the number of one of their features, checked."""
    texts = some_encoded(texts)
    return texts, checked_feature(feature, texts[0].active.n_features)
