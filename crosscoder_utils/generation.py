"""Batched, cached generation under per-row interventions."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from tqdm import tqdm

from crosscoder_utils.engine.drafts import Library
from crosscoder_utils.engine.memory import plan_batches
from crosscoder_utils.engine.recording import RECORDS, records_of
from crosscoder_utils.engine.rows import Row
from crosscoder_utils.engine.sampling import Sampler
from crosscoder_utils.engine.token_writing import TokenWriter
from crosscoder_utils.engine.writing import Writer
from crosscoder_utils.interventions import Intervention
from crosscoder_utils.loading import Setup
from crosscoder_utils.prompts import check_prompt


@dataclass(frozen=True, eq=False, repr=False)
class Generation:
    """One row's text and what was recorded at each token of prompt + completion (BOS left out).

    Records are None for an untouched row, and where `generate` was not asked for them. With several features, activations
    are [token, target].

    Attributes:
        prompt: As given.
        completion: What was written, without the end-of-text token.
        token_ids: Its ids.
        intervention: What was done; None for an untouched row.
        n_prompt_tokens: How many of the recorded tokens are the prompt's.
        activation_before: The feature's activation in the clean model.
        activation_after: The same, encoded from the edited stream.
        pre_activation_before: As `activation_before`, without the JumpReLU.
        pre_activation_after: As `activation_after`, without the JumpReLU.
        edit_norm: Norm of what was added to the stream.
        residual_norm: Norm of the clean stream.
        others_change: Mean absolute change over the other features' activations.
        others_change_relative: Their summed absolute change, relative to their clean sum.
    """

    prompt: str
    completion: str
    token_ids: list[int]
    intervention: Intervention | None
    n_prompt_tokens: int
    activation_before: Float[np.ndarray, " token"] | None = None
    activation_after: Float[np.ndarray, " token"] | None = None
    pre_activation_before: Float[np.ndarray, " token"] | None = None
    pre_activation_after: Float[np.ndarray, " token"] | None = None
    edit_norm: Float[np.ndarray, "token point"] | None = None
    residual_norm: Float[np.ndarray, "token point"] | None = None
    others_change: Float[np.ndarray, " token"] | None = None
    others_change_relative: Float[np.ndarray, " token"] | None = None

    def __repr__(self) -> str:
        return f"Generation({self.prompt!r}, {self.completion!r}, {self.intervention})"

    def summary(self) -> dict:
        """Flat: texts, `Intervention.settings`, and the records' means over tokens; of the edit, its largest share of the
        stream's norm."""
        row = {"prompt": self.prompt, "completion": self.completion, "n_tokens": len(self.token_ids)}
        if self.intervention is None:
            return row | {"intervention": "none"}
        row |= self.intervention.settings
        for name in ("activation_before", "activation_after", "others_change", "others_change_relative"):
            if getattr(self, name) is not None:
                row[name] = float(getattr(self, name).mean())
        if self.edit_norm is not None:
            row["relative_edit_norm"] = float((self.edit_norm / self.residual_norm).max())
        return row


class Generations(list[Generation]):
    """The rows of one call to `generate`, in the order of its prompts."""

    def to_frame(self) -> pd.DataFrame:
        """One line per row; see `Generation.summary`."""
        return pd.DataFrame([generation.summary() for generation in self])


