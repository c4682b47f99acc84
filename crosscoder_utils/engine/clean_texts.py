"""The clean stream of many rows, read once for all rows that say the same.

What the clean stream makes of a text does not depend on the intervention, and in a sweep many settings write the same text
for the same prompt, at least for a while.
"""

import torch
from jaxtyping import Int
from torch import Tensor

from crosscoder_utils.engine.plain import PlainModel
from crosscoder_utils.hooks import Stream


class CleanTexts:
    """A clean stream whose slots belong to texts, not to rows.

    Attributes:
        stream: The stream.
        slot: Which of its slots holds the text that a row has said so far.
    """

    def __init__(self, model: PlainModel, prompts: Stream, prompt_of: Int[Tensor, " row"], shape: tuple[int, int]) -> None:
        """Begin with the texts that `prompts` has read; `prompt_of` says which of them is a row's."""
        self.stream, self.slot = Stream(model, *shape, prompts.hook_points), prompt_of.clone()
        n_prompts, n_columns = prompts.cache.shape
        every = torch.arange(n_prompts, device=prompt_of.device)
        self.stream.cache.copy_from(prompts.cache, slice(0, n_prompts), every, n_columns)

    def part_ways(
        self, rows: Int[Tensor, " row"], tokens: Int[Tensor, "row pos"], columns: Int[Tensor, "row pos"]
    ) -> tuple[Int[Tensor, " text"], Int[Tensor, " row"]]:
        """Give rows that are about to say different tokens, or to say them elsewhere, slots of their own.

        `rows` are all that are still written; the slots of others are free.

        Returns:
            One of `rows` for each different text, and for each of `rows` the number of its text.
        """
        says = torch.cat([self.slot[rows, None], columns, tokens], dim=1)
        texts, text_of = torch.unique(says, dim=0, return_inverse=True)
        one_of = torch.zeros(len(texts), dtype=torch.long, device=rows.device)
        one_of[text_of] = torch.arange(len(rows), device=rows.device)
        old = texts[:, 0]
        # Sorted by slot: the first text of each keeps it, the others move out.
        moves = torch.cat([torch.zeros_like(old[:1], dtype=torch.bool), old[1:] == old[:-1]])
        taken = torch.zeros(self.stream.cache.shape[0], dtype=torch.bool, device=rows.device)
        taken[old] = True
        new = old.clone()
        new[moves] = torch.nonzero(~taken)[: int(moves.sum()), 0]
        self.stream.cache.move(old[moves], new[moves])
        self.slot[rows] = new[text_of]
        return rows[one_of], text_of
