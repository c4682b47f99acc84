"""Feature absorption (Chanin et al. 2024, arxiv.org/abs/2409.14507): tokens that should fire a feature and do not.

A *hole* of a feature is a token string on which it does not fire although it fires on both sides. Whether a hole is
absorption is a second question, with two measured answers. Is what the feature stands for there at all? A linear probe says
so, fitted on all other token strings. And does another feature that fires there write the feature's decoder direction?
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crosscoder_utils.analysis.argument_checks import checked_feature, checked_setup, checked_texts
from crosscoder_utils.analysis.metrics import content_residuals
from crosscoder_utils.analysis.screen_rows import ScreenOptions, effects
from crosscoder_utils.interventions import Ablate, Intervention
from crosscoder_utils.io.error_messages import shown
from crosscoder_utils.io.tokens import token_texts
from crosscoder_utils.io.torch_defaults import own_settings
from crosscoder_utils.io.validation import Texts, finite_number, texts, whole_number
from crosscoder_utils.loading import Setup
from crosscoder_utils.methods import ManyLayers, SingleLayer
from crosscoder_utils.methods.statistics import RIDGE

PRESENT = 0.5
"""From here on, a probe counts a feature as present: nearer to tokens on which it fires than to the others."""
CARRIED = 0.25
"""Share of a feature's usual activation that another one has to write in its place to count as absorbing it."""
_ON_HOLES = 0.9  # share of the holes on which an absorbing feature fires at least


@dataclass(frozen=True, eq=False)
class _Tokens:
    """All tokens of some texts, one after the other.

    Attributes:
        strings: The different token strings.
        ids: Each token's string.
        inner: Whether a token has neighbours on both sides in its text.
        stream: The residual stream without its mean over tokens.
        activations: Feature activations.
    """

    strings: list[str]
    ids: Int[Tensor, " token"]
    inner: Bool[Tensor, " token"]
    stream: Float[Tensor, "token point d_model"]
    activations: Float[Tensor, "token feature"]

    def between(self) -> Bool[Tensor, "token feature"]:
        """Where features fire on both neighbours of a token."""
        fires = self.activations > 0
        both = torch.zeros_like(fires)
        both[1:-1] = fires[:-2] & fires[2:]
        return both & self.inner[:, None]


@own_settings
@torch.no_grad()
def find_holes(setup: Setup, texts: Texts, least: int = 10, most: float = 0.05) -> pd.DataFrame:
    """Look for holes of all features: token strings inside what they fire on, on which they do not fire.

    A hole at the end of what a feature fires on is not seen, nor one of several tokens.

    Args:
        setup: From `load`.
        texts: Training texts, such as `setup.examples` gives. Their residual stream and activations are kept in memory.
        least: How often a token string has to stand between two tokens on which the feature fires.
        most: Share of these occurrences on which the feature may fire nevertheless.

    Returns:
        One row per feature and token string, absorbed ones first, then by `presence`:

        - `feature`, `token`; `inside`, the occurrences between two tokens on which the feature fires; `holes`, those of them on
          which it does not; `fires`, the share of all tokens on which it does
        - `presence`: what a linear probe for the feature's firing reads on the holes, 0 as on other tokens, 1 as on tokens on
          which it fires. The probe is a linear discriminant (hook points taken to be independent), fitted on all tokens of
          other strings
        - `beside`, the string on which the feature fires most often next to its holes, and `presence_beside`, the same
          measure where it fires on that string, by a probe fitted without it: what to expect where the feature is present.
          Both measures are NaN if the feature fires on no other string
        - `absorbing`: of the features that fire on 90 % of the holes or more, the one with the largest `carried` (missing if
          there is none): what it writes along the feature's decoder vectors on the holes, beyond what it writes next to them,
          as a share of the feature's usual activation. `absorbing_on_token`, the share of its own firing that is on this
          string, and `decoder_cosine` of the two features, over all hook points
        - `absorbed`: whether both measures of presence are 0.5 or more and `carried` 0.25 or more

    Raises:
        ValueError: If a text is empty or longer than the context, or an argument is out of range.

    Example:
        >>> table = find_holes(setup, setup.examples(100, deployment=True, split="train"))
        >>> table[table["feature"] == features["tag"]]
    """
    checked_setup(setup)
    least, most = whole_number("least", least, 1), finite_number("most", most, 0, 1)
    tokens = _read(setup, texts)
    rows = _counted(tokens, least, most)
    W_dec = setup.crosscoder.W_dec.flatten(1).cpu()
    measured = []
    probe = _Probes(tokens)
    between, fires = tokens.between(), tokens.activations > 0
    for feature, string in zip(rows["feature"], rows["string"], strict=True):
        at = between[:, feature] & (tokens.ids == string) & ~fires[:, feature]
        beside = _beside(tokens, fires[:, feature], at)
        own = {"presence": probe.presence(feature, string, at), "beside": tokens.strings[beside]}
        own["presence_beside"] = probe.presence(feature, beside, fires[:, feature] & (tokens.ids == beside))
        measured.append(own | _absorbing(tokens, W_dec, feature, string, at))
    columns = ["presence", "beside", "presence_beside", "absorbing", "absorbing_on_token", "decoder_cosine", "carried"]
    table = rows.assign(token=[tokens.strings[string] for string in rows["string"]]).drop(columns="string")
    table = table.join(pd.DataFrame(measured, columns=columns).astype({"absorbing": "Int64"}))
    present = table[["presence", "presence_beside"]].min(axis=1, skipna=False) >= PRESENT
    table["absorbed"] = present & (table["carried"] >= CARRIED)
    table.insert(1, "token", table.pop("token"))
    return table.sort_values(["absorbed", "presence"], ascending=False, kind="stable", ignore_index=True)


