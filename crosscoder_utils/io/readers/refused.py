"""Formats that are recognised and refused, each for its own reason."""

import fnmatch
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from crosscoder_utils.io.readers.options import Options
from crosscoder_utils.io.readers.reader import Reader


class RefusedReader(Reader):
    """Subclasses say which files tell the format, as glob patterns of which each has to match, and why it is not read."""

    patterns: tuple[str, ...]
    reason: str

    def files(self, names: Sequence[str]) -> list[str]:
        found = [fnmatch.filter(names, pattern) for pattern in self.patterns]
        return [matching[0] for matching in found] if all(found) else []

    def read(self, folder: Path, options: Options) -> NoReturn:
        raise ValueError(f"{folder} is of {self.name} and cannot be read: {self.reason}")


class LlamascopiumReader(RefusedReader):
    """Crosscoders of llamascopium, formerly Language-Model-SAEs."""

    name = "llamascopium"
    patterns = ("config.json", "sae_weights.safetensors")
    reason = (
        "its crosscoders switch a feature on at each hook point by that point's encoder bias and decoder norm, and the "
        "crosscoder here has one activation for all; convert SAEs with SAE.from_pretrained(...).save_model(...) of SAELens"
    )


class CrossLayerTranscoderReader(RefusedReader):
    """Cross-layer transcoders of circuit-tracer."""

    name = "circuit-tracer"
    patterns = ("W_enc_*.safetensors", "W_dec_*.safetensors")
    reason = (
        "a cross-layer transcoder reads the inputs of MLPs and writes to their outputs; the crosscoder here reads and writes "
        "the same hook points of the residual stream"
    )


class TranscoderSetReader(RefusedReader):
    """Sets of transcoders of circuit-tracer."""

    name = "circuit-tracer"
    patterns = ("config.yaml", "layer_*.safetensors")
    reason = "a transcoder reads the input of an MLP and writes to its output; the crosscoder here works on the residual stream"


class LlamaScopeReader(RefusedReader):
    """SAEs of Llama Scope as they were published first."""

    name = "Llama Scope"
    patterns = ("hyperparams.json",)
    reason = "convert it with SAE.from_pretrained(...).save_model(...) of SAELens, which folds its scale factors"
