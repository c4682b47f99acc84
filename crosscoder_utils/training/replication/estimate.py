"""How long what remains will take: work counted from the settings, times rates that are measured on this device."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate import Accelerator

from crosscoder_utils.analysis.encoded_texts import encode_texts
from crosscoder_utils.analysis.store import StoredRows
from crosscoder_utils.generation import generate
from crosscoder_utils.interventions import Ablate
from crosscoder_utils.io.crosscoder_files import load_crosscoder
from crosscoder_utils.io.datasets import read_examples
from crosscoder_utils.io.transformers_models import read_causal_lm, read_tokenizer
from crosscoder_utils.loading import Setup, wrap
from crosscoder_utils.methods import ManyLayers, Perturbation
from crosscoder_utils.presets import find_preset
from crosscoder_utils.training.activations import ActivationWindows
from crosscoder_utils.training.crosscoder_training import train_crosscoder
from crosscoder_utils.training.loop import CHECKPOINT
from crosscoder_utils.training.replication.settings import Replication

_TRIAL = {"tokens": 8192, "steps": 10}
_TRIAL_PROMPTS, _TRIAL_TOKENS = 10, 16
_STORE_ROWS = ("03_ablation", "04_steering", "05_sweeps")
"""Notebooks that store rows, in one folder, in the order in which they run."""
_OTHERS = {"comparison": 20.0, "book": 40.0}  # seconds that hardly depend on the model
_TOKENS_OF_A_TEXT = 200


@dataclass(frozen=True)
class Rates:
    """Seconds on this device.

    Attributes:
        n_points: Hook points of the model; no rate, but what a notebook's rows depend on.
        step: Of a training step.
        read: Of a token whose activations are read.
        row: Of a new token of a row under a method that subtracts.
        search: The same for gradient descent, which dearer features make slower: those that fire on more tokens.
    """

    n_points: int
    step: float
    read: float
    row: float
    search: float


class _Timed(ActivationWindows):
    """Notes when each step begins."""

    def rows_at(self, step: int) -> torch.Tensor:
        self.begun = [*getattr(self, "begun", []), time.monotonic()]
        return super().rows_at(step)


def measure_rates(recipe: Replication, out: Path, trained: bool) -> Rates:
    """Train a few steps and complete a few prompts; with the trained crosscoder, if there is one, and no steps then."""
    preset, accelerator = find_preset(out / "preset.yaml"), Accelerator()
    tokenizer = read_tokenizer(preset.tokenizer or preset.model)
    model = wrap(read_causal_lm(preset.model, preset.adapters, preset.dtype).to(accelerator.device), preset.name)
    texts = [text for kind in (True, False) for text in read_examples(preset.data, recipe.texts, kind, "train", preset.name)]
    few = replace(recipe.crosscoder, **{name: min(getattr(recipe.crosscoder, name), most) for name, most in _TRIAL.items()})
    few = replace(few, window_steps=few.steps, shards=1)
    windows = _Timed(model, tokenizer, lambda _: cycle(texts), few, recipe.seed, preset.prepend_bos, preset.context)
    began = time.monotonic()
    windows.first()
    rates = {"n_points": model.cfg.n_layers + 1, "read": (time.monotonic() - began) / few.tokens, "step": 0.0}
    if trained:
        crosscoder = load_crosscoder(out / "crosscoder")
    else:
        with TemporaryDirectory() as folder:
            crosscoder, seconds = train_crosscoder(few, windows, recipe.seed, Path(folder) / CHECKPOINT, accelerator)
        times = [end - begin for begin, end in zip(windows.begun, windows.begun[1:])][1:]  # the first step allocates memory
        rates["step"] = median(times) if times else seconds / few.steps
    setup = Setup(preset, model, model, crosscoder.to(accelerator.device, torch.float32), tokenizer)
    prompts = setup.prompts(min(recipe.prompts, _TRIAL_PROMPTS), deployment=True)
    feature = _rare(setup, prompts)
    for name, methods in {"row": [ManyLayers(0.2), ManyLayers(2.0)], "search": [Perturbation(0.01), Perturbation(0.1)]}.items():
        rows = [Ablate(feature, method) for method in methods for _ in prompts]
        began = time.monotonic()
        generate(setup, prompts * len(methods), rows, max_new_tokens=_TRIAL_TOKENS)
        rates[name] = (time.monotonic() - began) / (len(rows) * _TRIAL_TOKENS)
    return Rates(**rates)


def _rare(setup: Setup, prompts: list[str]) -> int:
    """The feature that fires on the fewest of the prompts' tokens, and on some: features that say something are rare."""
    fires = torch.cat([text.activations for text in encode_texts(setup, prompts)]).gt(0).sum(0)
    return int(torch.where(fires > 0, fires, fires.max() + 1).argmin())


