"""Stopwatch, matmul limit, counted operations and peak memory."""

import cProfile
import multiprocessing
import os
import platform
import pstats
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path

import torch

from crosscoder_utils.hooks import plain

RESULTS = Path(__file__).parent / "results.json"


def machine() -> dict:
    """What figures depend on."""
    return {"cpu": platform.machine(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}


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


def where_time_goes(run: Callable, clock: Callable[[], float]) -> dict[str, float]:
    """Shares of the time of `run`, on a CPU and by a clock such as `time.process_time`, that parts of the engine take.

    Keys and values that a pass writes are within the pass: their share is said once more beside the ones that add up to 1.
    """
    profile = cProfile.Profile(clock)
    profile.runcall(run)
    stats = pstats.Stats(profile).stats  # (file, line, function) -> calls, calls, own, seconds, seconds by caller

    def seconds(file: str, names: tuple[str, ...], caller: str = "") -> float:
        return sum(
            by[3] for (path, _, name), one in stats.items() if path.endswith(file) and name in names
            for (called_by, *_), by in one[4].items() if called_by.endswith(caller)
        )  # fmt: skip

    whole = sum(own for _, _, own, _, _ in stats.values())
    passes = "engine/cached_run.py", ("read", "read_window")
    parts = {
        "clean run": seconds(*passes, "engine/clean_run.py"),
        "intervened run": seconds(*passes, "engine/editing.py"),
        "search": seconds(*passes, "engine/attempts.py") + seconds("autograd/__init__.py", ("grad",)),
        "encoder and decoder": seconds("crosscoder.py", ("pre_activations",))
        + seconds("engine/targets.py", ("deltas", "coefficients", "acting", "losses")),
        "caches moved": seconds("engine/cache.py", ("copy_rows", "keep", "__init__")),
    }
    parts["the rest"] = whole - sum(parts.values())
    parts["caches written, in the passes"] = seconds("engine/cache.py", ("update",))
    return {name: share / whole for name, share in parts.items()}


def peak_of(run: Callable, device: str) -> tuple[object, float]:
    """What `run` returns, and the most memory in GB that the process (or the GPU) held meanwhile, all else included."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        return run(), torch.cuda.max_memory_allocated() / 1e9
    with suppress(OSError):  # Linux forgets the peak so far; elsewhere it is the whole process's
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    result = run()
    with suppress(OSError):
        [line] = [
            line for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines() if line.startswith("VmHWM")
        ]
        return result, int(line.split()[1]) * 1024 / 1e9
    return result, _peak_gb()


def in_a_fresh_process(function: Callable, *args):
    """`with_peak` in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(with_peak, function, *args).result()


def with_peak(function: Callable, *args):
    """Call, and add the process's peak memory as `peak_gb` to a dict that is returned."""
    result = function(*args)
    if isinstance(result, dict):
        result["peak_gb"] = _peak_gb()
    return result


def _peak_gb() -> float:
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes there, kilobytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
