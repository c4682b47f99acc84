"""Batched, cached generation under per-row interventions."""

import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from tqdm import tqdm

from crosscoder_utils.engine import (
    Batch,
    Decoding,
    Limits,
    Request,
    RowRecords,
    Sampler,
    as_requests,
    family,
    plan_batches,
    records_of,
)
from crosscoder_utils.interventions import Intervention
from crosscoder_utils.io.tokens import continuation
from crosscoder_utils.io.torch_defaults import own_settings
from crosscoder_utils.io.validation import (
    Progress,
    checked_progress,
    chosen,
    finite_number,
    instance,
    instances,
    texts,
    whole_number,
)  # fmt: skip
from crosscoder_utils.loading import Setup

RECORDS = ("target", "everything", "nothing")


@dataclass(frozen=True, eq=False, repr=False)
class Generation(RowRecords):
    """One row's text and what was recorded at each token of prompt + completion: the attributes of `RowRecords`, and more.

    RowRecords are None for an untouched row, and where `generate` was not asked for them.

    Attributes:
        prompt: As given.
        completion: What was written, without the end-of-text token.
        token_ids: Its ids.
        intervention: What was done; None for an untouched row.
        n_prompt_tokens: How many of the recorded tokens are the prompt's.
        failed: Whether an edit or a logit was infinite or NaN. The text ends there, and all records are NaN.
        others_change: Mean absolute change over the other features' activations.
        others_change_relative: Their summed absolute change, relative to their clean sum.
        missed: Where the pre-activation was to be moved to a value, but ended elsewhere; None for methods without such an aim.
    """

    prompt: str
    completion: str
    token_ids: list[int]
    intervention: Intervention | None
    n_prompt_tokens: int
    failed: bool = False
    others_change: Float[np.ndarray, " token"] | None = None
    others_change_relative: Float[np.ndarray, " token"] | None = None
    missed: Bool[np.ndarray, " token"] | None = None

    def __repr__(self) -> str:
        return f"Generation({self.prompt!r}, {self.completion!r}, {self.intervention})"

    def summary(self) -> dict:
        """One row of a table: texts, `Intervention.settings`, `label` and `strength`, and the records' means over tokens.

        `relative_edit_norm` is the largest norm of the edit, over tokens and hook points, relative to the residual stream's.
        `reached` is there for methods that move the pre-activation to a value: whether it ended there, within 1/1000 of the
        way, on every token that was to be edited.
        """
        row = {"prompt": self.prompt, "completion": self.completion, "n_tokens": len(self.token_ids), "failed": self.failed}
        if self.intervention is None:
            return row | {"intervention": "none"}
        row |= self.intervention.settings
        row |= {"label": self.intervention.label, "strength": self.intervention.method.strength}
        row |= {} if self.missed is None else {"reached": not self.missed.any()}
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


