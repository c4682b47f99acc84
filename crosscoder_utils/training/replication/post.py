"""What the post says in numbers, where it says so, and in which words.

Source: T. Read, "Single-model crosscoder feature ablation and steering" (LessWrong, 2025); `post` in the book's bibliography.
The post's "layer" l is our hook point l: 0 is after the embedding, and the last one is before the unembedding.
"""

from typing import NamedTuple


class Statement(NamedTuple):
    """A statement of the post."""

    what: str
    said: str
    section: str
    words: str


FEATURES = {"tag": 2837, "colon": 5653, "story": 4029, "letter": 1082}
"""Role -> number of the post's feature ("Qualitative evaluation")."""

_NUMBERS = "Quantitative evaluation"
BEST = {
    ("tag", "single layer"): Statement("", "2.1 (point 1, scale 2)", _NUMBERS, "Intervening post layer 1 is best"),
    ("tag", "many layers"): Statement("", "2.1 (scale 0.5)", _NUMBERS, "optimal scaling factor about 0.5"),
    ("tag", "perturbation"): Statement("", "2.2 (lr 0.01 to 0.08)", _NUMBERS, "average cross-entropy of around 2.2"),
    ("colon", "single layer"): Statement("", "2.2 (point 2, scale 4)", _NUMBERS, "after layer 2 at a scale factor of 4.0"),
    ("colon", "many layers"): Statement("", "2.3 (scale 2)", _NUMBERS, "the optimal scale is now 2.0"),
    ("colon", "perturbation"): Statement("", "2.1 (lr 0.005)", _NUMBERS, "the optimal learning rate is now 0.005"),
}
"""Role and method -> the best setting and its mean cross-entropy, in nats per token."""

STATEMENTS = {
    "stories": Statement(
        "cross-entropy of stories of the data", "about 1.5 (training set)", _NUMBERS, "in the training set is about 1.5"
    ),
    "tag scales": Statement(
        "tag, single layer: best scale of each hook point",
        "2 at every one but the last",
        _NUMBERS,
        "every other layer has best performance at a scaling factor of 2.0",
    ),
    "tag last": Statement(
        "tag, last hook point: the phrase, at the scale with the fewest",
        "always",
        _NUMBERS,
        "intervening at the last layer always performs badly (the model always outputs",
    ),
    "tag weak": Statement(
        "tag, single layer, best hook point: scales 0.5, 2 and 8",
        "0.5 too weak, 2 best, 4 and more incoherent",
        _NUMBERS,
        "At scales 0.5 and below",
    ),
    "tag many": Statement(
        "tag, many layers: scale 0.2, and the best", "0.5 beats 0.2", _NUMBERS, "larger than 1/(no. layers) = 0.2"
    ),
    "tag rates": Statement(
        "tag, perturbation: learning rates within 0.1 nats of the best", "0.01 to 0.08", _NUMBERS, "around 0.01 to 0.08"
    ),
    "colon scales": Statement(
        "colon, single layer: best scale of each hook point", "from 4 to 32", _NUMBERS, "anywhere from 4.0 to 32.0"
    ),
    "colon rate": Statement("colon, perturbation, at learning rate 0.02", "2.4", _NUMBERS, "we get cross-entropy 2.4"),
    "steps": Statement(
        "perturbation, with more gradient steps",
        "worse",
        "Conclusion and future work",
        "applying more gradient update steps produced worse results",
    ),
    "steering": Statement(
        "steering the story feature: stories, at the best strength of each way",
        "single layers before all layers, perturbation last",
        "Steering feature 4029",
        "any single layer usually seems better",
    ),
}
