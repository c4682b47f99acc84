"""Where public crosscoders lie on the Hugging Face hub: Gemma Scope 2, weakly causal crosscoders of Google's Gemma 3."""

from collections.abc import Sequence

from crosscoder_utils.io.validation import chosen, flag, whole_numbers

GEMMA_3 = {
    "270m": (18, (5, 9, 12, 15)),
    "1b": (26, (7, 13, 17, 22)),
    "4b": (34, (9, 17, 22, 29)),
    "12b": (48, (12, 24, 31, 41)),
    "27b": (62, (16, 31, 40, 53)),
}
"""Sizes of Gemma 3, with the number of blocks and the blocks after which the published crosscoders read, counted from 0."""
WIDTHS = ("65k", "262k", "524k", "1m")
L0 = ("small", "medium", "big")


def gemma_scope_2_settings(size: str, instruct: bool, layers: Sequence[int] | None, width: str, l0: str) -> dict:
    """Settings of the preset of one crosscoder; see `presets.gemma_scope_2`. Nothing is looked up on the hub."""
    size, instruct = chosen("size", size, GEMMA_3), flag("instruct", instruct)
    blocks, published = GEMMA_3[size]
    layers = list(published) if layers is None else sorted(whole_numbers("layers", layers))
    if not layers or layers[-1] >= blocks:
        raise ValueError(f"layers={layers} do not exist; Gemma 3 {size} has blocks 0..{blocks - 1}, published are {published}")
    which = f"width_{chosen('width', width, WIDTHS)}_l0_{chosen('l0', l0, L0)}"
    folder, name = f"layer_{'_'.join(map(str, layers))}_{which}", f"gemma-scope-2-{size}" + "-it" * instruct
    ending = "-it" if instruct else "" if size == "270m" else "-pt"
    usual = layers == list(published) and which == "width_65k_l0_medium"
    return {
        "name": name if usual else f"{name}-{folder}",
        "model": f"google/gemma-3-{size}{ending}",
        "crosscoder": f"google/gemma-scope-2-{size}-{'it' if instruct else 'pt'}/crosscoder/{folder}",
        "prepend_bos": True,
        "dtype": "float32" if size in ("270m", "1b") else "bfloat16",
    }
