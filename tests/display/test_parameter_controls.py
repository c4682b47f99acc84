"""Number controls: a field that takes any number, a slider that follows it, and words in place of a number."""

import pytest

from crosscoder_utils.display.parameter_controls import NumberControl


@pytest.fixture
def scale():
    control = NumberControl("scale", {"auto": "auto"}, 2.0, 0.2, has_slider=True)
    control.arrange(words_apply=True)
    return control


@pytest.mark.parametrize("number", [99999.0, -3.0, 0.0, 0.12345])
def test_no_number_is_clamped(scale, number):
    scale.field.value = number
    assert scale.value == number and 0.01 <= scale.slider.value <= 100


def test_the_slider_moves_the_field_and_follows_it(scale):
    scale.slider.value = 10**0.15
    assert scale.field.value == scale.value == 1.41
    scale.field.value = 20.0
    assert scale.slider.value == 20.0


def test_one_move_is_one_change(scale):
    changes = []
    scale.observe(changes.append, "value")
    scale.slider.value = 10**0.15
    scale.field.value = 99999.0
    assert [change["new"] for change in changes] == [1.41, 99999.0]


def test_words_hide_the_number(scale):
    scale.value = "auto"
    scale.arrange(words_apply=True)
    assert scale.value == "auto" and scale.view.children == (scale.choice,)
    scale.arrange(words_apply=False)  # as for steering
    assert scale.value == 2.0 and scale.view.children == (scale.field, scale.slider) and scale.field.description == "scale"
    scale.arrange(words_apply=True)
    scale.value = 5
    scale.arrange(words_apply=True)
    assert scale.value == 5 and scale.view.children == (scale.choice, scale.field, scale.slider)
