"""One prompt's completions without and with an intervention: computed, cached and shown as HTML. Contains no widgets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache

import numpy as np
import pandas as pd
import torch
from IPython.display import HTML
from jaxtyping import Float

from crosscoder_utils.analysis.argument_checks import checked_feature, checked_setup, checked_texts
from crosscoder_utils.analysis.encoded_texts import EncodedText, encode_texts
from crosscoder_utils.analysis.feature_cards import feature_card
from crosscoder_utils.analysis.metrics import score
from crosscoder_utils.analysis.screen import ACTIONS
from crosscoder_utils.display.feature_card_views import card_bars, card_html
from crosscoder_utils.display.html import escaped, texts_table, token_strip
from crosscoder_utils.display.python_call import python_call
from crosscoder_utils.forward import run
from crosscoder_utils.generation import Generation, generate
from crosscoder_utils.interventions import Intervention
from crosscoder_utils.io.tokens import token_ids, token_texts
from crosscoder_utils.io.validation import Texts, chosen, instance, one_text, whole_number
from crosscoder_utils.loading import Setup
from crosscoder_utils.methods import METHODS, Method
from crosscoder_utils.prompts import from_position, split_at_marker

N_NEXT = 4
"""Number of likeliest next tokens that are shown of each run."""


def aims(kind: str) -> bool:
    """Whether interventions of a kind, a key of `ACTIONS`, have a value to reach; `Steer` has none."""
    return ACTIONS[chosen("kind", kind, ACTIONS)].loss is not Intervention.loss


def methods_of(kind: str, methods: Mapping[str, type[Method]] = METHODS) -> list[str]:
    """Names of the methods that `kind` can use: one without a value to reach takes those that steer."""
    return [name for name, method in methods.items() if aims(kind) or method.steers]


def make_intervention(
    kind: str, method: str, parameters: Mapping[str, object], methods: Mapping[str, type[Method]] = METHODS, **values: object
) -> Intervention:
    """An intervention from names and values.

    Args:
        kind: A key of `ACTIONS`.
        method: A key of `methods`.
        parameters: Parameters of the method by name; the others keep their defaults.
        methods: Methods by name.
        values: `feature`, `tokens` and `value`; a value that the kind does not have is ignored.

    Raises:
        ValueError: If a value is out of range, or the kind cannot use the method.
    """
    kind, method = ACTIONS[chosen("kind", kind, ACTIONS)], methods[chosen("method", method, methods)]
    taken = {field.name: values[field.name] for field in fields(kind) if field.name in values}
    return kind(method=method(**parameters), **taken)


@dataclass(frozen=True, eq=False)
class Completion:
    """A completion, its score, and what else the model says under the same intervention.

    Attributes:
        generation: The completion, with its records if there was an intervention.
        score: Its row of `metrics.score`.
        next_token: Probabilities of the token after the prompt.
        side_effect: Mean KL(untouched || intervened) on the comparer's ordinary texts, in nats per token; a reason in words
            where it cannot be measured, and None without an intervention or such texts.
    """

    generation: Generation
    score: Mapping[str, float]
    next_token: Float[np.ndarray, " vocab"]
    side_effect: float | str | None


@dataclass(frozen=True, eq=False)
class Comparison:
    """One prompt, completed without and with an intervention; notebooks show it as HTML.

    Attributes:
        untouched: The completion without an intervention.
        intervened: The completion under the intervention.
        tokens: Tokens of the prompt and of the intervened completion; the recorded activations are those of these tokens.
        phrase: The preset's phrase.
        next_tokens: `token` and its probability after the prompt, `untouched` and `intervened`: the likeliest of both runs.
        python: The call to `generate` that makes the intervened completion.
    """

    untouched: Completion
    intervened: Completion
    tokens: Sequence[str]
    phrase: str | None
    next_tokens: pd.DataFrame
    python: str

    def _repr_html_(self) -> str:
        activations = self._activations()
        means = [
            f"mean activation {before.mean():.2f} in the clean run, {after.mean():.2f} in the intervened run"
            for before, after in activations.values()
        ]
        if len(means) > 1:
            means = [f"feature {feature}: {mean}" for feature, mean in zip(activations, means, strict=True)]
        panels = self._panel("Untouched", self.untouched)
        panels += self._panel("Intervened", self.intervened, *means, *self._costs()) + self._next_panel()
        strips = "".join(self._strips(feature, *pair) for feature, pair in activations.items())
        return f'<div class="playground">{_STYLE}<div class="panels">{panels}</div>{self._call()}{strips}</div>'

    def _costs(self) -> list[str]:
        """How large the edit was, where it missed its value, and what it does to ordinary texts."""
        generation, side_effect = self.intervened.generation, self.intervened.side_effect
        costs = [f"relative edit norm {generation.summary()['relative_edit_norm']:.2f}"]
        if generation.missed is not None and generation.missed.any():
            costs.append(f"its value was not reached at {generation.missed.sum()} of {len(generation.missed)} tokens")
        if side_effect is not None:
            nats = side_effect if isinstance(side_effect, str) else f"KL {side_effect:.3g} nats per token on ordinary texts"
            costs.append(f"side effect: {nats}")
        return costs

    def _next_panel(self) -> str:
        table = self.next_tokens.assign(token=self.next_tokens["token"].map(repr))  # quoted, so that spaces are visible
        for name in ("untouched", "intervened"):
            table[name] = table[name].map("{:.1%}".format, na_action="ignore")  # NaN where the run failed
        return f'<div class="next"><strong>Next token after the prompt</strong>{texts_table(table).data}</div>'

    def _call(self) -> str:
        """The call in a field of which a click or the tab key selects everything, to be copied."""
        return (
            "<label><strong>In Python</strong> (after <code>from crosscoder_utils import *</code> and "
            "<code>setup = load(...)</code>; a click selects it, to be copied)"
            f'<textarea class="call" readonly rows="3" spellcheck="false" onfocus="this.select()">{escaped(self.python)}'
            "</textarea></label>"
        )

    def _activations(self) -> dict[int, tuple[Float[np.ndarray, " token"], Float[np.ndarray, " token"]]]:
        """Each feature's activations in the clean run and in the intervened run."""
        generation = self.intervened.generation
        features = generation.intervention.features
        records = (generation.activation_before, generation.activation_after)
        by_feature = (record.reshape(-1, len(features)).T for record in records)
        return dict(zip(features, zip(*by_feature, strict=True), strict=True))

    def _strips(self, feature: int, before: Float[np.ndarray, " token"], after: Float[np.ndarray, " token"]) -> str:
        top = float(np.nanmax([before, after, np.zeros_like(after)]))  # so that equal shades mean equal activations
        strips = [("clean run", before), ("intervened run", after)]
        shown = "".join(token_strip(self.tokens, values.tolist(), title, top).data for title, values in strips)
        return f"<p><strong>Activation of feature {feature} on the intervened text</strong></p>{shown}"

    def _panel(self, title: str, completion: Completion, *figures: str) -> str:
        text, scores = completion.generation.completion, completion.score
        if self.phrase is not None:
            figures = (f"{'says' if scores['says_phrase'] else 'does not say'} {self.phrase}", *figures)
        nats = f"cross-entropy {scores['cross_entropy']:.2f}"
        if text:  # an empty completion has no cross-entropy of its own
            nats += f" (completion {scores['completion_cross_entropy']:.2f})"
        if completion.generation.failed:
            figures, nats = (), "failed: activations or logits were not finite; use a smaller scale, value or learning rate"
            text = text or "failed"
        else:
            nats += " under the base model"
        items = "".join(f"<li>{escaped(figure)}</li>" for figure in (*figures, nats))
        shown = escaped(text) or "<em>empty completion</em>"
        return f'<div><strong>{title}</strong><div class="tokens">{shown}</div><ul>{items}</ul></div>'


