"""Rows of a screen: completions, their scores, and how far the prediction of the first token has moved."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from crosscoder_utils.analysis.metrics import SCORES, score
from crosscoder_utils.analysis.story_measures import text_measures
from crosscoder_utils.analysis.sweeps import Options, Row, Task
from crosscoder_utils.engine import Request, Sampler
from crosscoder_utils.engine.reading import kl_divergence
from crosscoder_utils.forward import run
from crosscoder_utils.generation import Generation, generate
from crosscoder_utils.io.validation import Progress
from crosscoder_utils.loading import Setup

ROWS_AT_ONCE = 32
"""Rows whose first token's divergence is worked out together: each takes the vocabulary's size several times."""


@dataclass(frozen=True)
class ScreenOptions(Options):
    """Options of a sweep, and a mark in the rows' ids: rows that a sweep has stored lack `kl`."""

    first_token: str = "kl"


@dataclass(frozen=True)
class ScreenTask(Task):
    """A part of a screen's missing rows."""

    def table(self, setup: Setup, progress: Progress) -> pd.DataFrame:
        return effects(setup, self.rows, self.options, progress)


def effects(setup: Setup, rows: Sequence[Row], options: Options, progress: Progress = False) -> pd.DataFrame:
    """Complete and score some rows: columns of `Generations.to_frame`, of `known_scores`, and `kl` of the first token."""
    interventions, prompts = zip(*rows, strict=True)
    sampler = FirstToken({prompt: first_prediction(setup, prompt) for prompt in dict.fromkeys(prompts)})
    generations = generate(
        setup, prompts, interventions, options.max_new_tokens, record=options.record, progress=progress, sampler=sampler
    )
    table = pd.concat([generations.to_frame(), known_scores(setup, generations)], axis=1)
    return table.assign(kl=[sampler.kl[prompt, id(intervention)] for intervention, prompt in rows])


def known_scores(setup: Setup, generations: Sequence[Generation]) -> pd.DataFrame:
    """`metrics.score`, each different completion of a prompt read once; NaN for what needs a phrase or a base model."""
    keys = [(g.prompt, tuple(g.token_ids)) for g in generations]
    first = {key: g for key, g in reversed(list(zip(keys, generations, strict=True)))}
    place = {key: row for row, key in enumerate(first)}
    different = list(first.values())
    if setup.base_model is not setup.model:
        scores = score(setup, different)
    else:
        scores = pd.DataFrame([{} if g.failed else text_measures(g.prompt, g.completion) for g in different])
        scores["says_phrase"] = [setup.preset.phrase is not None and setup.preset.phrase in g.completion for g in different]
    if setup.preset.phrase is None:
        scores = scores.drop(columns=["says_phrase", "is_story", "is_fluent_story"], errors="ignore")
    scores = scores.reindex(columns=SCORES)
    return scores.iloc[[place[key] for key in keys]].reset_index(drop=True)


def first_prediction(setup: Setup, prompt: str) -> Float[Tensor, " vocab"]:
    """Log-probabilities of the untouched completion's first token."""
    [reading] = run(setup, [prompt], logits=True)
    return torch.from_numpy(reading.logits[-1]).to(setup.device).log_softmax(-1)


class FirstToken(Sampler):
    """Greedy decoding that notes how far each row's prediction of its first token is from the untouched one.

    Attributes:
        untouched: Log-probabilities of the first token without an intervention, by prompt.
        kl: KL(untouched || intervened) in nats, by prompt and `id` of the intervention.
    """

    def __init__(self, untouched: dict[str, Float[Tensor, " vocab"]]) -> None:
        super().__init__()
        self.untouched, self.kl = untouched, {}

    def next_tokens(self, logits: Float[Tensor, "row vocab"], requests: Sequence[Request], written: int) -> Int[Tensor, " row"]:
        if written == 0:
            for begin in range(0, len(requests), ROWS_AT_ONCE):
                part = requests[begin : begin + ROWS_AT_ONCE]
                log_p = torch.stack([self.untouched[request.prompt] for request in part])
                log_q = logits[begin : begin + ROWS_AT_ONCE].to(log_p.dtype).log_softmax(-1)
                keys = [(request.prompt, id(request.intervention)) for request in part]
                self.kl |= zip(keys, kl_divergence(log_p, log_q).tolist(), strict=True)
        return super().next_tokens(logits, requests, written)
