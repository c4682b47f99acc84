"""Rows do not depend on each other, on padding, on batching or on order; nothing is left behind."""

import numpy as np
import pytest
import torch

from crosscoder_utils import Ablate, Clamp, ManyLayers, Perturbation, SingleLayer, Steer, from_position, generate
from crosscoder_utils.hooks import Stream, residual_hooks
from crosscoder_utils.prompts import left_padded

PROMPTS = [
    "Words: red, kite\nStory:",
    "Summary: Tom and Mia share a drum.\nWords: old, park, ran\nFeatures: Dialogue\nStory:",
    "Features: Dialogue\nStory:",
]
MIXTURE = [
    None,
    Ablate(3, SingleLayer(point=1, scale=2.0)),
    Ablate(3, SingleLayer(point=0, scale=1.0), tokens="prompt"),
    Ablate([3, 7], ManyLayers(scale=0.5)),
    Steer(5, ManyLayers(scale=[0.1, 0.5, 1.0]), tokens=from_position(-1)),
    Clamp(4, 2.0, ManyLayers(scale=0.3)),
    Ablate(3, Perturbation(lr=0.05, steps=4)),
    Ablate([3, 7], Perturbation(lr=0.02, steps=7)),
    Clamp(4, 2.0, Perturbation(lr=0.01, steps=3), tokens="generated"),
]
ROWS = [(prompt, intervention) for intervention in MIXTURE for prompt in PROMPTS]


def run(setup, rows, **kwargs):
    return generate(setup, [p for p, _ in rows], [i for _, i in rows], max_new_tokens=6, **kwargs)


def assert_same(a, b):
    assert (a.prompt, a.completion, a.token_ids) == (b.prompt, b.completion, b.token_ids)
    assert (a.activation_before is None) == (b.activation_before is None)
    if a.activation_before is not None:
        for name in ("activation_before", "activation_after", "others_change", "edit_norm", "residual_norm"):
            np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=1e-4, rtol=1e-3)


@pytest.fixture(scope="module")
def one_by_one(random):
    return [run(random, [row])[0] for row in ROWS]


def test_a_mixed_batch_equals_its_rows_one_by_one(random, one_by_one):
    for mixed, alone in zip(run(random, ROWS), one_by_one, strict=True):
        assert_same(mixed, alone)
    assert len({g.completion for g in one_by_one}) > len(PROMPTS)  # the interventions do something


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_batch_size_and_order_do_not_matter(random, one_by_one, batch_size):
    order = torch.randperm(len(ROWS), generator=torch.Generator().manual_seed(batch_size)).tolist()
    shuffled = run(random, [ROWS[i] for i in order], batch_size=batch_size)
    for i, generation in zip(order, shuffled, strict=True):
        assert_same(generation, one_by_one[i])


@pytest.mark.parametrize(
    "intervention",
    [
        Ablate(3, SingleLayer(point=1, scale=0.0)),
        Ablate(3, ManyLayers(scale=0.0)),
        Ablate(3, Perturbation(lr=0.1, steps=0)),
        Ablate(3, Perturbation(lr=0.0, steps=4)),
        Ablate(3, ManyLayers(scale=2.0), tokens=from_position(10_000)),
    ],
    ids=str,
)
def test_an_intervention_that_does_nothing_leaves_the_row_untouched(random, intervention):
    untouched, idle = generate(random, PROMPTS, None), generate(random, PROMPTS, intervention)
    for a, b in zip(untouched, idle, strict=True):
        assert a.token_ids == b.token_ids
        np.testing.assert_array_equal(b.activation_before, b.activation_after)
        assert not b.edit_norm.any()


def test_at_scale_1_a_hook_point_moves_by_the_decoder_term(random):
    [out] = generate(random, PROMPTS[:1], Ablate(3, SingleLayer(point=1, scale=1.0)), max_new_tokens=1)
    norm = random.crosscoder.W_dec[3, 1].norm().item()
    np.testing.assert_allclose(out.edit_norm[:, 1], out.activation_before * norm, rtol=1e-4, atol=1e-5)
    assert not out.edit_norm[:, [0, 2]].any()


def test_many_layers_with_one_scale_that_is_not_0_is_single_layer(random):
    one = generate(random, PROMPTS, Ablate(3, SingleLayer(point=1, scale=2.0)))
    many = generate(random, PROMPTS, Ablate(3, ManyLayers(scale=[0.0, 2.0, 0.0])))
    for a, b in zip(one, many, strict=True):
        assert_same(a, b)


