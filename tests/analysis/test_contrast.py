"""The contrast of two kinds of text, on activations that are known."""

import numpy as np
import pytest
import torch

from crosscoder_utils.analysis import contrast
from crosscoder_utils.analysis.discovery import EncodedText
from crosscoder_utils.analysis.sparse_activations import SparseActivations


def text_of(*tokens):
    """A text with these activations on its tokens."""
    return EncodedText(
        "x" * len(tokens), ["x"] * len(tokens), [(0, 1)] * len(tokens), SparseActivations.of(torch.tensor(tokens).float())
    )


def test_one_outlier_does_not_decide():
    """Feature 0 is strong on one text of a, feature 1 weak on every text of a, feature 2 on all, feature 3 never."""
    a = [text_of([90.0, 1, 2, 0], [0, 0, 0, 0]), text_of([0.0, 2, 2, 0]), text_of([0.0, 3, 2, 0], [0, 1, 0, 0])]
    b = [text_of([0.0, 0, 2, 0]), text_of([0.0, 0, 0, 0], [0, 1, 2, 0])]
    table = contrast({"a": a, "b": b}, "a", "b")
    assert table["feature"].tolist() == [1, 0, 2]
    assert table["separates"].tolist() == [pytest.approx(11 / 12), pytest.approx(8 / 12), 0.5]  # one pair of six is equal
    assert table["difference"].tolist() == [1.5, 30.0, 0.0]
    assert table["texts a"].tolist() == [1.0, pytest.approx(1 / 3), 1.0] and table["texts b"].tolist() == [0.5, 0.0, 1.0]


def test_it_is_the_share_of_pairs():
    generator = torch.Generator().manual_seed(0)
    own, other = ([torch.randint(0, 3, (4, 5), generator=generator).float() for _ in range(n)] for n in (5, 3))
    encoded = {name: [text_of(*t.tolist()) for t in texts] for name, texts in (("own", own), ("other", other))}
    table = contrast(encoded, "own", "other").set_index("feature")
    for feature, row in table.iterrows():
        pairs = [(float(x[:, feature].max()), float(y[:, feature].max())) for x in own for y in other]
        assert row["separates"] == pytest.approx(np.mean([(x > y) + (x == y) / 2 for x, y in pairs]))
    swapped = contrast(encoded, "other", "own").set_index("feature").loc[table.index]
    np.testing.assert_allclose(swapped["separates"], 1 - table["separates"])


@pytest.mark.parametrize(
    ("encoded", "match"),
    [
        ({"a": [text_of([1.0])]}, "low='b' is unknown; use 'a'"),
        ({"b": [text_of([1.0])]}, "high='a' is unknown; use 'b'"),
        ({"a": [text_of([1.0])], "b": []}, r"encoded\['b'\] holds 0 encoded texts"),
        (["text"], "encoded=.* must be"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_input(encoded, match):
    with pytest.raises(ValueError, match=match):
        contrast(encoded, "a", "b")


def test_two_conditions():
    with pytest.raises(ValueError, match="high and low are both 'a'; give two different conditions"):
        contrast({"a": [text_of([1.0])]}, "a", "a")