def remaining(recipe: Replication, out: Path, rates: Rates, done: Mapping[str, float]) -> dict[str, float]:
    """Stage that is not done -> seconds, as far as one can tell before.

    Notebooks that are done correct the estimate of the others by how long they took, compared with what was expected.
    """
    expected = {name: _notebook_seconds(recipe, name, rates) for name in recipe.notebooks}
    ran = [name for name in expected if name in done]
    factor = sum(done[name] for name in ran) / sum(expected[name] for name in ran) if ran else 1.0
    stages = {"crosscoder": _training_seconds(recipe, rates) * _training_left(recipe, out)}
    stages |= {name: seconds * factor * _rows_left(recipe, out, name, rates.n_points) for name, seconds in expected.items()}
    return {name: seconds for name, seconds in (stages | _OTHERS).items() if name not in done}


def _training_seconds(recipe: Replication, rates: Rates) -> float:
    windows = -(-recipe.crosscoder.steps // recipe.crosscoder.window_steps)
    read = windows * recipe.crosscoder.tokens + 10 * recipe.measured_texts * _TOKENS_OF_A_TEXT
    return recipe.crosscoder.steps * rates.step + read * rates.read


def _training_left(recipe: Replication, out: Path) -> float:
    checkpoint = out / "crosscoder" / CHECKPOINT
    if not checkpoint.exists():
        return 1.0
    return 1 - torch.load(checkpoint, weights_only=True, mmap=True)["step"] / recipe.crosscoder.steps


def _rows(recipe: Replication, name: str, n_points: int) -> tuple[int, int, int]:
    """Rows without and with a search, and texts that are read, of one notebook."""
    p = recipe.parameters_of(name)
    n, features = p.get("n_prompts", 0), len(p.get("roles", ())) + p.get("n_candidates", 0)
    if name == "01_setup":
        return 2 * n, 0, (2 + n_points) * n
    if name == "02_feature_discovery":
        return 2 * 100 * 4 + 20 * min(p["n_texts"], 20), 0, 7 * p["n_texts"]
    if name == "03_ablation":
        plain = features * _decoder_settings(p, n_points) + n_points + 9
        return plain * n, (features * len(p["learning_rates"]) + 1) * n, 250
    if name == "04_steering":
        strengths, starts = len(p["strengths"]), len(p["starts"])
        plain = (n_points + 1) * (strengths * (features + 1) + starts) * n
        return plain, (strengths + starts) * n, 150
    if name == "05_sweeps":
        features, held_out = len(p["roles"]), p["n_held_out"]
        searches = 3 * features * (len(p["learning_rates"]) * n + held_out) + features * len(p["steps_tried"]) * n
        return 3 * features * (_decoder_settings(p, n_points) * n + 2 * held_out) + 3 * n, searches, 100
    return 4, 0, 2 * p["n_texts"]


def _decoder_settings(p: dict[str, Any], n_points: int) -> int:
    """Settings of the methods that do not search."""
    return n_points * len(p["single_layer_scales"]) + len(p["many_layers_scales"])


def _notebook_seconds(recipe: Replication, name: str, rates: Rates) -> float:
    plain, searches, texts = _rows(recipe, name, rates.n_points)
    new_tokens = recipe.parameters_of(name).get("max_new_tokens", 40)
    return 15 + (plain * rates.row + searches * rates.search) * new_tokens + texts * _TOKENS_OF_A_TEXT * rates.read


def _rows_left(recipe: Replication, out: Path, name: str, n_points: int) -> float:
    folder = out / "notebooks" / "outputs" / "rows"
    if name not in _STORE_ROWS or not folder.is_dir():
        return 1.0
    needed = {one: sum(_rows(recipe, one, n_points)[:2]) for one in _STORE_ROWS[: _STORE_ROWS.index(name) + 1]}
    own = needed.pop(name)
    return min(1.0, max(0.05, 1 - (len(StoredRows(folder).ids()) - sum(needed.values())) / own))


def in_words(stages: dict[str, float], device: str, rests_on: str) -> str:
    """The estimate as lines of text; `rests_on` says what it was measured with."""
    unit = f"CPU time with {torch.get_num_threads()} threads" if device == "cpu" else f"{device} time"
    shown = stages | {"in all": sum(stages.values())}
    lines = [
        f"  {name:<22}{seconds / 3600:7.1f} hours" if seconds > 7200 else f"  {name:<22}{seconds / 60:7.1f} minutes"
        for name, seconds in shown.items()
    ]
    return "\n".join([f"What remains, in {unit}, by a trial with {rests_on}:", *lines])
