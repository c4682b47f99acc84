"""Residual SAEs in the folder format of SAELens (github.com/decoderesearch/SAELens), also of before its version 6."""

from collections.abc import Sequence
from pathlib import Path

import torch

from crosscoder_utils.crosscoder import Crosscoder
from crosscoder_utils.io.readers.checked_files import open_json, open_safetensors
from crosscoder_utils.io.readers.options import Options
from crosscoder_utils.io.readers.reader import Reader
from crosscoder_utils.io.readers.settings import Settings
from crosscoder_utils.io.readers.tensors import Tensors
from crosscoder_utils.io.readers.weights import (
    Weights,
    batch_topk_threshold,
    check_k,
    given_factors,
    hook_point_of,
    jumprelu_threshold,
    refuse_factors,
    relu_threshold,
    topk_threshold,
)

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"

_TRANSCODER = "reads one place and writes another; the crosscoder here reads and writes the same hook points"
_REFUSED = {  # architectures that are no crosscoder over one hook point
    "gated": "switches features on by a second encoder, which thresholds on one pre-activation cannot express",
    "matching_pursuit": "picks features one after the other, which an encoder of one step cannot express",
    "temporal": "reads earlier tokens too; the crosscoder here reads one token at a time",
    "transcoder": _TRANSCODER,
    "skip_transcoder": _TRANSCODER,
    "jumprelu_transcoder": _TRANSCODER,
    "jumprelu_skip_transcoder": _TRANSCODER,
}
_NORMALISED = {  # what to do about normalisations of the activations
    "layer_norm": "every token is normalised by its own mean and deviation, which no weights express; use an SAE without it",
    "constant_norm_rescale": "every token is scaled by its own norm, which no weights express; use an SAE without it",
    "covariance_whitening": "fold it into the weights with SAELens' fold_activation_whitening, and save it again",
}
_TRAINING = """
    act_store_device activations_mixing_fraction adam_beta1 adam_beta2 autocast autocast_lm aux_loss_coefficient
    b_dec_init_method cached_activations_path checkpoint_path compile_llm compile_sae context_size d_head dataset_path
    dataset_trust_remote_code dead_feature_estimation_method dead_feature_threshold dead_feature_window
    decoder_heuristic_init decoder_heuristic_init_norm decoder_init_norm decoder_orthogonal_init device
    disable_concat_sequences dtype eval_batch_size_prompts eval_every_n_wandb_logs exclude_special_tokens expansion_factor
    feature_reinit_scale feature_sampling_method feature_sampling_window finetuning_method finetuning_tokens
    from_pretrained_path from_pretrained_path_or_sae hook_eval hook_layer hook_point_eval hook_point_layer
    init_encoder_as_decoder_transpose is_dataset_on_disk is_dataset_tokenized jumprelu_bandwidth jumprelu_init_threshold
    jumprelu_sparsity_loss_mode jumprelu_tanh_scale l0_coefficient l0_lambda l0_warm_up_steps l1_coefficient
    l1_warm_up_steps llm_compilation_mode llm_device log_activations_store_to_wandb log_optimizer_state_to_wandb
    log_to_wandb log_weights_to_wandb logger lp_norm lr lr_decay_steps lr_end lr_scheduler_name lr_warm_up_steps
    matryoshka_widths model_class_name model_kwargs model_name mse_loss_normalization n_batches_for_norm_estimate
    n_batches_in_buffer n_checkpoints n_eval_batches n_restart_cycles n_training_samples n_training_steps name
    neuronpedia_id noise_scale normalize_sae_decoder output_path pre_act_loss_coefficient prepend_bos release
    resample_batches resume run_name sae_compilation_mode sae_id sae_lens_training_version sae_lens_version
    scale_sparsity_penalty_by_decoder_norm seed seqpos seqpos_slice sequence_separator_token sparsity store_batch_size
    store_batch_size_prompts streaming tokens_per_buffer topk_threshold_lr total_training_steps total_training_tokens
    train_batch_size train_batch_size_tokens training_tokens use_cached_activations use_chat_formatting use_ghost_grads
    use_matryoshka_aux_loss use_sparse_activations verbose wandb_entity wandb_id wandb_log_frequency wandb_project
"""  # settings of training and of the data, as versions 1 to 6 wrote them


class SaelensReader(Reader):
    """`cfg.json` and `sae_weights.safetensors`, as `SAE.save_model` writes them."""

    name = "SAELens"
    layout = f"{CONFIG} and {WEIGHTS}"
    marks = (WEIGHTS,)
    others = (CONFIG,)

    def files(self, names: Sequence[str]) -> list[str]:
        is_llamascopium = "config.json" in names and CONFIG not in names
        return [] if is_llamascopium else super().files(names)

    def read(self, folder: Path, options: Options) -> Crosscoder:
        config = open_json(folder / CONFIG, self.holds)
        metadata = config.mapping("metadata")
        kind = _activation(config)
        normalised = _normalisation(config)
        hook_point = _hook_point(config, metadata)
        tensors = open_safetensors(folder / WEIGHTS, self.holds)
        weights = _weights(tensors, config)
        if normalised:
            reason = f"{folder / CONFIG} says normalize_activations: expected_average_only_in, whose factor is in no file"
            reason += " (SAELens' fold_activation_norm_scaling_factor folds it before you save)"
            weights = weights.with_factors(given_factors(options, 1, reason))
        else:
            refuse_factors(options, f"the weights in {folder} act on raw activations")
        if "topk" not in kind:
            config.expect("rescale_acts_by_decoder_norm", (False,), f"a {kind} SAE is saved with the norm folded")
        if config.flag("rescale_acts_by_decoder_norm"):
            weights = weights.with_unit(weights.W_dec.norm(dim=-1).squeeze(1))
        if config.flag("apply_b_dec_to_input", True):
            weights = weights.with_input_bias(weights.b_dec)
        threshold, k = _when_active(kind, config, tensors, options, weights.n_features)
        of = {"b_gate": "gated", "b_mag": "gated", "r_mag": "gated", "W_skip": "skip_transcoder"}
        tensors.refuse_rest({name: f"of a {kind} SAE, which {_REFUSED[kind]}" for name, kind in of.items()})
        config.ignore(*_TRAINING.split())
        centred = _is_centred(config, metadata)
        config.refuse_rest()
        points = None if hook_point is None else (hook_point,)
        return weights.crosscoder(points, threshold, k, centred)


