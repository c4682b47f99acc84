"""Models, adapters and tokenizers in the formats of transformers and peft."""

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path

import torch
from peft import PeftModel
from peft.utils import get_peft_model_state_dict, load_peft_weights
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from crosscoder_utils.io.error_messages import in_one_line
from crosscoder_utils.io.gguf_files import as_plain_model, check_gguf
from crosscoder_utils.io.sources import Source, fetch_folder, hub_answers, parse_source, reading


def read_tokenizer(source: str) -> PreTrainedTokenizerFast:
    """Read a tokenizer; raises a `FileNotFoundError` if that is not possible."""
    where = _parsed(source)
    with quiet(), _complete(source, "a tokenizer.json"), reading(source):
        return AutoTokenizer.from_pretrained(where.name, **_arguments(where))


def read_config(source: str) -> PreTrainedConfig:
    """Read a model's configuration, without its weights; raises a `FileNotFoundError` if that is not possible."""
    where = _parsed(source)
    with quiet(), _complete(source, "a config.json"), reading(source):
        return AutoConfig.from_pretrained(where.name, **_arguments(where))


def read_causal_lm(source: str, adapters: Sequence[str] = (), dtype: str = "float32") -> PreTrainedModel:
    """Read a causal language model and merge peft adapters into it, one after the other; see `read_causal_lms`."""
    return read_causal_lms(source, [adapters], dtype)[0]


def read_causal_lms(source: str, adapter_lists: Sequence[Sequence[str]], dtype: str = "float32") -> list[PreTrainedModel]:
    """Read a causal language model once, and merge each list of peft adapters into a copy of its own.

    Raises:
        FileNotFoundError: If a part cannot be read.
        ValueError: If an adapter was made for another model, or weights are not finite.
    """
    where = _parsed(source)
    with quiet():
        with _complete(source, "config.json and model.safetensors"), reading(source):
            bare = AutoModelForCausalLM.from_pretrained(where.name, dtype=getattr(torch, dtype), **_arguments(where))
        if where.gguf_file is not None:
            bare = as_plain_model(bare)
        models = [deepcopy(bare) for _ in adapter_lists[1:]] + [bare]
        return [_adapted(model, adapters, source) for model, adapters in zip(models, adapter_lists, strict=True)]


def _adapted(model: PreTrainedModel, adapters: Sequence[str], source: str) -> PreTrainedModel:
    for adapter in adapters:
        model = _merge(model, adapter, source)
    broken = [name for name, weights in model.named_parameters() if not torch.isfinite(weights).all()]
    if broken:
        raise ValueError(
            f"model {source!r} with adapters {list(adapters)} has NaN or infinite weights in {', '.join(broken[:3])}; "
            "use another checkpoint"
        )
    return model


def _parsed(source: str) -> Source:
    where = parse_source(source)
    if where.gguf_file is not None:
        check_gguf(source, Path(where.name, where.gguf_file) if where.is_local else None)
    return where


def _arguments(where: Source) -> dict:
    """Arguments of `from_pretrained` that say where to read."""
    gguf = {} if where.gguf_file is None else {"gguf_file": where.gguf_file}
    local_only = not hub_answers(where)
    return {"revision": where.revision, "subfolder": where.subfolder, "local_files_only": local_only} | gguf


def _merge(model: PreTrainedModel, adapter: str, source: str) -> PreTrainedModel:
    folder = fetch_folder(adapter, ["adapter_config.json", "adapter_model.*"])
    remedy = f"it does not fit model {source!r}: use the adapter that was trained on it"
    if not (folder / "adapter_config.json").is_file():
        raise FileNotFoundError(f"{folder / 'adapter_config.json'} is missing; give the folder of a peft adapter")
    try:
        adapted = PeftModel.from_pretrained(model, folder)
        stored = load_peft_weights(str(folder), device="cpu")
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"adapter {adapter!r} cannot be merged into the model ({in_one_line(error)}); {remedy}") from error
    # peft ignores tensors that the model has no module for, and leaves modules random that it finds no tensors for.
    # With "auto" for the embedding, peft would ask the hub whether the vocabulary was changed; a base layer is the model's own.
    expected = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    differ = {name for name in set(stored) ^ expected if ".base_layer." not in name}
    if differ:
        raise ValueError(
            f"adapter {adapter!r} has {len(differ)} unexpected or missing tensors, such as {min(differ)}; {remedy}"
        )
    return _merged(adapted, adapter)


@torch.no_grad()
def _merged(adapted: PeftModel, adapter: str) -> PreTrainedModel:
    """Merge an adapter into the weights, and see that the logits stay the same."""
    probe = torch.arange(8, device=adapted.device)[None] % adapted.config.get_text_config().vocab_size
    before = adapted.eval()(probe).logits.float()
    tables = [adapted.base_model.model.get_input_embeddings(), adapted.base_model.model.get_output_embeddings()]
    if any(hasattr(table, "base_layer") for table in tables):
        # Merging into one of two tied matrices would change the other.
        first, second = (getattr(table, "base_layer", table) for table in tables)
        if second is not None and first.weight is second.weight:
            second.weight = nn.Parameter(second.weight.clone())
            adapted.config.tie_word_embeddings = False
    merged = adapted.merge_and_unload()
    apart = float((merged(probe).logits.float() - before).abs().max() / before.abs().max())
    if not apart < (1e-3 if merged.dtype == torch.float32 else 0.1):
        raise ValueError(
            f"adapter {adapter!r} gives other logits once it is merged into the weights, by {apart:.2g} of the largest; "
            "merge it with peft's merge_and_unload and save the whole model, or retrain it without tied or shared layers"
        )
    return merged


@contextmanager
def _complete(source: str, needed: str) -> Iterator[None]:
    """Replace what transformers raises on files that are missing or damaged by one line."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (ValueError, RuntimeError, KeyError, AttributeError, TypeError, ImportError, SafetensorError) as error:
        raise ValueError(
            f"{source!r} cannot be read ({type(error).__name__}: {in_one_line(error)}); it needs {needed}, as save_pretrained "
            "writes them"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
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


def config_settings(config: PreTrainedConfig) -> dict:
    """Settings that results depend on, such as the activation function or the window; no paths, no versions of libraries."""
    settings = json.loads(config.to_json_string(use_diff=True))
    return {k: v for k, v in settings.items() if not k.startswith("_") and k != "transformers_version"}
