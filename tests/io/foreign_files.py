"""Folders that other libraries wrote, and small ones in their layouts with the results by their formulas."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from crosscoder_utils import Crosscoder, load_crosscoder

COPIES = Path(__file__).parent / "real_files"
CHECKPOINTS = Path(__file__).parents[3] / "shared" / "checkpoints"  # all of them, where they are beside the repository
POINTS, D_MODEL, FEATURES = 3, 8, 20


def real_folder(name: str) -> Path:
    """A folder that a library wrote; skips the test where it is not there."""
    for root in (CHECKPOINTS, COPIES):
        if (root / name).is_dir():
            return root / name
    pytest.skip(f"{name} is not beside the repository")


def inputs(*shape: int, seed: int = 1) -> Tensor:
    return 3 * torch.randn(50, *shape, generator=torch.Generator().manual_seed(seed))


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + 7 * len(shape) + sum(shape)))


def check(crosscoder: Crosscoder, raw: Tensor, activations: Tensor, reconstruction: Tensor) -> None:
    """The crosscoder computes these activations and this reconstruction, on raw input; some features are active, not all."""
    assert 0 < (activations != 0).float().mean() < 1
    assert crosscoder.W_enc.dtype == torch.float32
    torch.testing.assert_close(crosscoder.encode(raw), activations, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(crosscoder.decode(crosscoder.encode(raw)), reconstruction, atol=1e-5, rtol=1e-5)


def refused(match: str, folder, error: type[Exception] = ValueError, **kwargs) -> None:
    """Loading ends in one line of this error."""
    with pytest.raises(error, match=match) as info:
        load_crosscoder(folder, **kwargs)
    assert "\n" not in str(info.value) and info.type is error


def write(folder: Path, config: object, tensors: dict, names: tuple[str, str], how: Callable = save_file) -> Path:
    """A folder with a configuration in JSON and a file of tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(json.dumps(config), encoding="utf-8")
    how({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / names[1])
    return folder


def sae_tensors() -> dict[str, Tensor]:
    """Weights of an SAE by neutral names."""
    return {
        "W_enc": draw(D_MODEL, FEATURES) / math.sqrt(D_MODEL),
        "b_enc": 0.1 * draw(FEATURES),
        "W_dec": draw(FEATURES, D_MODEL),
        "b_dec": draw(D_MODEL),
    }


def largest(values: Tensor, k: int) -> Tensor:
    """The k largest of each row, the rest 0."""
    return torch.where(values >= values.topk(k).values[..., -1:], values, 0.0)