@own_settings
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
    progress: Progress = False,
    sampler: Sampler | None = None,
) -> Generations:
    """Complete prompts under interventions.

    A row's result depends on its prompt, its intervention and the sampling arguments, never on the other rows.

    Args:
        setup: From `load`.
        prompts: One prompt, or one per row. With one prompt and several interventions, each gets that prompt.
        intervention: One for all rows, or one per row; None leaves a row untouched.
        max_new_tokens: Number of tokens to write at most; the end-of-text token ends a row earlier.
        temperature: 0 means greedy decoding.
        top_k: Sample from the `top_k` most likely tokens; None means from all.
        seed: Of the random numbers. Rows with equal prompts get equal ones.
        record: "target" records what the row's features and the residual stream did, "everything" also how far the other
            features moved, for which both runs are read once more and encoded in full, "nothing" only the texts.
        memory_gb: About how much memory to use, beside the weights, in GB; rows that do not fit are computed in turn.
        batch_size: Number of rows to compute together at most.
        progress: True shows a progress bar over rows; a function is called with the number of rows that have just ended.
        sampler: Chooses tokens; by default, `Sampler(temperature, top_k, seed)`.

    Returns:
        One `Generation` per row.

    Raises:
        ValueError: If a prompt is empty, too long or lacks a marker that `tokens=` names, if an argument is out of range, if
            `memory_gb` does not hold a single row, or if the crosscoder is a TopK one.
        IndexError: If a feature or hook point does not exist.

    Example:
        >>> setup = load()
        >>> out = generate(setup, setup.prompts(5, deployment=True), Ablate(feature, SingleLayer(point=1, scale=2.0)))
        >>> out[0].completion
    """
    max_new_tokens, batch_size = whole_number("max_new_tokens", max_new_tokens, 1), whole_number("batch_size", batch_size, 1)
    record, memory_gb = chosen("record", record, RECORDS), finite_number("memory_gb", memory_gb, 0, 1e6)
    sampler = sampler or Sampler(temperature, top_k, seed)
    progress = checked_progress(progress)
    requests = make_requests(setup, *as_rows(setup, prompts, intervention), max_new_tokens)

    results: dict[int, Generation] = {}
    with tqdm(total=len(requests), desc="generating", unit="row", disable=progress is not True) as bar:
        advance = progress if callable(progress) else bar.update
        for family_rows in _families(requests):
            for part, limits in plan_batches(setup, requests, family_rows, max_new_tokens, record, memory_gb, batch_size):
                for ended in Decoding(setup, [requests[n] for n in part], part, limits, sampler).run():
                    results |= zip(ended.number.tolist(), _results(setup, ended, limits), strict=True)
                    advance(len(ended))
    failed = sum(generation.failed for generation in results.values())
    if failed:
        warnings.warn(
            f"{failed} of {len(requests)} rows failed: an edit or a logit was infinite or NaN, where their text ends, and "
            "their records are NaN; use a smaller scale or learning rate",
            stacklevel=3,
        )
    return Generations(results[number] for number in range(len(requests)))


def make_requests(setup: Setup, prompts, interventions, max_new_tokens: int) -> list[Request]:
    """Tokenize, and check lengths and scopes."""
    return as_requests(setup, prompts, interventions, lambda p, scope: scope.bounds(p, setup.tokenizer), max_new_tokens)


def _families(requests: Sequence[Request]) -> list[list[int]]:
    """Numbers of the rows that are written together: untouched ones, those along directions, each searching method's."""
    families = defaultdict(list)
    for number, request in enumerate(requests):
        families[family(request)].append(number)
    return list(families.values())


def _results(setup: Setup, batch: Batch, limits: Limits) -> Iterator[Generation]:
    """Rows that have ended, with the records of their own tokens."""
    n_prompt_tokens = (batch.n_prompt - batch.content_start).tolist()
    own = zip(batch.requests, batch.tokens.tolist(), batch.end.tolist(), n_prompt_tokens, batch.failed.tolist(), strict=True)
    for (request, tokens, end, n_prompt, failed), records in zip(own, records_of(setup, batch, limits), strict=True):
        ids = tokens[batch.n_prompt : end]
        completion = continuation(setup.tokenizer, request.ids, ids)
        if failed:
            records = {name: np.full_like(values, np.nan) for name, values in records.items()}
        yield Generation(request.prompt, completion, ids, request.intervention, n_prompt, failed, **records)


def as_rows(setup: Setup, prompts, intervention) -> tuple[list[str], list[Intervention | None]]:
    """One prompt and one intervention per row, checked to fit the crosscoder."""
    crosscoder = instance("setup", setup, Setup, "make one with load()").crosscoder
    one = intervention is None or isinstance(intervention, Intervention)
    rows = texts("prompts", prompts)
    interventions = instances("intervention", intervention, Intervention, "give Ablate(feature, method) or None", or_none=True)
    rows *= len(interventions) if isinstance(prompts, str) else 1
    interventions *= len(rows) if one else 1
    if len(interventions) != len(rows):
        raise ValueError(f"{len(interventions)} interventions for {len(rows)} prompts; give one for all, or one per prompt")
    given = {id(i): i for i in interventions if i is not None}.values()
    if crosscoder.k is not None and given:
        raise ValueError(
            f"with k={crosscoder.k} it takes all features to tell whether one is active; load the crosscoder with a "
            "fixed threshold, such as threshold_for(residuals) finds"
        )
    for each in given:
        each.check(crosscoder)
    return rows, interventions
