"""Choosing the next token: greedy, or sampled with random numbers that belong to the row."""

import hashlib
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Sampler:
    """Draws next tokens for a batch of rows.

    Each row has its own generator, seeded by `seed` and its prompt: the same row gets the same text whatever batch it is
    in, and the same prompt under two interventions meets the same random numbers.
    """

    def __init__(self, prompt_ids: Sequence[Sequence[int]], temperature: float, top_k: int | None, seed: int) -> None:
        if not (math.isfinite(temperature) and temperature >= 0):
            raise ValueError(f"temperature={temperature} must be a finite number, 0 (greedy) or more")
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k={top_k} must be 1 or more, or None for all tokens")
        self.temperature, self.top_k = temperature, top_k
        self.generators = [_generator(seed, ids) for ids in prompt_ids]

    def next_tokens(self, logits: Float[Tensor, "row vocab"]) -> Int[Tensor, " row"]:
        """One token per row."""
        if self.temperature == 0:
            return logits.argmax(-1)
        logits = logits.float() / self.temperature
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            least = logits.topk(self.top_k).values[:, -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        # The largest of logit + Gumbel noise is a sample from the softmax.
        uniform = torch.stack([torch.rand(logits.shape[-1], generator=g) for g in self.generators])
        gumbel = -(-uniform.clamp(min=1e-20).log()).log()
        return (logits + gumbel.to(logits.device)).argmax(-1)


def _generator(seed: int, prompt_ids: Sequence[int]) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}/{list(prompt_ids)}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7]))