class Comparer:
    """Completes prompts greedily with and without an intervention, and makes feature cards. Results are cached.

    Args:
        setup: From `load`.
        texts: Texts that the feature cards are computed on; they are encoded when the first card is made.
        kept: Size of the cache: this many completions, side effects and cards, those used last.
        ordinary: Whole texts without the tag, on which side effects are measured as `side_effects` does; they are read once
            for each intervention, whatever the prompt, so some five will do.
    """

    def __init__(self, setup: Setup, texts: Texts = (), kept: int = 256, ordinary: Texts = ()) -> None:
        texts, ordinary = (
            () if isinstance(given, (list, tuple)) and not given else checked_texts(setup, given) for given in (texts, ordinary)
        )
        self.setup, self.texts, self.ordinary = checked_setup(setup), texts, ordinary
        kept = whole_number("kept", kept)
        self.complete, self._kept_side_effect = lru_cache(kept)(self._complete), lru_cache(kept)(self._side_effect)
        self._kept_card = lru_cache(kept)(self._card)

    def compare(self, prompt: str, intervention: Intervention, max_new_tokens: int) -> Comparison:
        """Complete one prompt without and with the intervention.

        Raises:
            ValueError: If the prompt is empty, too long, or lacks the preset's story marker, or an argument is out of range.
            IndexError: If a feature or hook point does not exist.
        """
        prompt, max_new_tokens = one_text("prompt", prompt), whole_number("max_new_tokens", max_new_tokens, 1)
        instance("intervention", intervention, Intervention, "give one such as Ablate(feature, method)")
        if prompt:  # `generate` has its own message for an empty prompt
            split_at_marker(prompt, self.setup.preset.story_marker)
        complete = self.complete if _is_hashable(intervention) else self._complete
        untouched, intervened = self.complete(prompt, None, max_new_tokens), complete(prompt, intervention, max_new_tokens)
        tokenizer, ids = self.setup.tokenizer, token_ids(self.setup.tokenizer, prompt)
        # Read after the prompt, because some tokenizers leave out a blank at the beginning of a text.
        written = token_texts(tokenizer, ids + intervened.generation.token_ids)[len(ids) :]
        return Comparison(
            untouched,
            intervened,
            token_texts(tokenizer, prompt) + written,
            self.setup.preset.phrase,
            self._next_tokens(untouched.next_token, intervened.next_token),
            python_call(prompt, intervention, max_new_tokens),
        )

    def _complete(self, prompt: str, intervention: Intervention | None, max_new_tokens: int) -> Completion:
        generations = generate(self.setup, prompt, intervention, max_new_tokens)
        scores = score(self.setup, generations).iloc[0].to_dict()
        side_effect = self._kept_side_effect if _is_hashable(intervention) else self._side_effect
        return Completion(generations[0], scores, self._next_token(prompt, intervention), side_effect(intervention))

    def _next_token(self, prompt: str, intervention: Intervention | None) -> Float[np.ndarray, " vocab"]:
        """Probabilities of the first generated token."""
        if intervention is not None:
            # `run` would take what follows the story marker for generated, `generate` takes all of it for the prompt.
            start, _ = intervention.scope.bounds(prompt, self.setup.tokenizer)
            intervention = replace(intervention, tokens=from_position(start))
        [reading] = run(self.setup, prompt, intervention, logits=True)
        return torch.tensor(reading.logits[-1]).float().softmax(0).numpy()

    def _next_tokens(self, *runs: Float[np.ndarray, " vocab"]) -> pd.DataFrame:
        """The likeliest tokens of both runs, the untouched run's first."""
        finite = [run for run in runs if np.isfinite(run).all()]
        likeliest = dict.fromkeys(int(i) for run in finite for i in np.argsort(-run, kind="stable")[:N_NEXT])
        untouched, intervened = runs
        columns = {"token": [self.setup.tokenizer.decode([i]) for i in likeliest]}
        return pd.DataFrame(columns | {"untouched": untouched[[*likeliest]], "intervened": intervened[[*likeliest]]})

    def _side_effect(self, intervention: Intervention | None) -> float | str | None:
        if intervention is None or not self.ordinary:
            return None
        try:
            return float(run(self.setup, self.ordinary, intervention).to_frame()["mean_kl"].mean(skipna=False))
        except ValueError as error:  # the scope's marker is in the prompt, but not in the ordinary texts
            return str(error)

    def card(self, feature: int) -> HTML:
        """The card of a feature.

        Raises:
            ValueError: If there are no texts to compute it on.
            IndexError: If the crosscoder has no such feature.
        """
        return self._kept_card(checked_feature(feature, self.setup.crosscoder.n_features))

    def _card(self, feature: int) -> HTML:
        card = feature_card(self.setup, self._encoded_texts, feature)
        return HTML(f'<div class="playground">{_STYLE}{card_bars(card).data}{card_html(card).data}</div>')

    @cached_property
    def _encoded_texts(self) -> list[EncodedText]:
        return encode_texts(self.setup, self.texts)


