"""The rows of one batch: their tokens, where they may be edited, and what is recorded of them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crosscoder_utils.engine.targets import Targets
from crosscoder_utils.interventions import Intervention
from crosscoder_utils.io.tokens import padded
from crosscoder_utils.loading import Setup
from crosscoder_utils.methods.statistics import FeatureStatistics
from crosscoder_utils.prompts import TokenScope


@dataclass(frozen=True)
class Request:
    """One prompt to complete.

    Attributes:
        prompt: Its text.
        ids: Its tokens, with a BOS only where the prompt itself begins with one.
        intervention: What is done to it; None leaves it untouched.
        bounds: First token, counted without BOS, that may be edited, and the first after it that may not.
    """

    prompt: str
    ids: Sequence[int]
    intervention: Intervention | None
    bounds: tuple[int, float]


def as_requests(
    setup: Setup,
    texts: Sequence[str],
    interventions: Sequence[Intervention | None],
    bounds: Callable[[str, TokenScope], tuple[int, float]],
    max_new_tokens: int = 0,
) -> list[Request]:
    """Tokenize, each different text once, and check lengths and scopes; `bounds` says what a scope means in a text."""
    ids = {text: setup.token_ids(text, max_new_tokens) for text in dict.fromkeys(texts)}
    scopes = dict.fromkeys((t, i.scope) for t, i in zip(texts, interventions, strict=True) if i is not None)
    found = {(text, scope): bounds(text, scope) for text, scope in scopes}
    return [Request(t, ids[t], i, (0, 0) if i is None else found[t, i.scope]) for t, i in zip(texts, interventions)]


def within_bounds(requests: Sequence[Request], position: Int[Tensor, "row pos"]) -> Bool[Tensor, "row pos"]:
    """Where rows may be edited; `position` counts each row's tokens without BOS."""
    first, stop = (torch.tensor(b, device=position.device)[:, None] for b in zip(*(r.bounds for r in requests), strict=True))
    return (position >= first) & (position < stop)


@dataclass(frozen=True)
class Limits:
    """How far rows are written and recorded, and how much is computed at once.

    Attributes:
        new_tokens: Number of tokens to write at most.
        record: What to record; see `generate`.
        tokens_per_pass: About how many tokens are read in one pass where they are known beforehand.
    """

    new_tokens: int
    record: str
    tokens_per_pass: int

    def parts(self, rows: Int[Tensor, " row"], n_tokens: int) -> Iterator[Int[Tensor, " row"]]:
        """Split rows that read `n_tokens` tokens each into passes."""
        if len(rows):
            yield from rows.split(max(1, self.tokens_per_pass // max(n_tokens, 1)))


@dataclass(frozen=True, eq=False)
class Records:
    """What the features and the residual stream did at each position.

    Attributes:
        pre_before: Pre-activations in the clean run.
        pre_after: Pre-activations in the intervened run.
        edit_norm: Norm of what was added to the residual stream.
        residual_norm: Norm of the clean run's residual stream.
        deltas: What was added to the residual stream; only kept where it was searched for and is asked for.
        missed: Whether a method that aims at a value of the pre-activation did not reach it; only kept for such methods.
    """

    pre_before: Float[Tensor, "row position target"]
    pre_after: Float[Tensor, "row position target"]
    edit_norm: Float[Tensor, "row position point"]
    residual_norm: Float[Tensor, "row position point"]
    deltas: Float[Tensor, "row position point d_model"] | None = None
    missed: Bool[Tensor, "row position"] | None = None


@dataclass(eq=False)
class Batch:
    """Rows on their way from prompt to completion, padded on the left: all prompts end before position `n_prompt`.

    Attributes:
        requests: What is asked for, one per row.
        targets: What each row does to which features.
        number: Each row's number among all rows of the call.
        tokens: BOS, prompt and what has been written.
        start: Position of the row's first token.
        content_start: Position of the row's first token that is no BOS.
        editable: Where the row may be edited.
        end: Position after the row's last token once the row has ended, else 0.
        failed: Whether an edit or a logit of the row was not finite; it has ended then.
        n_prompt: Position of the first token that is written.
        records: None if nothing is recorded.
    """

    requests: Sequence[Request]
    targets: Targets
    number: Int[Tensor, " row"]
    tokens: Int[Tensor, "row position"]
    start: Int[Tensor, " row"]
    content_start: Int[Tensor, " row"]
    editable: Bool[Tensor, "row position"]
    end: Int[Tensor, " row"]
    failed: Bool[Tensor, " row"]
    n_prompt: int
    records: Records | None = None

    @staticmethod
    def of(
        setup: Setup,
        requests: Sequence[Request],
        numbers: Sequence[int],
        new_tokens: int,
        statistics: FeatureStatistics | None = None,
    ) -> "Batch":
        """A batch of requests; `numbers` are theirs among all rows of the call."""
        prompts = padded([r.ids for r in requests], setup.tokenizer, setup.preset.prepend_bos, setup.device, side="left")
        tokens = torch.nn.functional.pad(prompts.tokens, (0, new_tokens + 1))
        position = torch.arange(tokens.shape[1], device=setup.device) - prompts.content_start[:, None]
        editable = within_bounds(requests, position) & (position >= 0)
        number, end = torch.tensor(numbers, device=setup.device), torch.zeros_like(prompts.start)
        targets = Targets.of([r.intervention for r in requests], setup.crosscoder, statistics)
        own = prompts.start, prompts.content_start
        return Batch(requests, targets, number, tokens, *own, editable, end, end.bool(), prompts.tokens.shape[1])

    def __len__(self) -> int:
        return len(self.requests)

    @property
    def rows(self) -> Int[Tensor, " row"]:
        return torch.arange(len(self), device=self.tokens.device)

    def select(self, rows: Int[Tensor, " row"]) -> "Batch":
        """A batch of some of the rows."""
        records = None if self.records is None else _select(self.records, rows)
        requests, targets = [self.requests[r] for r in rows.tolist()], self.targets.select(rows)
        return replace(_select(self, rows), requests=requests, targets=targets, records=records)


_T = TypeVar("_T", Batch, Records)


def _select(tables: _T, rows: Tensor) -> _T:
    """Some rows of every tensor that a dataclass has."""
    values = {field.name: getattr(tables, field.name) for field in fields(tables)}
    return replace(tables, **{name: value[rows] for name, value in values.items() if isinstance(value, Tensor)})
