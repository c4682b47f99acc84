"""Encoder against decoder: how alike a feature's two directions are, and which of the two does more to the model.

Decoder methods never look at the encoder, and a perturbation that is found by descent never at the decoder. Here the same
activation is subtracted at the same tokens, once along the decoder's direction and once along the encoder's, with equal norms.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from crosscoder_utils.analysis.argument_checks import checked_feature, checked_setup
from crosscoder_utils.analysis.screen import screen
from crosscoder_utils.analysis.sweeps import Workers
from crosscoder_utils.crosscoder import Crosscoder
from crosscoder_utils.io.checked_tables import checked_table
from crosscoder_utils.io.error_messages import shown
from crosscoder_utils.io.torch_defaults import own_settings
from crosscoder_utils.io.validation import Texts, chosen, finite_number, flag, instance, texts, whole_number, whole_numbers
from crosscoder_utils.loading import Setup
from crosscoder_utils.methods import DecoderMethod, ManyLayers
from crosscoder_utils.methods.base import random_like
from crosscoder_utils.prompts import TokenScope

_EFFECTS = ["kl", "cross_entropy_change", "phrase_rate", "story_rate", "relative_edit_norm"]


@torch.no_grad()
def encoder_decoder_cosines(crosscoder: Crosscoder, features: Sequence[int] | None = None) -> Float[Tensor, "feature point"]:
    """Cosine of each feature's encoder and decoder vector at each hook point, on the crosscoder's device.

    Of a crosscoder that centres the residual stream, the encoder loses its mean over d_model, which never reads anything. A
    vector of zeros has no direction: its cosine is NaN.

    Args:
        crosscoder: Of a setup, or from `load_crosscoder`.
        features: Features to take; None means all.

    Raises:
        IndexError: If a feature does not exist.
    """
    instance("crosscoder", crosscoder, Crosscoder, "take setup.crosscoder, or read one with load_crosscoder")
    n_features = crosscoder.n_features
    if features is None:
        some = list(range(n_features))
    else:
        some = [checked_feature(one, n_features) for one in whole_numbers("features", features)]
    return (_unit(_encoder(crosscoder)[some]) * _unit(crosscoder.W_dec[some])).sum(-1)


def along_encoder(crosscoder: Crosscoder, norms: str = "decoder") -> Crosscoder:
    """The same crosscoder with decoder vectors along its encoder vectors, so that every method edits along the encoder.

    Activations are the same as before, since the encoder is; reconstructions are not.

    Args:
        crosscoder: Of a setup, or from `load_crosscoder`.
        norms: "decoder": at each hook point, the norm of the decoder vector there, so that only directions differ. "encoder":
            the same norm over all hook points together, split over them as the encoder's, so that places differ too. Encoder
            weights are large where the stream is small, after the embedding, so that such edits are large against the stream.

    Raises:
        ValueError: If `norms` is neither.
    """
    instance("crosscoder", crosscoder, Crosscoder, "take setup.crosscoder, or read one with load_crosscoder")
    encoder, decoder = _encoder(crosscoder), crosscoder.W_dec
    if chosen("norms", norms, ("decoder", "encoder")) == "decoder":
        # Where the encoder reads nothing it has no direction to write to.
        along = decoder.norm(dim=-1, keepdim=True) * _unit(encoder).nan_to_num(0.0)
    else:
        along = decoder.norm(dim=(1, 2), keepdim=True) * _unit(encoder.flatten(1)).nan_to_num(0.0).view_as(encoder)
    return replace(crosscoder, W_dec=along.contiguous())


@own_settings
def encoder_decoder_effects(
    setup: Setup,
    prompts: Texts,
    method: DecoderMethod | None = None,
    features: Sequence[int] | None = None,
    norms: str = "decoder",
    seed: int | None = 0,
    tokens: str | TokenScope = "all",
    max_new_tokens: int = 24,
    progress: bool = True,
    output_dir: str | Path | None = None,
    ray: Workers | None = None,
) -> pd.DataFrame:
    """Ablate each feature that fires along its decoder, along its encoder, and along random directions, and compare.

    All three subtract the same multiple, the feature's activation in the untouched run times the method's scale, at the same
    tokens. Norms are equal at each hook point, so that a difference is the direction's and not the size's or the place's.

    Args:
        setup: From `load`.
        prompts: Prompts to complete greedily; with choices to follow, training prompts.
        method: `ManyLayers` or `SingleLayer` with scales, or a method of your own that adds fixed directions; by default
            `ManyLayers(1.0)`.
        features: Features to try; None means all.
        norms: How an edit along the encoder is split over hook points; see `along_encoder`.
        seed: Of the random directions, which are others for each feature; None leaves them out.
        tokens: Where to ablate, as in an intervention.
        max_new_tokens: Length of completions.
        progress: Whether to show progress bars.
        output_dir: As for `screen`; all directions share the folder.
        ray: As for `screen`.

    Returns:
        One row per feature that fires on the untouched prompts or completions, strongest decoder edit first: `feature`;
        `fires` and `last_token` as in `screen`; `cosine` of the decoder edit and the encoder edit over all hook points that
        are edited (NaN if one of them is zero); and the effects `kl`, `cross_entropy_change`, `phrase_rate`, `story_rate` and
        `relative_edit_norm` of `screen`, each with the ending `_decoder`, `_encoder` or `_random`.

    Raises:
        ValueError: If no feature fires, the method does not add fixed directions, or `screen` refuses an argument.
        IndexError: If a feature does not exist.

    Example:
        >>> effects = encoder_decoder_effects(setup, setup.prompts(4, deployment=True, split="train"))
        >>> effect_scatter(effects, features)
    """
    crosscoder, prompts = checked_setup(setup).crosscoder, texts("prompts", prompts)
    method = ManyLayers(1.0) if method is None else method
    seed = None if seed is None else whole_number("seed", seed)
    _check_method(method)
    along = along_encoder(crosscoder, norms)
    setups = {"decoder": setup, "encoder": replace(setup, crosscoder=along)}
    if seed is not None:
        drawn = replace(crosscoder, W_dec=random_like(crosscoder.W_dec, seed))
        setups["random"] = replace(setup, crosscoder=drawn)
    options = {"tokens": tokens, "max_new_tokens": max_new_tokens, "output_dir": output_dir, "ray": ray}
    options |= {"progress": flag("progress", progress)}
    table = pd.DataFrame()
    for name, own in setups.items():
        found = screen(own, prompts, method, features=features, **options)
        found = found[found["ran"]].set_index("feature")
        if not len(found):
            raise ValueError(f"none of {_number_of(features, crosscoder)} features fires on these prompts; give others")
        ended = found[_EFFECTS].add_suffix(f"_{name}")
        table = found[["fires", "last_token"]].join(ended) if table.empty else table.join(ended)
    edits = [method.directions(one.W_dec[list(table.index)]).flatten(1) for one in (crosscoder, along)]
    table.insert(2, "cosine", (_unit(edits[0]) * _unit(edits[1])).sum(-1).double().cpu().numpy())
    return table.sort_values("kl_decoder", ascending=False, kind="stable").reset_index()


def agreement(effects: pd.DataFrame, least: float = 1e-4) -> pd.Series:
    """How well the effects of decoder and encoder edits agree over features.

    Args:
        effects: From `encoder_decoder_effects`.
        least: In nats. Features are left out of which neither edit has a KL of so much, such as those that fire on the
            completion only: their KLs are rounding errors. So are features of which a KL is unknown.

    Returns:
        `features`, their number; `spearman`, the rank correlation of the two KLs; `decoder_stronger`, the share of features
        whose decoder edit has the larger KL; `ratio`, the median of encoder's over decoder's KL; `ratio_random`, the same of
        random directions (NaN without any).

    Raises:
        ValueError: If fewer than 3 features are left.
    """
    needed, least = ["kl_decoder", "kl_encoder"], finite_number("least", least, 0)
    effects = checked_table("effects", effects, needed, ["kl_random"], [*needed, "kl_random"]).dropna(subset=needed)
    effects = effects[effects[needed].max(axis=1) >= least]
    if len(effects) < 3:
        raise ValueError(f"{len(effects)} features have a KL of {least:g} nats or more, too few to compare; lower least=")
    decoder, encoder = (effects[name].clip(lower=np.finfo(np.float32).tiny) for name in needed)
    return pd.Series(
        {
            "features": len(effects),
            "spearman": decoder.rank().corr(encoder.rank()),
            "decoder_stronger": (decoder > encoder).mean(),
            "ratio": (encoder / decoder).median(),
            "ratio_random": (effects["kl_random"] / decoder).median(),
        }
    )


def _check_method(method: DecoderMethod) -> None:
    if not isinstance(method, DecoderMethod) or method.searches:
        raise ValueError(
            f"method={shown(method)} does not add fixed directions, so that norms would differ; use ManyLayers or SingleLayer "
            "with a scale that is a number"
        )
    if getattr(method, "random", None) is not None:
        raise ValueError(f"random={method.random} of the method replaces the directions to compare; give seed= instead")


def _encoder(crosscoder: Crosscoder) -> Float[Tensor, "feature point d_model"]:
    encoder = crosscoder.W_enc.permute(2, 0, 1)
    return encoder - encoder.mean(-1, keepdim=True) if crosscoder.center else encoder


def _unit(vectors: Float[Tensor, "*any d_model"]) -> Float[Tensor, "*any d_model"]:
    """Vectors of norm 1; NaN in place of a vector of zeros."""
    return vectors / vectors.norm(dim=-1, keepdim=True)


def _number_of(features: Sequence[int] | None, crosscoder: Crosscoder) -> int:
    return crosscoder.n_features if features is None else len(features)
