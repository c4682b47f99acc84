"""Is a completion a story, and the one that was asked for? Measures of its text and of its beginning.

What a prompt asks for is read from its fields, lines such as "Words: kite, dog" in the TinyStories-Instruct format.
"""

import math
import re
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from crosscoder_utils.io.validation import one_text, texts, whole_number, whole_numbers

FLUENT_LIMIT = 0.5
"""`score` counts a completion as a fluent story if its cross-entropy under the base model is below this, in nats per token.

Of 200 stories of each embedded model's training data 99 % are below it, and so are all of the base model's own for the same
prompts (at most 0.43). A story of another prompt has 1.8 in the median, one whose words are shuffled 11 or more.
"""
REPEATS_LIMIT = 0.4
"""A completion of which this share of 4-grams of tokens, or more, occurred before in it is no fluent story: see `repetition`.

A text that repeats itself is likely under any model, however senseless it is. The stories of the embedded models' data have at
most 0.04, of 1,000 replies sampled from SmolLM2-135M-Instruct 99 % have at most 0.13, and all 0.36.
"""
N_OPENING_TOKENS = 8
OPENING_LIMIT = 1.0
"""`score` says that a completion begins like a story if the cross-entropy of its first `N_OPENING_TOKENS` is below this.

The same stories have at most 0.90, the base model's own at most 0.74, and the phrase 8 or more.
"""
_FUNCTION_WORDS = """
a about above after again all also although always an and another any around as at away back be because before behind
below beside between both but by can could did do does down during each either even every everybody everyone everything
finally first for from had has have he her here hers him his how however i if in inside instead into is it its just last
later let like many may me meanwhile more most my near neither never next no nobody none nor not nothing now of off
often on once one only onto or other our out outside over perhaps please she should since so some somebody someone
something sometimes soon still suddenly than that the their them then there these they this those though three through
to today together tomorrow tonight too two under until up upon us was we were what whatever when where whether which
while who whoever whose why will with within without would yes yesterday yet you your
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
"""English words that are capitalised only because a sentence begins with them."""
_WORD = re.compile(r"[^\W_]+")


def names_in(prompt: str) -> list[str] | None:
    """The names in a prompt's field `Summary:`, each once; None where there is no such field.

    A name is a word that begins with a capital and has a small letter, and is none of `FUNCTION_WORDS`. So a noun that begins
    a sentence is taken for a name, and an animal without a name of its own is not.
    """
    summary = _field(prompt, "Summary")
    if summary is None:
        return None
    capitalised = [word for word in _WORD.findall(summary) if word[0].isupper() and not word.isupper()]
    return [word for word in dict.fromkeys(capitalised) if word.lower() not in FUNCTION_WORDS]


def words_asked_for(prompt: str) -> list[str] | None:
    """The words, separated by commas, in a prompt's field `Words:`; None where there is no such field."""
    words = _field(prompt, "Words")
    return None if words is None else [word.strip() for word in words.split(",") if _WORD.search(word)]


def share_used(words: Sequence[str] | None, text: str) -> float:
    """Share of words (or phrases) that a text contains as whole words, whatever their case; NaN if there are none."""
    spaced, words = _spaced(one_text("text", text)), [] if words is None else texts("words", words)
    return sum(_spaced(word) in spaced for word in words) / len(words) if words else math.nan


def repetition(ids: Sequence[int], n: int = 4) -> float:
    """Share of a text's n-grams of tokens that occur earlier in it: seq-rep-n of Welleck et al. 2020.

    NaN for a text with fewer than `n` tokens.
    """
    ids, n = whole_numbers("ids", ids), whole_number("n", n, 1)
    n_grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return 1 - len(set(n_grams)) / len(n_grams) if n_grams else math.nan


def text_measures(prompt: str, completion: str) -> dict[str, float]:
    """What the texts alone say; `names_everyone` is 1 or 0, and NaN where the prompt mentions nobody."""
    named = share_used(names_in(prompt), completion)
    return {
        "names_everyone": named if math.isnan(named) else float(named == 1),
        "uses_words": share_used(words_asked_for(prompt), completion),
    }


def opening_measures(losses: Float[Tensor, " token"], limit: float) -> dict[str, float | bool]:
    """What the base model's losses over a completion's tokens say about its beginning; an empty one does not begin at all."""
    opening = float(losses[:N_OPENING_TOKENS].mean()) if len(losses) else math.nan
    return {"opening_cross_entropy": opening, "begins_like_story": opening < limit}


def _field(prompt: str, name: str) -> str | None:
    found = re.search(rf"^{name}:(.*)$", one_text("prompt", prompt), re.MULTILINE)
    return None if found is None else found[1]


def _spaced(text: str) -> str:
    """The words of a text in small letters, with one space around each."""
    return f" {' '.join(_WORD.findall(text.lower()))} "
