"""Stopwatch, matmul limit, counted operations and peak memory."""

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import torch

from crosscoder_utils.hooks import plain


def median_of(run: Callable, repeats: int, beside: Callable[[], float] | None = None) -> tuple[float, float, object]:
    """Median seconds of `run`, median of what `beside` gives before and after each, and the last result."""
    times, rates = [], [beside()] if beside else [0.0]
    for _ in range(repeats):
        start = time.perf_counter()
        result = run()
        times.append(time.perf_counter() - start)
        if beside:
            rates.append(beside())
    return _median(times), _median(rates), result


def matmul_rate(n: int = 2048) -> float:
    """Operations per second of a large product in single precision: the limit for everything made of products."""
    a = torch.randn(n, n)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - start)
    return 2 * n**3 / _median(times)


def operations(setup, generations) -> float:
    """Multiplications and additions in the products of the plain cached algorithm.

    That is, a clean and an intervened run, each reading every token of every row once, and one unembedding per token that is
    written. What the engine saves by reading a text once for several rows, or spends on tokens that it writes again, is not
    in it.
    """
    model = plain(setup.model)
    per_token = 2 * sum(p.numel() for p in model.blocks.parameters() if p.dim() == 2)
    config = model.causal_lm.config
    total = 0.0
    for generation in generations:
        written = len(generation.token_ids)
        n = generation.n_prompt_tokens + setup.preset.prepend_bos + written
        attention = 4 * config.hidden_size * len(model.blocks) * n * (n + 1) / 2
        total += 2 * (per_token * n + attention) + 2 * config.hidden_size * config.vocab_size * (written + 1)
    return total


def in_a_fresh_process(function: Callable, *args):
    """`with_peak` in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(with_peak, function, *args).result()


def with_peak(function: Callable, *args):
    """Call, and add the process's peak memory as `peak_gb` to a dict that is returned."""
    result = function(*args)
    if isinstance(result, dict):
        unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes there, kilobytes elsewhere
        result["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
    return result


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
