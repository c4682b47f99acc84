"""Folders of small random models of any architecture with a random crosscoder and a preset, as users have them."""

from pathlib import Path

import torch
from conftest import random_crosscoder
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig

from crosscoder_utils import save_crosscoder

BASE = {
    "vocab_size": 1024, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 192, "initializer_range": 0.4, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip


def llama(**changes) -> LlamaConfig:
    return LlamaConfig(**BASE | {"num_key_value_heads": 2} | changes)


def write_folder(folder: Path, tokenizer, config: PreTrainedConfig | None = None, lines: str = "") -> Path:
    """Write `model`, `crosscoder` and a preset; returns the preset's path."""
    torch.manual_seed(0)
    config = llama() if config is None else config
    AutoModelForCausalLM.from_config(config).float().save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    save_crosscoder(random_crosscoder(config.hidden_size, config.num_hidden_layers + 1), folder / "crosscoder")
    preset = folder / "preset.yaml"
    preset.write_text(f"model: model\ncrosscoder: crosscoder\ncontext: 150\n{lines}", encoding="utf-8")
    return preset


def plain_model(preset: Path):
    """The transformers model of the preset, with its own attention, for calculations by hand."""
    return AutoModelForCausalLM.from_pretrained(preset.parent / "model", dtype=torch.float32).eval()
