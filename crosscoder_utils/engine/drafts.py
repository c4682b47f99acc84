"""Guessing how a text goes on, so that several tokens can be read at once where the guess is right.

A guess costs time if it is wrong and never changes a text: the model reads it and says what it would have written. Texts
repeat themselves, and the same prompt under another setting often becomes the same text, so a guess is what followed the
last time the latest tokens were seen (prompt lookup decoding).
"""

from collections import defaultdict
from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

MOST_DRAFTED = 7
"""Tokens guessed at once."""
WORTHWHILE = 4
"""Tokens that a row has to get from a pass with guesses, on average: all rows pay for the longest."""
_MATCHED = 3
_NOTHING = -1


class Library:
    """Some different completions of each prompt, as far as they have been written."""

    def __init__(self, most: int = 4) -> None:
        self.most = most
        self.texts: dict[str, dict[tuple[int, ...], None]] = defaultdict(dict)

    def add(self, prompt: str, ids: Sequence[int]) -> None:
        if len(self.texts[prompt]) < self.most:
            self.texts[prompt][tuple(ids)] = None

    def table(self, prompts: Sequence[str], device: torch.device) -> Int[Tensor, "row pos"]:
        """What is known of each row's prompt, one text after the other, nothing between and before them."""
        joined = [[i for text in self.texts.get(p, ()) for i in (*text, *[_NOTHING] * _MATCHED)] for p in prompts]
        width = max(map(len, joined))
        return torch.tensor([[_NOTHING] * (width - len(j)) + j for j in joined], dtype=torch.long, device=device).reshape(
            len(joined), width
        )


class Drafter:
    """Puts guesses into rows' tokens, as long as enough of them turn out right.

    Attributes:
        library: Known texts of each row's prompt.
        guessed_right: How many tokens in a row, of those that a row has guessed, were right lately.
    """

    def __init__(self, library: Int[Tensor, "row known"]) -> None:
        self.library = library
        self.guessed_right = float(MOST_DRAFTED)

    def draft(
        self,
        rows: Int[Tensor, " row"],
        tokens: Int[Tensor, "every pos"],
        length: Int[Tensor, " row"],
        room: Int[Tensor, " row"],
    ) -> Int[Tensor, " row"]:
        """Write at most `room` guesses behind the `length` known tokens of each of `rows`; returns how many."""
        drafts = guess(self.library[rows], tokens[rows], length)
        n_drafted = torch.minimum((drafts >= 0).sum(1), room.clamp(min=0))
        if 1 + float((n_drafted > 0).float().mean()) * self.guessed_right < WORTHWHILE:
            self.guessed_right += 0.05 * (MOST_DRAFTED - self.guessed_right)  # in time, try again
            return torch.zeros_like(n_drafted)
        for offset in range(drafts.shape[1]):
            own = n_drafted > offset
            tokens[rows[own], length[own] + offset] = drafts[own, offset]
        return n_drafted

    def learn(self, n_drafted: Int[Tensor, " row"], n_right: Int[Tensor, " row"]) -> None:
        """Take note of how many of the guesses were right."""
        if n_drafted.any():
            self.guessed_right += 0.5 * (float(n_right[n_drafted > 0].float().mean()) - self.guessed_right)


def guess(
    library: Int[Tensor, "row known"], tokens: Int[Tensor, "row pos"], length: Int[Tensor, " row"]
) -> Int[Tensor, "row draft"]:
    """How rows of `length` known tokens may go on; -1 from where there is no guess.

    Where the latest tokens were last seen close to the end, the text is taken to go round in circles from there on.
    """
    texts = torch.cat([library, tokens], dim=1)
    end = library.shape[1] + length[:, None]  # just after the latest token
    places = torch.arange(texts.shape[1], device=texts.device)
    matches = (places >= _MATCHED - 1) & (places < end - 1)
    for back in range(_MATCHED):
        latest = texts.gather(1, (end - 1 - back).clamp(min=0))
        shifted = torch.roll(texts, back, dims=1)
        matches = matches & (shifted == latest)
    found = torch.where(matches, places, -1).amax(1, keepdim=True)
    steps = torch.arange(MOST_DRAFTED, device=texts.device)
    drafts = texts.gather(1, torch.where(found >= 0, found + 1 + steps % (end - 1 - found).clamp(min=1), 0))
    nothing = (found < 0) | (drafts == _NOTHING)
    return drafts.masked_fill(nothing.cumsum(1) > 0, _NOTHING)
