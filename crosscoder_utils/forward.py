"""Texts that exist already, read under per-row interventions (teacher forcing): by `run`, or with a user's own hooks."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from tqdm import tqdm

from crosscoder_utils.engine import RowRecords, read_texts, text_requests
from crosscoder_utils.engine.lens_hooks import fwd_hooks, input_ids  # noqa: F401, public from here
from crosscoder_utils.generation import as_rows
from crosscoder_utils.interventions import Intervention
from crosscoder_utils.io.tokens import leading_bos
from crosscoder_utils.io.torch_defaults import own_settings
from crosscoder_utils.io.validation import finite_number, flag, whole_number
from crosscoder_utils.loading import Setup


@dataclass(frozen=True, eq=False, repr=False)
class Reading(RowRecords):
    """What came of one row: the attributes of `RowRecords`, and more. Every array has one entry per token id, BOS left out.

    Attributes:
        text: As given.
        token_ids: Its ids.
        intervention: What was done; None for an untouched row.
        loss: Of the token in the intervened run, in nats. Without a BOS, the first is NaN.
        kl: KL(untouched || intervened) of the prediction made at the token, in nats.
        failed: Whether an edit or a logit was infinite or NaN; all arrays are NaN then.
        logits: Of the intervened run; None if they were not asked for.
    """

    text: str
    token_ids: list[int]
    intervention: Intervention | None
    loss: Float[np.ndarray, " token"]
    kl: Float[np.ndarray, " token"]
    failed: bool = False
    logits: Float[np.ndarray, "token vocab"] | None = None

    def __repr__(self) -> str:
        return f"Reading({self.text!r}, {self.intervention})"

    def summary(self) -> dict:
        """One row of a table, as `Generation.summary`; `edited_share` is the share of tokens that got an edit."""
        row, one = {"text": self.text, "n_tokens": len(self.token_ids), "failed": self.failed}, self.intervention
        row |= {"intervention": "none"} if one is None else one.settings | {"label": one.label, "strength": one.method.strength}
        row["mean_loss"] = float(pd.Series(self.loss).mean())  # without the NaN of a first token
        row |= {"mean_kl": float(self.kl.mean()), "max_kl": float(self.kl.max())}
        if self.edit_norm is not None:
            row["edited_share"] = np.nan if self.failed else float((self.edit_norm > 0).any(1).mean())
            row["relative_edit_norm"] = float((self.edit_norm / self.residual_norm).max())
        return row


class Readings(list[Reading]):
    """The rows of one call to `run`, in the order of its texts."""

    def to_frame(self) -> pd.DataFrame:
        """One line per row; see `Reading.summary`."""
        return pd.DataFrame([reading.summary() for reading in self])


@own_settings
def run(
    setup: Setup,
    texts: str | Sequence[str],
    intervention: Intervention | None | Sequence[Intervention | None] = None,
    logits: bool = False,
    memory_gb: float = 2.0,
    batch_size: int = 512,
    progress: bool = False,
) -> Readings:
    """Read texts under interventions: what the model would have predicted at each token, and what the edits were.

    Edits are those that `generate` makes where it writes the text. For `tokens=`, a text's prompt ends with the preset's story
    marker; where there is none, all of it is the prompt, and "generated" is refused. A row's result is its own.

    Args:
        setup: From `load`.
        texts: One text, or one per row. With one text and several interventions, each gets that text.
        intervention: One for all rows, or one per row; None leaves a row untouched.
        logits: Whether to return the intervened run's logits, which take tokens x vocabulary numbers per row.
        memory_gb: About how much memory to use, beside the weights and what is returned, in GB.
        batch_size: Number of rows to compute together at most.
        progress: Whether to show a progress bar over rows.

    Returns:
        One `Reading` per row.

    Raises:
        ValueError: If a text is empty, too long or lacks a marker that `tokens=` names, or if `memory_gb` holds no row.
        IndexError: If a feature or hook point does not exist.

    Example:
        >>> readings = run(setup, setup.examples(20, deployment=False), Ablate(feature, ManyLayers(scale=1.0)))
        >>> readings.to_frame()["mean_kl"].mean()  # the side effect on ordinary texts
    """
    logits, progress = flag("logits", logits), flag("progress", progress)
    memory_gb, batch_size = finite_number("memory_gb", memory_gb, 0, 1e6), whole_number("batch_size", batch_size, 1)
    texts, interventions = as_rows(setup, texts, intervention)
    requests = text_requests(setup, texts, interventions)
    rows: dict[int, Reading] = {}
    with tqdm(total=len(requests), desc="reading", unit="row", disable=not progress) as bar:
        for number, arrays in read_texts(setup, requests, memory_gb, batch_size, logits):
            ids = requests[number].ids[leading_bos(setup.tokenizer, requests[number].ids) :]
            rows[number] = Reading(texts[number], ids, interventions[number], **arrays)
            bar.update()
    if failed := sum(reading.failed for reading in rows.values()):
        reason = "an edit or a logit was infinite or NaN; their results are NaN; use a smaller scale or learning rate"
        warnings.warn(f"{failed} of {len(rows)} rows failed: {reason}", stacklevel=3)
    return Readings(rows[number] for number in range(len(requests)))
