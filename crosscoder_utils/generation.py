"""Batched, cached generation under per-row interventions.

Two streams run side by side: a clean one, which tells how much the features fire, and an edited one, which writes the
text. Both read the same tokens, the prompt and what the edited one has written, and each keeps its own KV cache.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from crosscoder_utils.hooks import Pass, Stream
from crosscoder_utils.interventions import Intervention, Step, Targets
from crosscoder_utils.loading import Setup
from crosscoder_utils.prompts import TokenBatch, check_prompt, left_padded
from crosscoder_utils.sampling import Sampler


@dataclass(frozen=True, eq=False)
class Generation:
    """One row's text and what was recorded at each token of prompt + completion (BOS left out).

    Records are None for an untouched row. With several features, activations are [token, target].

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
        others_change: Mean absolute change over the other features' activations.
        others_change_relative: Their summed absolute change, relative to their clean sum.
        edit_norm: Norm of what was added to the stream.
        residual_norm: Norm of the clean stream.
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
    others_change: Float[np.ndarray, " token"] | None = None
    others_change_relative: Float[np.ndarray, " token"] | None = None
    edit_norm: Float[np.ndarray, "token point"] | None = None
    residual_norm: Float[np.ndarray, "token point"] | None = None

    def summary(self) -> dict:
        """Flat: texts, settings, and the records' means over tokens (edit norm: its largest share of the stream)."""
        row = {"prompt": self.prompt, "completion": self.completion, "n_tokens": len(self.token_ids)}
        if self.intervention is None:
            return row | {"intervention": "none"}
        method = self.intervention.method
        row |= {"intervention": self.intervention.kind, "feature": self.intervention.feature, "method": method.name}
        row |= {field.name: getattr(method, field.name) for field in fields(method)}
        for name in ("activation_before", "activation_after", "others_change", "others_change_relative"):
            row[name] = float(getattr(self, name).mean())
        row["edit_share"] = float((self.edit_norm / self.residual_norm).max())
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
    batch_size: int = 256,
    progress: bool = False,
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
        batch_size: Rows computed together; affects memory and speed only.
        progress: Show a progress bar over batches.

    Returns:
        One `Generation` per row.

    Raises:
        ValueError: If a prompt is empty, too long or lacks a marker that `tokens=` names, or an argument is out of range.
        IndexError: If a feature or hook point does not exist.

    Example:
        >>> setup = load()
        >>> out = generate(setup, setup.prompts(5, deployment=True), Ablate(feature, SingleLayer(point=1, scale=2.0)))
        >>> out[0].completion
    """
    prompts, interventions = _as_rows(prompts, intervention)
    _check_at_least("max_new_tokens", max_new_tokens, 1)
    _check_at_least("batch_size", batch_size, 1)
    for one in {id(i): i for i in interventions if i is not None}.values():
        one.check(setup.crosscoder)
    preset = setup.preset
    prompt_ids = [check_prompt(p, setup.tokenizer, max_new_tokens, preset.prepend_bos, preset.context) for p in prompts]
    bounds = [(0, 0) if i is None else i.scope.bounds(p, setup.tokenizer) for p, i in zip(prompts, interventions)]

    rows_by_method = defaultdict(list)
    for row, one in enumerate(interventions):
        rows_by_method[None if one is None else type(one.method)].append(row)
    batches = [rows[i : i + batch_size] for rows in rows_by_method.values() for i in range(0, len(rows), batch_size)]
    results: dict[int, Generation] = {}
    for rows in tqdm(batches, desc="generating", disable=not progress):
        batch = left_padded([prompt_ids[r] for r in rows], setup.tokenizer, preset.prepend_bos, setup.device)
        sampler = Sampler([prompt_ids[r] for r in rows], temperature, top_k, seed)
        run = _Run(setup, batch, [interventions[r] for r in rows], [bounds[r] for r in rows])
        run.write(max_new_tokens, sampler)
        for row, generation in zip(rows, run.results([prompts[r] for r in rows]), strict=True):
            results[row] = generation
    return Generations(results[row] for row in range(len(prompts)))


class _Run:
    """One batch of rows that share a method (or none)."""

    def __init__(
        self,
        setup: Setup,
        batch: TokenBatch,
        interventions: Sequence[Intervention | None],
        bounds: Sequence[tuple[int, float]],
    ) -> None:
        self.setup, self.batch, self.interventions = setup, batch, interventions
        self.start, self.stop = (torch.tensor(b, device=setup.device)[:, None] for b in zip(*bounds, strict=True))
        self.touched = interventions[0] is not None
        self.targets = Targets(interventions, setup.crosscoder) if self.touched else None
        self.edited = Stream(setup.model)
        self.clean = Stream(setup.model) if self.touched else None
        self.records: dict[str, list[Tensor]] = defaultdict(list)
        self.written: list[list[int]] = [[] for _ in interventions]

    @torch.no_grad()
    def write(self, max_new_tokens: int, sampler: Sampler) -> None:
        """Read the prompts, then write token by token until all rows have ended."""
        logits = self._read_prompts()
        ended = torch.zeros(len(self.interventions), dtype=torch.bool, device=self.setup.device)
        position = self.batch.position[:, -1:]
        for _ in range(max_new_tokens):
            tokens = sampler.next_tokens(logits)
            ended = ended | (tokens == self.setup.tokenizer.eos_token_id)
            for ids, token, over in zip(self.written, tokens.tolist(), ended.tolist(), strict=True):
                if not over:
                    ids.append(token)
            if ended.all():
                break
            # The last token written is read too, so that its activations are recorded.
            position = position + 1
            logits = self._read(tokens[:, None], torch.ones_like(position, dtype=torch.bool), position)

    def _read_prompts(self) -> Float[Tensor, "row vocab"]:
        batch = self.batch
        token_by_token = self.touched and self.interventions[0].method.token_by_token
        width = 1 if token_by_token else batch.tokens.shape[1]
        for at in range(0, batch.tokens.shape[1], width):
            piece = slice(at, at + width)
            logits = self._read(batch.tokens[:, piece], batch.mask[:, piece], batch.position[:, piece])
        return logits

    def _read(self, tokens: Tensor, mask: Tensor, position: Tensor) -> Float[Tensor, "row vocab"]:
        """Read tokens into both streams, edited by the method, and return the edited stream's last logits."""
        if not self.touched:
            return self.edited.read(tokens, mask).logits[:, -1]
        clean = self.clean.read(tokens, mask)
        pre_activations = self.targets.pre_activations(clean.residuals)
        step = Step(
            targets=self.targets,
            activations=self.targets.activate(pre_activations),
            # BOS and padding have negative positions and so are in no scope.
            editable=(position >= self.start) & (position < self.stop) & (position >= 0),
            peek=lambda deltas: self.edited.peek(tokens, mask, deltas).residuals,
        )
        methods = [i.method for i in self.interventions]
        deltas = type(methods[0]).deltas(methods, step)
        edited = self.edited.read(tokens, mask, deltas)
        self._record(clean, edited, deltas)
        return edited.logits[:, -1]

    def _record(self, clean: Pass, edited: Pass, deltas: Float[Tensor, "row pos point d_model"]) -> None:
        crosscoder, targets = self.setup.crosscoder, self.targets
        before, after = crosscoder.encode(clean.residuals), crosscoder.encode(edited.residuals)
        is_target = torch.zeros(len(self.interventions), crosscoder.n_features, dtype=torch.bool, device=before.device)
        for row, intervention in enumerate(self.interventions):
            is_target[row, list(intervention.features)] = True
        before, after = (a.masked_fill(is_target[:, None], 0.0) for a in (before, after))
        change = (after - before).abs().sum(-1)
        new = {
            "pre_activation_before": targets.pre_activations(clean.residuals),
            "pre_activation_after": targets.pre_activations(edited.residuals),
            "others_change": change / (~is_target).sum(-1, keepdim=True),
            "others_change_relative": change / before.sum(-1).clamp(min=1e-9),
            "edit_norm": deltas.norm(dim=-1),
            "residual_norm": clean.residuals.norm(dim=-1),
        }
        for side in ("before", "after"):
            new[f"activation_{side}"] = targets.activate(new[f"pre_activation_{side}"])
        for name, values in new.items():
            self.records[name].append(values.cpu())

    def results(self, prompts: Sequence[str]) -> list[Generation]:
        """The rows as they stand, with the records of their own tokens."""
        records = {name: torch.cat(pieces, dim=1).numpy() for name, pieces in self.records.items()}
        lengths = self.batch.content.sum(1).tolist()
        generations = []
        for row, (prompt, ids, length) in enumerate(zip(prompts, self.written, lengths, strict=True)):
            begin = self.batch.tokens.shape[1] - length
            own = {name: values[row, begin : begin + length + len(ids)] for name, values in records.items()}
            for name in own:
                if "activation" in name and isinstance(self.interventions[row].feature, int):
                    own[name] = own[name][:, 0]
            completion = self.setup.tokenizer.decode(ids)
            generations.append(Generation(prompt, completion, ids, self.interventions[row], length, **own))
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