@own_settings
def hole_effects(
    setup: Setup,
    prompts: Texts,
    feature: int,
    absorbing: int,
    method: ManyLayers | SingleLayer | None = None,
    max_new_tokens: int = 24,
    seed: int = 0,
) -> pd.DataFrame:
    """What ablating a feature does, the one that fires in its hole, and both at once.

    Args:
        setup: From `load`.
        prompts: Prompts to complete greedily; training prompts, if anything is chosen by the result.
        feature: A feature with a hole.
        absorbing: The feature that fires there.
        method: By default `ManyLayers(1.0)`.
        max_new_tokens: Length of completions.
        seed: Of the control's random directions, which have the norms of ablating both.

    Returns:
        One row per `ablated` ("nothing", "feature", "absorbing", "both", "random directions"), with means over the prompts:
        `kl` of the completion's first token, `cross_entropy`, `phrase_rate`, `story_rate` and `relative_edit_norm`, as in
        `screen`; what the setup cannot know is NaN.

    Raises:
        ValueError: If the two are one feature, a prompt is empty or too long, or an argument is out of range.
        IndexError: If a feature or hook point does not exist.
    """
    n_features, prompts = checked_setup(setup).crosscoder.n_features, texts("prompts", prompts)
    feature, absorbing = (checked_feature(one, n_features) for one in (feature, absorbing))
    if feature == absorbing:
        raise ValueError(f"feature={feature} and absorbing={absorbing} are one feature; give two, from a row of find_holes")
    if not prompts:
        raise ValueError("prompts=[] leaves nothing to run; give at least one")
    method = ManyLayers(1.0) if method is None else method
    if not isinstance(method, (ManyLayers, SingleLayer)) or method.searches or method.random is not None:
        raise ValueError(f"method={shown(method)} must have a scale that is a number and no random=; use ManyLayers(1.0)")
    method.check(setup.crosscoder)
    both, max_new_tokens = (feature, absorbing), whole_number("max_new_tokens", max_new_tokens, 1)
    for prompt in prompts:
        setup.token_ids(prompt, room_for=max_new_tokens)
    control = type(method)(**method.parameters | {"random": whole_number("seed", seed)})
    ablated: dict[str, Intervention | None] = {
        "nothing": None, "feature": Ablate(feature, method), "absorbing": Ablate(absorbing, method),
        "both": Ablate(both, method), "random directions": Ablate(both, control),
    }  # fmt: skip
    rows = [(one, prompt) for one in ablated.values() for prompt in prompts]
    found = effects(setup, rows, ScreenOptions(max_new_tokens, 0, "target"))
    found = found.rename(columns={"says_phrase": "phrase_rate", "is_story": "story_rate"})
    found.loc[found["intervention"] == "none", "relative_edit_norm"] = 0.0
    columns = ["kl", "cross_entropy", "phrase_rate", "story_rate", "relative_edit_norm"]
    names = pd.Series(np.repeat(list(ablated), len(prompts)), name="ablated")
    return found[columns].astype(float).groupby(names, sort=False).mean().reset_index()


def _read(setup: Setup, given: Texts) -> _Tokens:
    checked = checked_texts(setup, given)
    streams = list(content_residuals(setup, checked))
    activations = torch.cat([setup.crosscoder.encode(one).cpu() for one in streams])
    stream = torch.cat([one.cpu() for one in streams]).to(activations.dtype)
    strings, ids = np.unique([token for text in checked for token in token_texts(setup.tokenizer, text)], return_inverse=True)
    ends = torch.tensor([len(one) for one in streams]).cumsum(0) - 1
    inner = torch.ones(len(stream), dtype=torch.bool)
    inner[ends], inner[[0, *(ends[:-1] + 1).tolist()]] = False, False
    return _Tokens([str(one) for one in strings], torch.from_numpy(ids), inner, stream - stream.mean(0), activations)


