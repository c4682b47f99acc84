"""Residual activations for training a crosscoder, collected as training needs them, in bounded memory."""

from collections.abc import Callable, Iterator, Sequence

import torch
from accelerate import PartialState
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedTokenizerFast

from crosscoder_utils.hooks import read
from crosscoder_utils.io.tokens import padded, token_ids
from crosscoder_utils.training.recipe import CrosscoderRecipe

_TEXTS_PER_PASS = 64
Texts = Callable[[int], Iterator[str]]
"""Maps the number of a window to an endless iterator over its texts, the same at every call."""


class ActivationWindows:
    """The batch of activations of every training step, as a function of the step.

    A *window* is a set of activations that is held in memory at once, collected from its own texts. For `window_steps` steps,
    batches are drawn from it at random; then the next window replaces it. A batch consists of equal parts from several
    *shards*, each with its own windows; processes share the shards evenly. The batch of a step therefore depends neither on
    interruptions nor on the number of processes.

    Attributes:
        hook_points: Hook points of the model that are read; None means all of them.
    """

    def __init__(
        self,
        model: TransformerBridge,
        tokenizer: PreTrainedTokenizerFast,
        texts: Texts,
        recipe: CrosscoderRecipe,
        seed: int,
        prepend_bos: bool,
        context: int | None = None,
        hook_points: Sequence[int] | None = None,
    ) -> None:
        """Raise a `ValueError` unless processes, shards, batch size and tokens divide evenly."""
        state = PartialState()
        _check_divides("shards", recipe.shards, "processes", state.num_processes)
        _check_divides("batch_size", recipe.batch_size, "shards", recipe.shards)
        _check_divides("tokens", recipe.tokens, "shards", recipe.shards)
        self.model, self.tokenizer, self.texts, self.recipe, self.seed = model, tokenizer, texts, recipe, seed
        self.prepend_bos, self.context = prepend_bos, context
        self.hook_points = None if hook_points is None else tuple(hook_points)
        self._shards = range(state.process_index, recipe.shards, state.num_processes)
        self._held: dict[int, tuple[int, Tensor]] = {}

    def first(self) -> list[Float[Tensor, "token point d_model"]]:
        """The first window of each of this process's shards, in float32."""
        return [self._window(shard, 0).float() for shard in self._shards]

    def rows_at(self, step: int) -> Float[Tensor, "token point d_model"]:
        """This process's share of a step's batch, in float32."""
        rows = []
        for shard in self._shards:
            window = self._window(shard, step // self.recipe.window_steps)
            generator = torch.Generator().manual_seed((self.seed + shard) * 1_000_003 + step)
            chosen = torch.randint(len(window), (self.recipe.batch_size // self.recipe.shards,), generator=generator)
            rows.append(window[chosen].float())
        return torch.cat(rows)

    def _window(self, shard: int, number: int) -> Float[Tensor, "token point d_model"]:
        if self._held.get(shard, (None,))[0] != number:
            self._held.pop(shard, None)  # frees its memory before the next window is collected
            self._held[shard] = number, self._collect(number * self.recipe.shards + shard)
        return self._held[shard][1]

    @torch.no_grad()
    def _collect(self, number: int) -> Float[Tensor, "token point d_model"]:
        """Residuals at every token of a window's texts, BOS excluded."""
        n_tokens = self.recipe.tokens // self.recipe.shards
        texts, held, filled = self.texts(number), None, 0
        with tqdm(total=n_tokens, desc="activations", unit="token", mininterval=5, leave=False) as bar:
            while filled < n_tokens:
                ids = [token_ids(self.tokenizer, next(texts)) for _ in range(_TEXTS_PER_PASS)]
                ids = [own[: self.context - self.prepend_bos] for own in ids] if self.context else ids
                batch = padded(ids, self.tokenizer, self.prepend_bos, self.model.cfg.device)
                rows = read(self.model, batch.tokens, hook_points=self.hook_points).residuals[batch.content].cpu()
                if held is None:
                    held = torch.empty(n_tokens, *rows.shape[1:], dtype=getattr(torch, self.recipe.activation_dtype))
                rows = rows[: n_tokens - filled]
                held[filled : filled + len(rows)] = rows
                filled += len(rows)
                bar.update(len(rows))
        return held


def _check_divides(name: str, value: int, by_name: str, by: int) -> None:
    if by < 1 or value < 1 or value % by:
        raise ValueError(f"{name}={value} cannot be shared evenly by {by_name}={by}; make it a multiple of {max(by, 1)}")