def _is_hashable(intervention: Intervention | None) -> bool:
    """Whether results can be kept by it; not, if a user's own method holds a list."""
    try:
        return hash(intervention) is not None
    except TypeError:
        return False


# Notebooks and Voila lack the book's style sheet. Text and background colours are left to the host, light or dark.
_STYLE = """<style>
.playground { line-height: 1.5; overflow-wrap: anywhere; }
.playground .panels { display: flex; flex-wrap: wrap; gap: 0 1.5em; }
.playground .panels > div { flex: 1 1 18em; min-width: 0; }
.playground .tokens { border: 1px solid rgba(128, 128, 128, 0.4); border-radius: 4px; padding: 0.5em 0.75em;
  margin: 0.25em 0 0.5em; font-family: ui-monospace, monospace; font-size: 0.9em; white-space: pre-wrap; }
.playground .panels > .next { flex: 0 1 auto; }
.playground .next table { white-space: nowrap; }
.playground .next td:not(:first-child), .playground .next th:not(:first-child) { text-align: right; }
.playground .call { display: block; box-sizing: border-box; width: 100%; margin: 0.25em 0 1em; padding: 0.5em 0.75em;
  border: 1px solid rgba(128, 128, 128, 0.4); border-radius: 4px; background: transparent; color: inherit;
  font-family: ui-monospace, monospace; font-size: 0.9em; resize: vertical; }
.playground ul { margin: 0 0 1em; padding-left: 1.2em; }
.playground .texts-wrapper { overflow-x: auto; }
.playground table.texts td, .playground table.texts th { text-align: left; vertical-align: top; padding: 0.1em 0.6em 0.1em 0; }
</style>"""
