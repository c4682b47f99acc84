"""A feature on one card: where it fires, what it writes to the stream and to the logits, and what fires beside it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from crosscoder_utils.analysis.discovery import EncodedText
from crosscoder_utils.engine.plain import plain
from crosscoder_utils.loading import Setup

N_BINS = 30


@dataclass(frozen=True, eq=False)
class Context:
    """The tokens around the one on which a feature fires most strongly in a text.

    Attributes:
        text: Which of the texts, from 0.
        position: Of that token in its text, from 0, BOS left out.
        tokens: Those of the window.
        activations: Of the feature on them.
    """

    text: int
    position: int
    tokens: list[str]
    activations: Float[np.ndarray, " token"]


@dataclass(frozen=True, eq=False)
class FeatureCard:
    """What there is to know of a feature from its weights and from some texts.

    A feature that fires on no token has rates of 0, an empty histogram and no contexts; its weights are there all the same.

    Attributes:
        feature: Its index.
        n_texts: How many texts were looked at.
        n_tokens: And how many tokens in all, BOS left out.
        firing_rate: Share of the tokens on which it fires.
        mean_activation: Over the tokens on which it fires.
        max_activation: The largest.
        bin_edges: Of the histogram of its activations: 30 equal bins from 0 to the largest.
        bin_counts: Tokens in each bin; those on which it does not fire are left out.
        contexts: From the texts in which it fires most strongly, one each, best first; of texts that are equal up to the
            strongest token, the first.
        hook_points: Of the model's, those that the crosscoder reads and writes: 0 after the embedding, l after block l.
        decoder_norms: Length of the decoder vector at each hook point: what one unit of activation adds to the stream.
        decoder_encoder_cosines: Of the decoder vector and the encoder vector at each hook point.
        promoted: Tokens whose logits rise most with it: `token`, `effect`; see `direct_effect`.
        suppressed: Tokens whose logits fall most.
        co_firing: Features that fire on the same tokens, by the Jaccard index: `feature`; `jaccard`, tokens on which both
            fire as a share of those on which either does; `share`, as a share of those on which this feature does;
            `share_of_other`, of those on which the other does.
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


@torch.no_grad()
def feature_card(
    setup: Setup,
    encoded_texts: Sequence[EncodedText],
    feature: int,
    n_contexts: int = 5,
    window: tuple[int, int] = (20, 10),
    n_best: int = 8,
) -> FeatureCard:
    """Put together all that is on the card of `feature`.

    Args:
        setup: Model and crosscoder.
        encoded_texts: From `encode_texts`; where the feature fires, and with which others, is counted on them.
        feature: Its index.
        n_contexts: Most contexts.
        window: Tokens shown before and after the strongest one.
        n_best: Most promoted and suppressed tokens, and co-firing features.

    Raises:
        IndexError: If there is no such feature.
        ValueError: If the texts have no token.
    """
    crosscoder = setup.crosscoder
    feature = crosscoder.check_feature(feature)
    n_tokens = sum(len(t.tokens) for t in encoded_texts)
    if not n_tokens:
        raise ValueError(f"{len(encoded_texts)} texts without a token say nothing of feature {feature}; give some text")
    activations = torch.cat([t.activations[:, feature] for t in encoded_texts])
    fired = activations[activations > 0].double().numpy()
    edges = np.linspace(0, fired.max(), N_BINS + 1) if len(fired) else np.zeros(0)
    decoder, encoder = crosscoder.W_dec[feature].float().cpu(), crosscoder.W_enc[..., feature].float().cpu()
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
        decoder_encoder_cosines=torch.cosine_similarity(decoder, encoder, dim=-1).numpy(),
        promoted=_best_tokens(setup, effects, n_best),
        suppressed=_best_tokens(setup, -effects, n_best).assign(effect=lambda table: -table["effect"]),
        co_firing=co_firing(encoded_texts, feature, n_best),
    )


