"""What `run` takes and gives: token scopes of a text, the table, and one line for bad input."""

from dataclasses import replace

import numpy as np
import pytest

from crosscoder_utils import Ablate, Clamp, ManyLayers, Perturbation, Steer, from_marker, from_position, run

PROMPT = "Words: red, kite\nStory:"
TEXT = PROMPT + " Tom had a red kite. He was happy."
TEXTS = [
    TEXT,
    "Summary: Tom and Mia share a drum.\nFeatures: Dialogue\nStory: Once upon a time.",
    "Features: Dialogue\nStory: I",
]


def test_scopes_of_a_text(random):
    def edited(text, tokens):
        [found] = run(random, [text], Steer(3, ManyLayers(0.1), tokens))
        return np.flatnonzero(found.edit_norm.any(1)).tolist()

    n_prompt, n = len(random.tokenizer(PROMPT).input_ids), len(random.tokenizer(TEXT).input_ids)
    assert edited(TEXT, "prompt") == list(range(n_prompt))
    assert edited(TEXT, "generated") == list(range(n_prompt, n))
    assert edited(PROMPT, "generated") == []
    assert edited(TEXT, from_position(-1)) == list(range(n_prompt - 1, n))
    assert edited(TEXT + " Story: again", from_position(-1))[0] == n_prompt - 1
    assert edited("Words: red, kite", "prompt") == edited("Words: red, kite", "all")
    later = edited(TEXT, from_marker("happy"))
    assert later[0] > n_prompt and later[-1] == n - 1


@pytest.mark.parametrize("marker, lacks", [("Story:", "text has no 'Story:'"), (None, "preset has none")])
def test_without_a_marker_nothing_is_generated(random, marker, lacks):
    setup = replace(random, preset=random.preset.model_copy(update={"story_marker": marker}))
    with pytest.raises(ValueError, match=f"tokens='generated' needs .* {lacks}; use from_marker or from_position") as error:
        run(setup, "Words: red", Steer(3, ManyLayers(0.1), "generated"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("method", [ManyLayers(1.0), Perturbation(0.1, 2)], ids=lambda m: m.name)
def test_too_little_memory_for_a_text(random, method):
    with pytest.raises(ValueError, match=r"memory_gb=1e-06 does not hold .* text of \d+ tokens.*; give more memory") as error:
        run(random, TEXT, Ablate(3, method), memory_gb=1e-6)
    assert "\n" not in str(error.value)


def test_the_table(random):
    table = run(random, TEXTS[:2], [Ablate([3, 5], ManyLayers(1.0)), None]).to_frame()
    first, second = table.iloc[0], table.iloc[1]
    assert (first["intervention"], first["method"], first["strength"]) == ("ablate", "many layers", 1.0)
    [own] = run(random, TEXTS[:1], Ablate([3, 5], ManyLayers(1.0)))
    assert first["mean_loss"] == pytest.approx(np.nanmean(own.loss)) and first["max_kl"] == pytest.approx(own.kl.max())
    assert first["edited_share"] == pytest.approx((own.edit_norm > 0).any(1).mean()) and 0 < first["edited_share"] <= 1
    assert first["relative_edit_norm"] == pytest.approx((own.edit_norm / own.residual_norm).max())
    assert second["intervention"] == "none" and second["mean_kl"] == 0 and np.isnan(second["relative_edit_norm"])
    assert run(random, []).to_frame().empty


def test_a_text_of_one_token(random):
    for intervention in (None, Steer(3, ManyLayers(0.1)), Clamp(3, 1.0, Perturbation(0.1, 2))):
        [found] = run(random, "Words", intervention)
        assert found.loss.shape == (1,) and np.isfinite(found.kl).all()
        assert np.isnan(found.summary()["mean_loss"]) == (not random.preset.prepend_bos)


def test_bad_input(random):
    with pytest.raises(ValueError, match="text '' is empty"):
        run(random, [TEXT, ""])
    with pytest.raises(ValueError, match=r"text .* has \d+ tokens: .* of 192 positions; shorten the text by"):
        run(random, TEXT * 20)
    with pytest.raises(ValueError, match="2 interventions for 3"):
        run(random, TEXTS, [None, None])
    with pytest.raises(ValueError, match="batch_size=0 is too small"):
        run(random, TEXTS, batch_size=0)
    with pytest.raises(IndexError, match="feature 24 does not exist"):
        run(random, TEXTS, Ablate(24, ManyLayers(1.0)))
    with pytest.raises(ValueError, match="has no marker 'Once'; add it"):
        run(random, TEXT, Ablate(3, ManyLayers(1.0), from_marker("Once")))
