"""Tokens, texts and tables: all text is escaped."""

import math

import pandas as pd
import pytest

from crosscoder_utils.display import side_by_side, texts_table, token_strip

EVIL = "<script>alert(1)</script> $x^2$"


def test_token_strips_escape():
    shown = token_strip([EVIL, "\n", "b"], [1.0, 0.0, 0.5], title=EVIL).data
    assert "<script>" not in shown and shown.count("&lt;script&gt;") == 2
    assert 'title="1.000"' in shown and 'title="0.500"' in shown


def test_token_strips_with_the_same_top_have_the_same_shades():
    assert "0.15)" in token_strip(["a"], [1.0], top=4.0).data and "0.60)" in token_strip(["a"], [4.0], top=4.0).data
    assert "0.60)" in token_strip(["a"], [1.0]).data


def test_tables_escape():
    shown = texts_table(pd.DataFrame({"completion": [EVIL]})).data
    assert "<script>" not in shown and "$" not in shown and "&#36;x^2" in shown


def test_side_by_side_shows_the_best_setting_of_each_method_and_point():
    table = pd.DataFrame(
        {
            "setting": [0, 1, 2] * 2,
            "label": ["a", "b", "c"] * 2,
            "method": ["single layer", "single layer", "many layers"] * 2,
            "point": [1.0, 1.0, None] * 2,
            "prompt_index": [0, 0, 0, 1, 1, 1],
            "cross_entropy": [3.0, 1.0, 9.0, 0.1, 1.0, 9.0],
            "is_story": False,
            "says_phrase": False,
            "n_tokens": 9,
            "completion": ["A0", "B0", "C0", "A1", "B1", "C1"],
            "activation_before": 1.0,
            "others_change_relative": 0.1,
        }
    )
    shown = side_by_side(table).data
    assert "B0" in shown and "C0" in shown
    assert not any(other in shown for other in ("A0", "A1", "B1", "C1"))
    assert "activation before" in shown and "others change relative" in shown
    assert 'aria-label="Table: setting, is story, cross entropy, completion, activation before' in shown
    assert "activation" not in side_by_side(table.drop(columns="activation_before")).data


def test_a_table_without_single_layers_and_labels():
    table = pd.DataFrame({"setting": [0, 1], "method": [None, "many layers"], "prompt_index": 0, "completion": ["A", "B"]})
    table = table.assign(cross_entropy=1.0, is_story=True, says_phrase=False, n_tokens=3)
    shown = side_by_side(table).data
    assert "A" in shown and "B" in shown and "untouched" in shown
    assert "A" in side_by_side(table.drop(columns="method")[:1]).data
    assert side_by_side(table.assign(setting=["untouched", "many"])).data == shown
    with pytest.raises(ValueError, match=r"prompt_index=7 has no completion to show; the table has \[0\]"):
        side_by_side(table, 7)
    failed = table.assign(failed=[False, True])
    assert "B" not in side_by_side(failed).data.replace("Table", "")


def test_a_token_without_a_text_of_its_own_shades_the_character_before():
    shown = token_strip(["a", "👍", "", "", "b"], [0.0, 1.0, 4.0, 2.0, math.nan]).data
    assert shown.count("<span") == 3 and 'title="4.000">👍' in shown and 'title="nan">b' in shown
