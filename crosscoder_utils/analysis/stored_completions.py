"""Every completion that sweeps stored in some folders, whatever wrote it, as one table; and the texts to compare it with."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from crosscoder_utils.analysis.argument_checks import checked_features, checked_setup
from crosscoder_utils.analysis.metrics import score
from crosscoder_utils.analysis.store import StoredRows, assets_of, row_id_of
from crosscoder_utils.generation import generate
from crosscoder_utils.hooks import read
from crosscoder_utils.io.checked_tables import checked_table
from crosscoder_utils.io.datasets import SPLITS, read_rows
from crosscoder_utils.io.files import user_path
from crosscoder_utils.io.tokens import padded, token_ids, token_texts
from crosscoder_utils.io.torch_defaults import own_settings
from crosscoder_utils.io.validation import several, whole_numbers
from crosscoder_utils.loading import Setup
from crosscoder_utils.prompts import remove_tag, split_at_marker

_OPTIONS = ["max_new_tokens", "seed", "record"]
_VERDICT = ["completion", "says_phrase", "is_fluent_story", "failed"]
_AT_ONCE = 16


def stored_completions(
    setup: Setup, folders: str | Path | Iterable[str | Path], features: Mapping[str, int] | None = None
) -> tuple[pd.DataFrame, int]:
    """Read the stored rows of a setup. Rows of another version or of other weights are left out, never mixed in.

    Args:
        setup: From `load`; the preset must have data.
        folders: Folder of stored rows, or several, which are only read; one that does not exist has none.
        features: Role -> feature.

    Returns:
        The table, without the untouched rows, and the number of rows of this preset that were left out. The columns are those
        of `sweep`, and `role`, the feature's role or number; `ablated`, "feature" or "random direction"; `setting`, equal for
        rows that differ in the prompt only, in the order of roles, methods and strengths; `split`, "train" or "held out", with
        ", ordinary" for prompts without the tag, and "other" for prompts that are not of the data; `prompt_index`, the
        prompt's number in that split.

    Raises:
        ValueError: If a folder is a file, or it or a file of rows in it cannot be read. The line names it, and the remedy.
    """
    features = checked_features(setup, features or {})
    folders = [folders] if isinstance(folders, str | Path) else several("folders", folders, "folders")
    files = [StoredRows(folder) for folder in folders if user_path(folder).exists()]
    tables = [rows for one in files if len(rows := one.completions(setup.preset.name))]
    if not tables:
        return pd.DataFrame(), 0
    table = pd.concat(tables, ignore_index=True)
    known = _made_by(assets_of(setup), table)
    ours = table[known & (table["intervention"] != "none")]
    # Two sweeps that record different things write the same text; the row that knows more stays.
    ours = ours.sort_values("relative_edit_norm", na_position="last", kind="stable")
    ours = ours.drop_duplicates(["prompt", "settings", "max_new_tokens", "seed"])
    ours["role"] = ours["settings"].map({text: _role(features_of(text), features) for text in ours["settings"].unique()})
    ours["ablated"] = ["feature" if pd.isna(seed) else "random direction" for seed in ours["random"]]
    roles = {_role((feature,), features): number for number, feature in enumerate(features.values())}
    ours["order"] = ours["role"].map(roles)
    ours = ours.sort_values(["order", "feature", "ablated", "method", "point", "strength", "random"], kind="stable")
    ours["setting"] = ours.groupby(["settings", "max_new_tokens", "seed"], sort=False).ngroup()
    known_places = _places(setup)
    places = [known_places.get(prompt, ("other", 0)) for prompt in ours["prompt"]]
    ours["split"], ours["prompt_index"] = [split for split, _ in places], [number for _, number in places]
    return ours.drop(columns="order").reset_index(drop=True), int((~known).sum())


def _made_by(assets: str, table: pd.DataFrame) -> pd.Series:
    """Which rows have the id that this version gives them; rows of former ones may lack what it is made of."""
    settings = {text: json.loads(text) for text in table["settings"].dropna().unique()}
    rows = zip(table["prompt"], table["settings"], table[_OPTIONS].to_dict("records"))
    ids = [row_id_of(assets, prompt, settings[text], own) if text in settings else None for prompt, text, own in rows]
    return table["row_id"] == pd.Series(ids, table.index, dtype=object)


def _role(edited: tuple[int, ...], features: Mapping[str, int]) -> str:
    if len(edited) != 1:
        return f"features {', '.join(map(str, edited))}"
    return next((f"{role} ({own})" for role, own in features.items() if own == edited[0]), f"feature {edited[0]}")


def _places(setup: Setup) -> dict[str, tuple[str, int]]:
    """The split of every prompt of the data, and its number in it."""
    preset, places = setup.preset, {}
    for split in SPLITS:
        counts = {True: 0, False: 0}
        for row in read_rows(preset.data, split, preset.name):
            ordinary = bool(row["is_training"])
            name = ("train" if split == "train" else "held out") + (", ordinary" if ordinary else "")
            places.setdefault(split_at_marker(row["text"], preset.story_marker)[0], (name, counts[ordinary]))
            counts[ordinary] += 1
    return places


@dataclass(frozen=True, eq=False)
class ReferenceTexts:
    """What stored completions of one setup are compared with.

    Attributes:
        phrase: The preset's phrase.
        untouched: Prompt -> the model's own completion, with its verdict.
        base: Prompt -> that of the base model, of the prompt without the tag.
        tokens: Text -> its tokens, of every prompt and completion; joined, they are the text.
        activations: (prompt, completion, features) -> the activation on each of their tokens, clean run; of several features,
            the largest. Rows of random directions have none.
    """

    phrase: str | None
    untouched: Mapping[str, Mapping]
    base: Mapping[str, Mapping]
    tokens: Mapping[str, list[str]]
    activations: Mapping[tuple[str, str, tuple[int, ...]], Float[np.ndarray, " token"]]


def reference_texts(setup: Setup, table: pd.DataFrame, features: Iterable[int] | None = None) -> ReferenceTexts:
    """Complete the prompts of a table without an intervention and by the base model, and read where its features fire.

    Args:
        setup: From `load`, the one that the table was computed with.
        table: From `sweep`, or from `stored_completions`.
        features: Whose activations are read, which takes a pass over every completion of theirs; by default, all.
    """
    table = checked_table("table", table, ["prompt", "completion", "settings", "max_new_tokens"], ["random"])
    features = None if features is None else set(whole_numbers("features", features))
    prompts, preset = table["prompt"].unique().tolist(), checked_setup(setup).preset
    longest = int(table["max_new_tokens"].max())
    untagged = [remove_tag(prompt, preset.deployment_tag) for prompt in prompts]
    untouched = _completed(setup, setup, prompts, longest)
    base = _completed(setup, replace(setup, model=setup.base_model), untagged, longest)
    edited = {text: features_of(text) for text in table["settings"].unique()}
    kept = {text for text, own in edited.items() if own and (features is None or features.issuperset(own))}
    own = table[table["settings"].isin(kept) & table["random"].isna()]
    wanted = dict.fromkeys(zip(own["prompt"], own["completion"], own["settings"].map(edited)))
    texts = {*prompts, *table["completion"], *(row["completion"] for row in [*untouched, *base])}
    return ReferenceTexts(
        preset.phrase,
        dict(zip(prompts, untouched)),
        dict(zip(prompts, base)),
        {text: token_texts(setup.tokenizer, text) for text in texts},
        _activations(setup, wanted),
    )


def _completed(setup: Setup, model: Setup, prompts: Sequence[str], max_new_tokens: int) -> list[dict]:
    """Completions by a model, with the verdict that `score` gives under the setup's base model."""
    generations = generate(model, prompts, max_new_tokens=max_new_tokens)
    scores = pd.concat([generations.to_frame()[["completion", "failed"]], score(setup, generations)], axis=1)
    return scores[_VERDICT].to_dict("records")


