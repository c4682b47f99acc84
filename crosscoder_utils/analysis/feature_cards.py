"""Feature cards: where a feature fires, what it writes to the residual stream and the logits, and what fires with it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from crosscoder_utils.analysis.argument_checks import checked_feature, checked_setup
from crosscoder_utils.analysis.encoded_texts import EncodedText, with_feature
from crosscoder_utils.analysis.encoder_decoder import encoder_decoder_cosines
from crosscoder_utils.analysis.sparse_activations import SparseActivations
from crosscoder_utils.hooks import plain, read
from crosscoder_utils.io.tokens import token_ids, token_texts
from crosscoder_utils.io.torch_defaults import own_settings
from crosscoder_utils.io.validation import instances, whole_number, whole_numbers
from crosscoder_utils.loading import Setup

N_BINS = 30


@dataclass(frozen=True, eq=False)
class Context:
    """The tokens around a feature's maximum activation in a text.

    Attributes:
        text: Index of the text.
        position: Position of the maximum in the text, counted from 0 without BOS.
        tokens: The tokens in the window.
        activations: The feature's activations on these tokens.
    """

    text: int
    position: int
    tokens: list[str]
    activations: Float[np.ndarray, " token"]


@dataclass(frozen=True, eq=False)
class FeatureCard:
    """A description of one feature, from its weights and from its activations on some texts.

    For a feature that never fires, the rates are 0, the histogram and the contexts are empty, and the weights are as usual.

    Attributes:
        feature: Number of the feature.
        n_texts: Number of texts.
        n_tokens: Number of their tokens, BOS excluded.
        firing_rate: Share of the tokens on which it fires.
        mean_activation: Mean over the tokens on which it fires.
        max_activation: Largest activation.
        bin_edges: Edges of the activation histogram: 30 equal bins from 0 to the largest activation.
        bin_counts: Number of tokens per bin; tokens on which it does not fire are not counted.
        contexts: Windows around its strongest activations, at most one per text, strongest first. Of texts that are equal up
            to the strongest token, only the first is shown.
        hook_points: The model's hook points that the crosscoder covers: 0 is after the embedding, l after block l.
        decoder_norms: Norm of the decoder vector at each hook point: what one unit of activation adds to the residual stream.
        decoder_encoder_cosines: Cosine of decoder and encoder vector at each hook point; see `encoder_decoder_cosines`.
        promoted: Tokens with the largest direct logit effect: `token`, `effect`; see `direct_effect`.
        suppressed: Tokens with the most negative direct logit effect.
        co_firing: Features that fire on the same tokens, by Jaccard index: `feature`; `jaccard`, the tokens on which both fire
            as a share of the tokens on which either fires; `share`, as a share of this feature's tokens; `share_of_other`, as
            a share of the other feature's tokens.
    """

    feature: int
    n_texts: int
    n_tokens: int
    firing_rate: float
    mean_activation: float
    max_activation: float
    bin_edges: Float[np.ndarray, " edge"]
    bin_counts: Int[np.ndarray, " bin"]
    contexts: list[Context]
    hook_points: tuple[int, ...]
    decoder_norms: Float[np.ndarray, " point"]
    decoder_encoder_cosines: Float[np.ndarray, " point"]
    promoted: pd.DataFrame
    suppressed: pd.DataFrame
    co_firing: pd.DataFrame


@own_settings
@torch.no_grad()
def feature_card(
    setup: Setup,
    encoded_texts: Sequence[EncodedText],
    feature: int,
    n_contexts: int = 5,
    window: tuple[int, int] = (20, 10),
    n_best: int = 8,
) -> FeatureCard:
    """Make the card of `feature`.

    Args:
        setup: From `load`.
        encoded_texts: From `encode_texts`; all activation statistics are computed on these texts.
        feature: Number of the feature.
        n_contexts: Maximum number of contexts.
        window: Number of tokens shown before and after the strongest one.
        n_best: Maximum number of promoted tokens, of suppressed tokens, and of co-firing features.

    Raises:
        IndexError: If the crosscoder has no such feature.
        ValueError: If the texts have no token.
    """
    crosscoder = checked_setup(setup).crosscoder
    feature = checked_feature(feature, crosscoder.n_features)
    n_contexts, n_best = whole_number("n_contexts", n_contexts), whole_number("n_best", n_best, 1)
    window = tuple(whole_numbers("window", window))
    if len(window) != 2:
        raise ValueError(f"window={window} must be two numbers of tokens, before and after the strongest one")
    encoded_texts = instances("encoded_texts", encoded_texts, EncodedText, "make it with encode_texts(setup, texts)")
    n_tokens = sum(len(t.tokens) for t in encoded_texts)
    if not n_tokens:
        raise ValueError(
            f"{len(encoded_texts)} texts without a token are too few for the card of feature {feature}; give texts"
        )
    activations = torch.cat([t.active.of_feature(feature) for t in encoded_texts])
    fired = activations[activations > 0].double().numpy()
    edges = np.linspace(0, fired.max(), N_BINS + 1) if len(fired) else np.zeros(0)
    decoder = crosscoder.W_dec[feature].float().cpu()
    effects = direct_effect(setup, feature)
    return FeatureCard(
        feature=feature,
        n_texts=len(encoded_texts),
        n_tokens=n_tokens,
        firing_rate=len(fired) / n_tokens,
        mean_activation=float(fired.mean()) if len(fired) else 0.0,
        max_activation=float(fired.max()) if len(fired) else 0.0,
        bin_edges=edges,
        bin_counts=np.histogram(fired, edges)[0] if len(fired) else np.zeros(0, int),
        contexts=_contexts(encoded_texts, feature, n_contexts, window),
        hook_points=setup.hook_points,
        decoder_norms=decoder.norm(dim=-1).numpy(),
        decoder_encoder_cosines=encoder_decoder_cosines(crosscoder, [feature])[0].float().cpu().numpy(),
        promoted=_best_tokens(setup, effects, n_best),
        suppressed=_best_tokens(setup, -effects, n_best).assign(effect=lambda table: -table["effect"]),
        co_firing=co_firing(encoded_texts, feature, n_best),
    )


@own_settings
@torch.no_grad()
def direct_effect(setup: Setup, feature: int) -> Float[Tensor, " vocab"]:
    """Direct logit effect: what one unit of activation of `feature` adds to each logit, before the final norm's division.

    The decoder vector at the crosscoder's last hook point is multiplied by the weights of the final norm (after subtracting
    its mean, for a LayerNorm), by the unembedding and by the factor that some models put on their logits; a cap on the logits
    is left out. The norm also divides the residual stream by its size, which differs
    between tokens. For small changes, the change in logits is this effect divided by that size.

    The effect is exact in this sense if the crosscoder covers the model's last hook point. Otherwise the last hook point that
    it covers is used, and what later blocks do with the vector is ignored.

    Returns:
        One value per token of the tokenizer, in units of logit x size of the residual stream, float32 on the CPU.

    Raises:
        IndexError: If the crosscoder has no such feature.
    """
    model = plain(checked_setup(setup).model)
    norm = model.final_norm
    unembedding = model.causal_lm.get_output_embeddings().weight[: len(setup.tokenizer)]
    vector = setup.crosscoder.W_dec[checked_feature(feature, setup.crosscoder.n_features), -1]

    def scale_only(x: Tensor) -> Tensor:
        x = x.to(unembedding.dtype)
        return (norm(x) - norm(torch.zeros_like(x))).to(vector.dtype)

    # Norms differ in where their weights are and in what is added to them, so the norm is evaluated instead of read.
    if torch.allclose(scale_only(torch.ones_like(vector)), torch.zeros_like(vector), atol=1e-4):
        vector = vector - vector.mean()
    # A vector of size 1 is divided by 1, and the norm's epsilon is negligible.
    size = vector.pow(2).mean().sqrt().clamp(min=1e-12)
    effect = unembedding.to(vector.dtype) @ (scale_only(vector / size) * size)
    return _logit_scale(setup) * effect.float().cpu()


def _logit_scale(setup: Setup) -> float:
    """The factor between unembedding and logits, such as Granite's or Cohere's, as the model itself applies it."""
    model, ids = plain(setup.model), token_ids(setup.tokenizer, "Once upon a time")
    result = read(model, torch.tensor([ids], device=setup.device), logits=True)
    last = result.captured[-1]
    raw = model.causal_lm.get_output_embeddings()(model.final_norm(last)).float().flatten()
    # A cap on the logits hardly bends the small ones.
    small = raw.abs().argsort()[: max(len(raw) // 8, 1)]
    return float((result.logits.float().flatten()[small] * raw[small]).sum() / raw[small].square().sum())


def co_firing(encoded_texts: Sequence[EncodedText], feature: int, n: int = 8) -> pd.DataFrame:
    """The `n` features with the highest Jaccard index with `feature`; columns as in `FeatureCard.co_firing`."""
    encoded_texts, feature, n = *with_feature(encoded_texts, feature), whole_number("n", n)
    active = SparseActivations.joined([t.active for t in encoded_texts])
    fires, both = active.counts(), active.of_tokens(active.of_feature(feature) > 0).counts()
    either = fires + fires[feature] - both
    table = pd.DataFrame(
        {
            "feature": np.arange(active.n_features),
            "jaccard": (both / either.clamp(min=1)).numpy(),
            "share": (both / fires[feature].clamp(min=1)).numpy(),
            "share_of_other": (both / fires.clamp(min=1)).numpy(),
        }
    )
    others = table[(table["jaccard"] > 0) & (table["feature"] != feature)]
    return others.sort_values("jaccard", ascending=False, kind="stable").head(n).reset_index(drop=True)


def _contexts(encoded_texts: Sequence[EncodedText], feature: int, n: int, window: tuple[int, int]) -> list[Context]:
    values = [t.active.of_feature(feature) for t in encoded_texts]
    best = [own.max(dim=0) if len(own) else None for own in values]
    firing = [i for i, found in enumerate(best) if found is not None and found.values > 0]
    contexts, seen = [], set()
    for i in sorted(firing, key=lambda i: -float(best[i].values)):
        t, position = encoded_texts[i], int(best[i].indices)
        # Equal tokens give equal activations, so a text that differs only later is no further evidence.
        read = tuple(t.tokens[: position + 1])
        if read in seen or len(contexts) == n:
            continue
        seen.add(read)
        around = slice(max(position - window[0], 0), position + window[1] + 1)
        contexts.append(Context(i, position, t.tokens[around], values[i][around].numpy()))
    return contexts


def _best_tokens(setup: Setup, effects: Float[Tensor, " vocab"], n: int) -> pd.DataFrame:
    values, ids = effects.topk(min(n, len(effects)))
    first = token_ids(setup.tokenizer, "a")  # some tokenizers leave out a blank at the beginning of a text, but not inside it
    tokens = [token_texts(setup.tokenizer, [*first, i])[-1] or setup.tokenizer.decode([i]) for i in ids.tolist()]
    return pd.DataFrame({"token": tokens, "effect": values.numpy()})