def _counted(tokens: _Tokens, least: int, most: float) -> pd.DataFrame:
    """The holes: `feature`, `string`, `inside`, `holes`, and `fires` of the feature."""
    between, fires = tokens.between(), tokens.activations > 0
    shape = len(tokens.strings), fires.shape[1]
    inside, holes = (
        torch.zeros(shape, dtype=torch.int32).index_add_(0, tokens.ids, x.int()) for x in (between, between & ~fires)
    )
    # A character's later tokens have no string of their own.
    named = torch.tensor([bool(string) for string in tokens.strings])[:, None]
    strings, features = torch.nonzero((inside >= least) & (inside - holes <= most * inside) & named, as_tuple=True)
    table = {"feature": features, "string": strings, "inside": inside[strings, features], "holes": holes[strings, features]}
    table["fires"] = fires.float().mean(0)[features]
    return pd.DataFrame({name: column.numpy() for name, column in table.items()})


def _beside(tokens: _Tokens, fires: Bool[Tensor, " token"], at: Bool[Tensor, " token"]) -> int:
    """The string on which a feature fires most often beside its holes."""
    holes = torch.nonzero(at)[:, 0]
    counts = torch.bincount(tokens.ids[torch.cat([holes - 1, holes + 1])], minlength=len(tokens.strings))
    return int(counts.argmax())


def _absorbing(
    tokens: _Tokens, W_dec: Float[Tensor, "feature flat"], feature: int, string: int, at: Bool[Tensor, " token"]
) -> dict:
    """Which feature writes a feature's decoder direction in its place, on its holes, and how much of it."""
    holes, own, fires = torch.nonzero(at)[:, 0], W_dec[feature], tokens.activations[:, feature] > 0
    on_holes, beside = tokens.activations[holes], tokens.activations[torch.cat([holes - 1, holes + 1])]
    usual = tokens.activations[fires, feature].mean()
    along = (W_dec @ own) / own.square().sum()
    carried = (on_holes.mean(0) - beside.mean(0)) * along / usual
    carried = carried.masked_fill((on_holes > 0).float().mean(0) < _ON_HOLES, -torch.inf)
    best = int(carried.argmax())
    if not carried[best].isfinite():  # none fires there, or the decoder vectors are zero
        return {}
    its_fires = tokens.activations[:, best] > 0
    numbers = {
        "absorbing_on_token": its_fires[tokens.ids == string].sum() / its_fires.sum(),
        "decoder_cosine": torch.cosine_similarity(own, W_dec[best], dim=0),
        "carried": carried[best],
    }
    return {"absorbing": best} | {name: float(value) for name, value in numbers.items()}


class _Probes:
    """Linear discriminants of whether a feature fires, each fitted without one token string."""

    def __init__(self, tokens: _Tokens) -> None:
        self.tokens, stream = tokens, tokens.stream
        self.fires = tokens.activations > 0
        self.products = torch.einsum("tpd,tpe->pde", stream, stream)
        self.factor = lru_cache(maxsize=64)(self._factor)  # rows of one string share it

    def presence(self, feature: int, string: int, at: Bool[Tensor, " token"]) -> float:
        """Mean reading on the tokens `at`, all of one string, which the probe has not seen: 0 as off, 1 as on."""
        stream, seen = self.tokens.stream, self.tokens.ids != string
        on, n_on = stream[self.fires[:, feature] & seen], int((self.fires[:, feature] & seen).sum())
        n_off = int(seen.sum()) - n_on
        if not n_on or not n_off:
            return np.nan
        middle = -(on.sum(0) + stream[~seen].sum(0)) / n_off  # of all tokens together the sum is 0
        apart = on.mean(0) - middle
        probe = torch.cholesky_solve(apart[..., None], self.factor(string))[..., 0]
        return float(((stream[at].mean(0) - middle) * probe).sum() / (apart * probe).sum())

    def _factor(self, string: int) -> Float[Tensor, "point d_model d_model"]:
        """Cholesky factor of the covariance at each hook point, over the tokens of all other strings."""
        stream, left_out = self.tokens.stream, self.tokens.ids == string
        some, n = stream[left_out], len(stream) - int(left_out.sum())
        mean = -some.sum(0) / n
        covariance = (self.products - torch.einsum("tpd,tpe->pde", some, some)) / n - mean[:, :, None] * mean[:, None]
        ridge = RIDGE * covariance.diagonal(dim1=1, dim2=2).mean(1)
        return torch.linalg.cholesky(covariance + ridge[:, None, None] * torch.eye(stream.shape[-1], dtype=stream.dtype))