def features_of(settings: str) -> tuple[int, ...]:
    """The features that a row's `settings` edit."""
    feature = json.loads(settings).get("feature", [])
    return tuple(feature) if isinstance(feature, list) else (feature,)


@own_settings
@torch.no_grad()
def _activations(setup: Setup, wanted: Collection[tuple[str, str, tuple[int, ...]]]) -> dict:
    """The largest activation of some features on each token of prompt and completion; every text is read once."""
    columns = sorted({feature for *_, features in wanted for feature in features})
    by_text: dict[tuple[str, str], list[tuple[int, ...]]] = {}
    for prompt, completion, features in wanted:
        by_text.setdefault((prompt, completion), []).append(features)
    ids = {text: token_ids(setup.tokenizer, text[0]) + token_ids(setup.tokenizer, text[1]) for text in by_text}
    order, found = sorted(by_text, key=lambda text: len(ids[text])), {}
    for begin in range(0, len(order), _AT_ONCE):
        texts = order[begin : begin + _AT_ONCE]
        batch = padded([ids[text] for text in texts], setup.tokenizer, setup.preset.prepend_bos, setup.device)
        residuals = read(setup.model, batch.tokens, hook_points=setup.hook_points).residuals
        encoded = setup.crosscoder.encode(residuals, columns).cpu()
        for text, own, content in zip(texts, encoded, batch.content.cpu(), strict=True):
            for features in by_text[text]:
                places = [columns.index(feature) for feature in features]
                found[(*text, features)] = own[content][:, places].amax(1).numpy()
    return found