def _activation(config: Settings) -> str:
    """Which rule says what is active: relu, jumprelu, topk or batchtopk."""
    architecture = config.text("architecture", "standard")
    if architecture in _REFUSED:
        raise ValueError(f"{config.path} says architecture {architecture!r}: it {_REFUSED[architecture]}")
    function = config.text("activation_fn") or config.text("activation_fn_str") or "relu"
    config.ignore("activation_fn_str")
    kinds = {"standard": function, "matryoshka_batchtopk": "batchtopk"}
    kind = kinds.get(architecture, architecture)
    if kind not in ("relu", "jumprelu", "topk", "batchtopk") or function not in ("relu", kind):
        raise ValueError(
            f"{config.path} says architecture {architecture!r} with activation {function!r}; known are standard, jumprelu, "
            "topk and batchtopk SAEs with ReLU"
        )
    return kind


def _normalisation(config: Settings) -> bool:
    """Whether activations are to be scaled by one constant factor first."""
    stated = config.any("normalize_activations")  # before version 4 true or false
    name = stated
    if stated is None or isinstance(stated, bool):
        name = "expected_average_only_in" if stated else "none"
    if name not in ("none", "expected_average_only_in"):
        why = _NORMALISED.get(str(name), "known are none and expected_average_only_in; use an SAE without it")
        raise ValueError(f"{config.path} says normalize_activations: {stated!r}; {why}")
    return name != "none"


def _hook_point(config: Settings, metadata: Settings) -> int | None:
    """The hook point; None if the file does not say."""
    names = [config.text("hook_name"), config.text("hook_point"), metadata.text("hook_name")]
    for key in ("hook_head_index", "hook_point_head_index"):
        for settings in (config, metadata):
            settings.expect(key, (), "it reads one attention head, and crosscoders here the residual stream")
    config.expect("reshape_activations", ("none",), "it reads attention heads, and crosscoders here the residual stream")
    points = {hook_point_of(name) for name in names if name is not None}
    if len(points) > 1:
        raise ValueError(f"{config.path} names two hook points, {' and '.join(filter(None, names))}; keep the right one")
    return next(iter(points), None)


def _is_centred(config: Settings, metadata: Settings) -> bool:
    """Whether the model wrote centred vectors to the residual stream, by TransformerLens' processing."""
    kept = [settings.mapping("model_from_pretrained_kwargs") for settings in (config, metadata)]
    return any([settings.flag("center_writing_weights") for settings in kept])


def _weights(tensors: Tensors, config: Settings) -> Weights:
    b_enc = tensors.take("b_enc", shape=(config.count("d_sae"),))
    n_features = len(b_enc)
    W_enc = tensors.take("W_enc", shape=(config.count("d_in"), n_features))
    d_model = len(W_enc)
    W_dec = tensors.take("W_dec", shape=(n_features, d_model))
    for name in ("scaling_factor", "finetuning_scaling_factor"):
        factor = tensors.take_if_there(name)
        if factor is not None and not torch.allclose(factor, torch.ones_like(factor)):
            raise ValueError(
                f"{tensors.path} holds {name} other than 1, of an SAE finetuned by scaling; use it before finetuning"
            )
    for key in ("finetuning_scaling_factor", "uses_scaling_factor"):
        config.flag(key)  # true without such a tensor, or with ones, scales by 1
    return Weights.of_one_point(W_enc, b_enc, W_dec, tensors.take("b_dec", shape=(d_model,)))


def _when_active(
    kind: str, config: Settings, tensors: Tensors, options: Options, n_features: int
) -> tuple[torch.Tensor, int | None]:
    """Thresholds and k."""
    kwargs = config.mapping("activation_fn_kwargs")
    k = config.any("k") if kind == "batchtopk" else config.count("k", kwargs.count("k"))
    kwargs.ignore("k")
    kwargs.refuse_rest()
    if kind == "relu":
        return relu_threshold(n_features), None
    if kind == "topk":
        return topk_threshold(n_features, signed=False), check_k(k, n_features, config.path)
    if kind == "jumprelu":
        log_threshold = tensors.take_if_there("log_threshold", shape=(n_features,))
        threshold = log_threshold.exp() if log_threshold is not None else tensors.take("threshold", shape=(n_features,))
        return jumprelu_threshold(threshold), None
    common = tensors.number("topk_threshold")
    if common is None:
        return batch_topk_threshold(options, k, n_features), None
    return jumprelu_threshold(torch.full((n_features,), float(common))), None