def test_a_feature_that_never_fires_is_not_ablated(random):
    threshold = random.crosscoder.threshold.clone()
    threshold[3] = 1e9
    silent = type(random)(
        random.preset,
        random.model,
        random.base_model,
        type(random.crosscoder)(
            random.crosscoder.W_enc,
            random.crosscoder.b_enc,
            threshold,
            random.crosscoder.W_dec,
            random.crosscoder.b_dec,
        ),
        random.tokenizer,
    )
    untouched = generate(silent, PROMPTS, None)
    for method in (SingleLayer(point=1, scale=5.0), ManyLayers(scale=5.0), Perturbation(lr=0.5)):
        for a, b in zip(untouched, generate(silent, PROMPTS, Ablate(3, method)), strict=True):
            assert a.token_ids == b.token_ids
            assert not b.edit_norm.any()


def test_ablation_changes_the_logits(random):
    batch = left_padded([random.tokenizer(PROMPTS[0]).input_ids], random.tokenizer, False, "cpu")
    clean = Stream(random.model).read(batch.tokens, batch.mask)
    activation = random.crosscoder.encode(clean.residuals, [3])
    deltas = -activation[..., None] * random.crosscoder.W_dec[3]
    edited = Stream(random.model).read(batch.tokens, batch.mask, deltas)
    assert activation.max() > 0
    assert (edited.logits - clean.logits).abs().max() > 1e-3


def test_peeking_leaves_a_stream_where_it_was(random):
    batch = left_padded([random.tokenizer(PROMPTS[0]).input_ids], random.tokenizer, False, "cpu")
    piece = [(batch.tokens[:, i : i + 1], batch.mask[:, i : i + 1]) for i in range(6)]
    peeking, plain = Stream(random.model), Stream(random.model)
    for tokens, mask in piece:
        peeking.peek(tokens, mask)
        torch.testing.assert_close(peeking.read(tokens, mask).logits, plain.read(tokens, mask).logits, rtol=0, atol=0)


def test_the_cache_changes_nothing_under_an_intervention(random):
    """Reading piece by piece equals reading at once, with deltas."""
    batch = left_padded([random.tokenizer(PROMPTS[1]).input_ids], random.tokenizer, False, "cpu")
    deltas = torch.randn(*batch.tokens.shape, 3, 16, generator=torch.Generator().manual_seed(0))
    whole = Stream(random.model).read(batch.tokens, batch.mask, deltas, all_logits=True)
    stream, pieces = Stream(random.model), []
    for i in range(batch.tokens.shape[1]):
        at = slice(i, i + 1)
        pieces.append(stream.read(batch.tokens[:, at], batch.mask[:, at], deltas[:, at]).logits)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole.logits, atol=1e-4, rtol=1e-4)


def test_hooks_are_gone_after_an_exception(random):
    tokens = torch.tensor([random.tokenizer(PROMPTS[0]).input_ids])
    before = random.model(tokens)
    with pytest.raises(ZeroDivisionError), residual_hooks(random.model, torch.ones(*tokens.shape, 3, 16)) as captured:
        edited = random.model(tokens)
        raise ZeroDivisionError
    assert len(captured) == 3
    assert not torch.equal(edited, before)
    torch.testing.assert_close(random.model(tokens), before, rtol=0, atol=0)


def test_intervening_changes_neither_model_nor_crosscoder(random):
    def snapshot():
        weights = {name: p.clone() for name, p in random.model.named_parameters()}
        return weights | {name: getattr(random.crosscoder, name).clone() for name in ("W_enc", "W_dec", "b_enc")}

    before = snapshot()
    run(random, ROWS)
    for name, value in snapshot().items():
        assert torch.equal(value, before[name]), name


def test_sampling_belongs_to_the_row(random):
    rows = ROWS[:9]
    sampled = run(random, rows, temperature=1.0, top_k=20, seed=1)
    for generation, row in zip(sampled, rows, strict=True):
        assert generation.token_ids == run(random, [row], temperature=1.0, top_k=20, seed=1)[0].token_ids
    other = run(random, rows, temperature=1.0, top_k=20, seed=2)
    assert [g.token_ids for g in sampled] != [g.token_ids for g in other]


def test_top_1_is_greedy(random):
    greedy, top_1 = run(random, ROWS[:3]), run(random, ROWS[:3], temperature=2.0, top_k=1)
    assert [g.token_ids for g in greedy] == [g.token_ids for g in top_1]


def test_a_bos_token_is_neither_edited_nor_recorded(random):
    [out] = generate(random, PROMPTS[:1], Steer(3, ManyLayers(scale=1.0)), max_new_tokens=3)
    n_prompt = len(random.tokenizer(PROMPTS[0]).input_ids)
    assert out.n_prompt_tokens == n_prompt
    assert out.edit_norm.shape == (n_prompt + len(out.token_ids), 3)
    assert (out.edit_norm > 0).all()  # steering edits every recorded token


def test_one_prompt_and_several_interventions(random):
    out = generate(random, PROMPTS[0], MIXTURE, max_new_tokens=4)
    assert [g.intervention for g in out] == MIXTURE
    frame = out.to_frame()
    assert len(frame) == len(MIXTURE)
    assert frame["method"].dropna().unique().tolist() == ["single layer", "many layers", "perturbation"]
