"""Models and tokenizers in GGUF files, the format of llama.cpp; transformers reads them and undoes their quantisation."""

import importlib.util
from functools import cache
from pathlib import Path

from transformers import PreTrainedModel
from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

from crosscoder_utils.io.error_messages import in_one_line

SUFFIX = ".gguf"


def check_gguf(source: str, path: Path | None = None) -> None:
    """See that a GGUF file can be read, before any of its tensors is.

    Args:
        source: Its name, for messages.
        path: Where it lies; None if it is not on this machine yet.

    Raises:
        ImportError: If the package gguf is not installed.
        ValueError: If it is no GGUF file, its architecture is not known to transformers, or it has no tokenizer.
    """
    if importlib.util.find_spec("gguf") is None:
        raise ImportError(f"{source!r} is a GGUF file, and reading it needs the package gguf; `pip install gguf`")
    if path is not None and path.is_file():
        _check_header(source, path, path.stat().st_mtime_ns)


@cache  # a vocabulary takes seconds to read, and tokenizer, configuration and weights each ask
def _check_header(source: str, path: Path, changed: int) -> None:
    from gguf import GGUFReader

    try:
        fields = GGUFReader(path).fields
        architecture = fields["general.architecture"].contents()
    except (ValueError, KeyError, IndexError) as error:
        raise ValueError(f"{source!r} is no whole GGUF file ({in_one_line(error)}); fetch it again") from error
    if architecture not in GGUF_SUPPORTED_ARCHITECTURES:
        raise ValueError(
            f"{source!r} holds a model of architecture {architecture!r}, which transformers does not read from GGUF; give the "
            "folder or hub name of its original weights"
        )
    if "tokenizer.ggml.model" not in fields or "tokenizer.ggml.tokens" not in fields:
        raise ValueError(
            f"{source!r} holds no tokenizer; give one with the preset's line 'tokenizer: ...', and the model's original weights"
        )


def as_plain_model(model: PreTrainedModel) -> PreTrainedModel:
    """The model without what transformers remembers of its GGUF file: dequantised, it is a model like any other.

    Left there, the model could not be saved, and peft would take it for a quantised one.
    """
    model.hf_quantizer, model.is_quantized = None, False
    del model.quantization_method, model.config.quantization_config
    return model