def generate(
    setup: Setup,
    prompts: str | Sequence[str],
    intervention: Intervention | None | Sequence[Intervention | None] = None,
    max_new_tokens: int = 80,
    temperature: float = 0.0,
    top_k: int | None = None,
    seed: int = 0,
    record: str = "target",
    memory_gb: float = 2.0,
    batch_size: int = 512,
    progress: bool | Callable[[int], object] = False,
) -> Generations:
    """Complete prompts under interventions.

    A row's result depends on its prompt, its intervention and the sampling arguments, never on the other rows.

    Args:
        setup: From `load`.
        prompts: One prompt, or one per row. One prompt and several interventions: the same prompt for each.
        intervention: One for all rows, or one per row; None leaves a row untouched.
        max_new_tokens: Most tokens to write; a row also ends with the end-of-text token.
        temperature: 0 is greedy.
        top_k: Sample among so many most likely tokens; None among all.
        seed: Of each row's own random numbers: equal prompts draw equal ones.
        record: "target": what the features and the stream did. "everything": also how far the other features moved, for
            which both streams are read once more and encoded in full. "nothing": texts only.
        memory_gb: About how much memory to use, beside the weights; rows that need more are computed in turn.
        batch_size: Most rows computed together.
        progress: Show a progress bar over rows; or a function to call with every number of rows that ended.

    Returns:
        One `Generation` per row.

    Raises:
        ValueError: If a prompt is empty, too long or lacks a marker that `tokens=` names, if an argument is out of range, or
            if `memory_gb` does not hold a single row, or if the crosscoder is a TopK one.
        IndexError: If a feature or hook point does not exist.

    Example:
        >>> setup = load()
        >>> out = generate(setup, setup.prompts(5, deployment=True), Ablate(feature, SingleLayer(point=1, scale=2.0)))
        >>> out[0].completion
    """
    prompts, interventions = _as_rows(prompts, intervention)
    _check_at_least("max_new_tokens", max_new_tokens, 1)
    _check_at_least("batch_size", batch_size, 1)
    if record not in RECORDS:
        raise ValueError(f"record={record!r} is unknown; use {', '.join(map(repr, RECORDS))}")
    if setup.crosscoder.k is not None and any(i is not None for i in interventions):
        raise ValueError(
            f"with k={setup.crosscoder.k} it takes all features to tell whether one is active; load the crosscoder with a "
            "fixed threshold, such as threshold_for(residuals) finds"
        )
    for one in {id(i): i for i in interventions if i is not None}.values():
        one.check(setup.crosscoder)
    sampler = Sampler(temperature, top_k, seed)
    rows = _make_rows(setup, prompts, interventions, max_new_tokens)

    results: dict[int, Generation] = {}
    library = Library()
    with tqdm(total=len(rows), desc="generating", unit="row", disable=progress is not True) as bar:
        advance = progress if callable(progress) else bar.update
        for family in _families(rows).values():
            for numbers, limits in plan_batches(setup, rows, family, max_new_tokens, record, memory_gb, batch_size):
                own = [rows[number] for number in numbers]
                writer = (TokenWriter if _is_by_token(own[0]) else Writer)(setup, own, limits, sampler, library)
                for n_ended in writer.write():
                    advance(n_ended)
                results |= zip(numbers, _results(writer, record), strict=True)
                for number in numbers:
                    library.add(results[number].prompt, results[number].token_ids)
    return Generations(results[number] for number in range(len(rows)))


def _make_rows(setup: Setup, prompts, interventions, max_new_tokens: int) -> list[Row]:
    """Check and tokenize; equal prompts once."""
    preset, tokenizer = setup.preset, setup.tokenizer
    ids = {p: check_prompt(p, tokenizer, max_new_tokens, preset.prepend_bos, preset.context) for p in dict.fromkeys(prompts)}
    scopes = dict.fromkeys((p, i.scope) for p, i in zip(prompts, interventions) if i is not None)
    bounds = {(p, scope): scope.bounds(p, tokenizer) for p, scope in scopes}
    return [Row(p, ids[p], i, (0, 0) if i is None else bounds[p, i.scope]) for p, i in zip(prompts, interventions, strict=True)]


def _families(rows: Sequence[Row]) -> dict[type | None, list[int]]:
    """Numbers of the rows that are written together: untouched ones, those along directions, each method by token."""
    families = defaultdict(list)
    for number, row in enumerate(rows):
        key = None if row.intervention is None else type(row.intervention.method) if _is_by_token(row) else Writer
        families[key].append(number)
    return families


def _is_by_token(row: Row) -> bool:
    return row.intervention is not None and not hasattr(row.intervention.method, "directions")


def _results(writer: Writer, record: str) -> list[Generation]:
    """The rows as they stand, with the records of their own tokens."""
    records = records_of(writer, record)
    bos = int(writer.setup.preset.prepend_bos)
    generations = []
    for number, (row, tokens, length) in enumerate(zip(writer.source, writer.tokens.cpu(), writer.length.tolist())):
        own = {name: values[number, bos:length] for name, values in records.items()}
        for name in own:
            if "activation" in name and isinstance(row.intervention.feature, int):
                own[name] = own[name][:, 0]
        ids = tokens[bos + len(row.ids) : length].tolist()
        completion = writer.setup.tokenizer.decode(ids)
        generations.append(Generation(row.prompt, completion, ids, row.intervention, len(row.ids), **own))
    return generations


def _as_rows(prompts, intervention) -> tuple[list[str], list[Intervention | None]]:
    several = isinstance(intervention, Sequence)
    if isinstance(prompts, str):
        prompts = [prompts] * (len(intervention) if several else 1)
    interventions = list(intervention) if several else [intervention] * len(prompts)
    if len(interventions) != len(prompts):
        raise ValueError(f"{len(interventions)} interventions for {len(prompts)} prompts; give one for all, or one per prompt")
    return list(prompts), interventions


def _check_at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name}={value} is too small; it must be {least} or more")
