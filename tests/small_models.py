"""Folders of small random models of any architecture with a random crosscoder and a preset, as users have them."""

import json
from pathlib import Path

import gguf
import numpy as np
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


def write_gguf(path: Path, tokenizer, width: int = 32, blocks: int = 2, heads: int = 4, inner: int = 64) -> None:
    """Write a random Llama model, two query heads for each key, and a byte-pair tokenizer as one GGUF file."""
    generator, writer = np.random.default_rng(0), gguf.GGUFWriter(path, "llama")
    writer.add_block_count(blocks)
    writer.add_context_length(192)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads // 2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(width // heads)
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * len(tokens))
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    block = {
        "attn_q": (width, width), "attn_k": (width // 2, width), "attn_v": (width // 2, width), "attn_output": (width, width),
        "ffn_gate": (inner, width), "ffn_up": (inner, width), "ffn_down": (width, inner), "attn_norm": (width,),
        "ffn_norm": (width,),
    }  # fmt: skip
    shapes = {"token_embd": (len(tokens), width), "output_norm": (width,)}
    shapes |= {f"blk.{number}.{name}": shape for number in range(blocks) for name, shape in block.items()}
    for name, shape in shapes.items():
        values = np.ones(shape) if name.endswith("norm") else 0.4 * generator.standard_normal(shape)
        writer.add_tensor(f"{name}.weight", values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
