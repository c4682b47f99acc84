"""Choosing the next token: greedy, or sampled with random numbers of the row's own."""

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crosscoder_utils.engine.batch import Request
from crosscoder_utils.io.validation import finite_number, whole_number


class Sampler:
    """Draws next tokens.

    The random numbers of a token depend on the seed, the row's prompt and how many tokens have been written, and on nothing
    else: a row gets the same text in any batch, and the same prompt under two interventions gets the same numbers.
    """

    def __init__(self, temperature: float = 0.0, top_k: int | None = None, seed: int = 0) -> None:
        self.temperature = finite_number("temperature", temperature, 0)
        if 0 < self.temperature < 1e-6:
            raise ValueError(f"temperature={temperature} must be 0 (greedy) or at least 1e-06")
        self.top_k = None if top_k is None else whole_number("top_k", top_k, 1)
        self.seed = whole_number("seed", seed)

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