@torch.no_grad()
def direct_effect(setup: Setup, feature: int) -> Float[Tensor, " vocab"]:
    """What one unit of activation of `feature` adds to each logit directly, up to the final norm's division.

    The decoder vector at the crosscoder's last hook point goes through the scale of the final norm (a LayerNorm removes its
    mean and multiplies by weights, an RMS norm only multiplies) and the unembedding. The norm also divides the stream by
    its size, which differs from token to token: divide by that for a change in logits, which holds for small changes. If the
    crosscoder reads the model's last hook point, this is all that the term there does. If not, its last one is taken, and
    what the blocks after it make of the vector is left out.

    Returns:
        One value for each token of the tokenizer, in units of logit x size of the stream, float32 on the CPU.

    Raises:
        IndexError: If there is no such feature.
    """
    causal_lm = plain(setup.model).causal_lm
    norm = causal_lm.get_submodule(setup.model.adapter.component_mapping["ln_final"].name)
    unembedding = causal_lm.get_output_embeddings().weight[: len(setup.tokenizer)]
    vector = setup.crosscoder.W_dec[setup.crosscoder.check_feature(feature), -1]

    def scale_only(x: Tensor) -> Tensor:
        x = x.to(unembedding.dtype)
        return (norm(x) - norm(torch.zeros_like(x))).to(vector.dtype)

    # Norms differ in where their weights are and what is added to them, so the norm itself is asked what it does.
    if torch.allclose(scale_only(torch.ones_like(vector)), torch.zeros_like(vector), atol=1e-4):
        vector = vector - vector.mean()
    # Of size 1 it is divided by 1, and the norm's epsilon does not count.
    size = vector.pow(2).mean().sqrt().clamp(min=1e-12)
    return (unembedding.to(vector.dtype) @ (scale_only(vector / size) * size)).float().cpu()


def co_firing(encoded_texts: Sequence[EncodedText], feature: int, n: int = 8) -> pd.DataFrame:
    """The features that most share their tokens with `feature`; columns as in `FeatureCard.co_firing`."""
    n_features = encoded_texts[0].activations.shape[1]
    both, fires = torch.zeros(n_features, dtype=torch.long), torch.zeros(n_features, dtype=torch.long)
    for t in encoded_texts:
        active = t.activations > 0
        fires += active.sum(0)
        both += active[active[:, feature]].sum(0)
    either = fires + fires[feature] - both
    table = pd.DataFrame(
        {
            "feature": np.arange(n_features),
            "jaccard": (both / either.clamp(min=1)).numpy(),
            "share": (both / fires[feature].clamp(min=1)).numpy(),
            "share_of_other": (both / fires.clamp(min=1)).numpy(),
        }
    )
    others = table[(table["jaccard"] > 0) & (table["feature"] != feature)]
    return others.sort_values("jaccard", ascending=False, kind="stable").head(n).reset_index(drop=True)


def _contexts(encoded_texts: Sequence[EncodedText], feature: int, n: int, window: tuple[int, int]) -> list[Context]:
    best = [t.activations[:, feature].max(dim=0) if t.tokens else None for t in encoded_texts]
    firing = [i for i, found in enumerate(best) if found is not None and found.values > 0]
    contexts, seen = [], set()
    for i in sorted(firing, key=lambda i: -float(best[i].values)):
        t, position = encoded_texts[i], int(best[i].indices)
        # After the same tokens the feature does the same: texts that differ later only are no further evidence.
        read = tuple(t.tokens[: position + 1])
        if read in seen or len(contexts) == n:
            continue
        seen.add(read)
        around = slice(max(position - window[0], 0), position + window[1] + 1)
        contexts.append(Context(i, position, t.tokens[around], t.activations[around, feature].numpy()))
    return contexts


def _best_tokens(setup: Setup, effects: Float[Tensor, " vocab"], n: int) -> pd.DataFrame:
    values, ids = effects.topk(min(n, len(effects)))
    return pd.DataFrame({"token": [setup.tokenizer.decode([i]) for i in ids.tolist()], "effect": values.numpy()})
