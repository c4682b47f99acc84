"""Choosing the next token: greedy, or sampled with random numbers of the row's own."""

import hashlib
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crosscoder_utils.engine.batch import Request


class Sampler:
    """Draws next tokens.

    The random numbers of a token depend on the seed, the row's prompt and how many tokens have been written, and on nothing
    else: a row gets the same text in any batch, and the same prompt under two interventions gets the same numbers.
    """

    def __init__(self, temperature: float = 0.0, top_k: int | None = None, seed: int = 0) -> None:
        if not (math.isfinite(temperature) and temperature >= 0):
            raise ValueError(f"temperature={temperature} must be a finite number, 0 (greedy) or more")
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k={top_k} must be 1 or more, or None for all tokens")
        self.temperature, self.top_k, self.seed = temperature, top_k, seed

    def next_tokens(self, logits: Float[Tensor, "row vocab"], requests: Sequence[Request], written: int) -> Int[Tensor, " row"]:
        """The next token of each row, where `written` tokens of its completion are there already."""
        if self.temperature == 0:
            return logits.argmax(-1)
        logits = logits.float() / self.temperature
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            least = logits.topk(self.top_k).values[..., -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        # The largest of logit + Gumbel noise is a sample from the softmax.
        uniform = torch.stack([torch.rand(logits.shape[-1], generator=self._generator(r.prompt, written)) for r in requests])
        gumbel = -(-uniform.clamp(min=1e-20).log()).log()
        return (logits + gumbel.to(logits.device)).argmax(-1)

    def _generator(self, prompt: str, written: int) -> torch.Generator:
        digest = hashlib.sha256(f"{self.seed}/{written}/{prompt}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7]))
