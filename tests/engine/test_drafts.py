"""Guesses of how a text goes on."""

import torch

from crosscoder_utils.engine.drafts import MOST_DRAFTED, Library, guess

NO_LIBRARY = torch.zeros(1, 0, dtype=torch.long)


def test_a_text_is_taken_to_go_on_as_it_did_before():
    tokens = torch.tensor([[5, 1, 2, 3, 8, 9, 10, 11, 12, 13, 1, 2, 3, 0, 0]])
    assert guess(NO_LIBRARY, tokens, torch.tensor([13]))[0].tolist() == [8, 9, 10, 11, 12, 13, 1]


def test_a_text_in_a_circle_goes_round():
    tokens = torch.tensor([[4, 1, 2, 3, 1, 2, 3, 0, 0, 0]])
    assert guess(NO_LIBRARY, tokens, torch.tensor([7]))[0].tolist() == [1, 2, 3, 1, 2, 3, 1]


def test_no_guess_without_a_match_or_past_the_end_of_a_known_text():
    fresh = torch.tensor([[1, 2, 3, 4, 5, 6]])
    assert guess(NO_LIBRARY, fresh, torch.tensor([6])).tolist() == [[-1] * MOST_DRAFTED]
    library = Library()
    library.add("a prompt", [9, 1, 2, 3, 7])
    table = library.table(["a prompt", "another"], torch.device("cpu"))
    tokens = torch.tensor([[6, 1, 2, 3], [6, 1, 2, 3]])
    assert guess(table, tokens, torch.tensor([4, 4])).tolist() == [[7, *[-1] * (MOST_DRAFTED - 1)], [-1] * MOST_DRAFTED]


def test_a_library_keeps_few_different_texts():
    library = Library(most=2)
    for ids in ([1, 2, 3], [1, 2, 3], [4, 5, 6], [7, 8, 9]):
        library.add("a prompt", ids)
    assert list(library.texts["a prompt"]) == [(1, 2, 3), (4, 5, 6)]
