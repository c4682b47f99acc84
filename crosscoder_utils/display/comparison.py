"""A prompt's completion before and after an intervention, computed once and shown as HTML; no widgets in here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache

import numpy as np
from IPython.display import HTML
from jaxtyping import Float

from crosscoder_utils.analysis.discovery import EncodedText, encode_texts
from crosscoder_utils.analysis.feature_cards import feature_card
from crosscoder_utils.analysis.metrics import score
from crosscoder_utils.display.feature_card_views import card_bars, card_html
from crosscoder_utils.display.html import escaped, token_strip
from crosscoder_utils.generation import Generation, generate
from crosscoder_utils.interventions import METHODS, Ablate, Clamp, Intervention, Steer
from crosscoder_utils.loading import Setup
from crosscoder_utils.prompts import split_at_marker

KINDS: dict[str, type[Intervention]] = {kind.kind: kind for kind in (Ablate, Steer, Clamp)}


def methods_of(kind: str) -> list[str]:
    """Names of the methods that can do `kind`: without a loss to descend, only those that add along directions."""
    has_loss = KINDS[kind].loss is not Intervention.loss
    return [name for name, method in METHODS.items() if has_loss or hasattr(method, "directions")]


def make_intervention(kind: str, method: str, parameters: Mapping[str, object], **values: object) -> Intervention:
    """An intervention from names and values.

    Args:
        kind: A key of `KINDS`.
        method: A key of `METHODS`.
        parameters: Of the method, by name; those left out keep their defaults.
        values: `feature`, `tokens` and `value`, of which each kind takes those that it has.

    Raises:
        ValueError: If a value is out of range, or the kind cannot be done by the method.
    """
    taken = {field.name: values[field.name] for field in fields(KINDS[kind]) if field.name in values}
    return KINDS[kind](method=METHODS[method](**parameters), **taken)


@dataclass(frozen=True, eq=False)
class Completion:
    """What a prompt was completed with, and how good it is.

    Attributes:
        generation: With its records, unless nothing was done to the row.
        score: The row's line of `evaluation.score`.
    """

    generation: Generation
    score: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Comparison:
    """One prompt, completed untouched and edited; a notebook shows it as HTML.

    Attributes:
        untouched: By the model as it is.
        edited: By the model under the intervention.
        tokens: Those of the prompt and of the edited completion, on which its activations are.
        phrase: Of the preset.
    """

    untouched: Completion
    edited: Completion
    tokens: Sequence[str]
    phrase: str | None

    def _repr_html_(self) -> str:
        activations = self._activations()
        means = [
            f"mean activation {before.mean():.2f} before, {after.mean():.2f} after" for before, after in activations.values()
        ]
        if len(means) > 1:
            means = [f"feature {feature}: {mean}" for feature, mean in zip(activations, means, strict=True)]
        panels = self._panel("Untouched", self.untouched) + self._panel("Edited", self.edited, *means)
        strips = "".join(self._strips(feature, *pair) for feature, pair in activations.items())
        return f'<div class="playground">{_STYLE}<div class="panels">{panels}</div>{strips}</div>'

    def _activations(self) -> dict[int, tuple[Float[np.ndarray, " token"], Float[np.ndarray, " token"]]]:
        """Each feature's, before and after."""
        generation = self.edited.generation
        features = generation.intervention.features
        records = (generation.activation_before, generation.activation_after)
        by_feature = (record.reshape(-1, len(features)).T for record in records)
        return dict(zip(features, zip(*by_feature, strict=True), strict=True))

    def _strips(self, feature: int, before: Float[np.ndarray, " token"], after: Float[np.ndarray, " token"]) -> str:
        top = float(max(before.max(), after.max()))  # one shade means one activation in both strips
        strips = [("before, in the clean stream", before), ("after, in the edited stream", after)]
        shown = "".join(token_strip(self.tokens, values.tolist(), title, top).data for title, values in strips)
        return f"<p><strong>Activation of feature {feature} on the edited text</strong></p>{shown}"

    def _panel(self, title: str, completion: Completion, *figures: str) -> str:
        text, scores = completion.generation.completion, completion.score
        if self.phrase is not None:
            figures = (f"{'says' if scores['says_phrase'] else 'does not say'} {self.phrase}", *figures)
        nats = f"cross-entropy {scores['cross_entropy']:.2f}"
        if text:  # an empty completion has none of its own
            nats += f" (completion {scores['completion_cross_entropy']:.2f})"
        items = "".join(f"<li>{escaped(figure)}</li>" for figure in (*figures, f"{nats} under the base model"))
        shown = escaped(text) or "<em>nothing: the text ends at once</em>"
        return f'<div><strong>{title}</strong><div class="tokens">{shown}</div><ul>{items}</ul></div>'


class Comparer:
    """Completes prompts with and without an intervention, greedily, and makes feature cards; keeps what it has computed.

    Args:
        setup: From `load`.
        texts: What feature cards look at; encoded when the first card is asked for.
        kept: How many completions are kept, and how many cards: those last asked for.
    """

    def __init__(self, setup: Setup, texts: Sequence[str] = (), kept: int = 256) -> None:
        self.setup, self.texts = setup, texts
        self.complete = lru_cache(kept)(self._complete)
        self.card = lru_cache(kept)(self._card)

    def compare(self, prompt: str, intervention: Intervention, max_new_tokens: int) -> Comparison:
        """Complete one prompt both ways.

        Raises:
            ValueError: If the prompt is empty, too long, or lacks the preset's story marker, or an argument is out of range.
            IndexError: If a feature or hook point does not exist.
        """
        if prompt:  # `generate` says what is wrong with an empty one
            split_at_marker(prompt, self.setup.preset.story_marker)
        untouched, edited = (self.complete(prompt, one, max_new_tokens) for one in (None, intervention))
        tokenizer = self.setup.tokenizer
        ids = tokenizer(prompt, add_special_tokens=False).input_ids + edited.generation.token_ids
        return Comparison(untouched, edited, [tokenizer.decode([i]) for i in ids], self.setup.preset.phrase)

    def _complete(self, prompt: str, intervention: Intervention | None, max_new_tokens: int) -> Completion:
        generations = generate(self.setup, prompt, intervention, max_new_tokens)
        return Completion(generations[0], score(self.setup, generations).iloc[0].to_dict())

    def _card(self, feature: int) -> HTML:
        card = feature_card(self.setup, self._encoded_texts, feature)
        return HTML(f'<div class="playground">{_STYLE}{card_bars(card).data}{card_html(card).data}</div>')

    @cached_property
    def _encoded_texts(self) -> list[EncodedText]:
        return encode_texts(self.setup, self.texts)


# Notebooks and Voila do not have the book's style sheet. Colours of text and ground are the host's, light or dark.
_STYLE = """<style>
.playground { line-height: 1.5; overflow-wrap: anywhere; }
.playground .panels { display: flex; flex-wrap: wrap; gap: 0 1.5em; }
.playground .panels > div { flex: 1 1 18em; min-width: 0; }
.playground .tokens { border: 1px solid rgba(128, 128, 128, 0.4); border-radius: 4px; padding: 0.5em 0.75em;
  margin: 0.25em 0 0.5em; font-family: ui-monospace, monospace; font-size: 0.9em; white-space: pre-wrap; }
.playground ul { margin: 0 0 1em; padding-left: 1.2em; }
.playground .texts-wrapper { overflow-x: auto; }
.playground table.texts td, .playground table.texts th { text-align: left; vertical-align: top; padding: 0.1em 0.6em 0.1em 0; }
</style>"""
