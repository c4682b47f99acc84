"""Fetch model, adapters and data once, and write a preset that names what was fetched."""

import json
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import yaml
from tqdm import tqdm

from crosscoder_utils.io.datasets import SPLITS, read_examples, read_rows
from crosscoder_utils.io.files import whole_file, write_text
from crosscoder_utils.io.sources import fetch_folder, parse_source
from crosscoder_utils.io.transformers_models import read_causal_lm, read_tokenizer
from crosscoder_utils.presets import Preset
from crosscoder_utils.training.replication.settings import Replication

TEST_EXAMPLES = 4000
"""Held-out texts that are fetched, of both kinds; more than anything here reads."""


def fetch(recipe: Replication, out: Path) -> float:
    """Write `out`/data and `out`/preset.yaml; model and adapters stay in the hub's cache, their revisions are in the preset.

    Returns:
        Seconds taken.

    Raises:
        FileNotFoundError: If a source cannot be read.
        ValueError: If the data has fewer examples than the recipe needs.
    """
    began, preset = time.monotonic(), recipe.preset
    read_tokenizer(preset.tokenizer or preset.model)
    for adapters in dict.fromkeys((preset.adapters, preset.base_adapters)):
        read_causal_lm(preset.model, adapters, preset.dtype)  # fetches what is missing, and sees that all parts fit
    for split, most in zip(SPLITS, (recipe.examples, TEST_EXAMPLES), strict=True):
        if not (out / "data" / f"{split}.jsonl").exists():
            _write_split(preset, split, most, out / "data" / f"{split}.jsonl")
    for split, n in {"train": recipe.texts, "test": recipe.prompts + recipe.held_out}.items():
        for deployment in (True, False):
            read_examples(str(out / "data"), n, deployment, split, preset.name)
    settings = preset.model_dump(mode="json", exclude={"manifest"}, exclude_none=True)
    settings |= {name: pinned(settings[name]) for name in ("model", "tokenizer") if name in settings}
    settings |= {name: [pinned(one) for one in settings[name]] for name in ("adapters", "base_adapters")}
    write_text(out / "preset.yaml", yaml.safe_dump(settings | {"data": "data", "crosscoder": "crosscoder"}, sort_keys=False))
    return time.monotonic() - began


def pinned(source: str) -> str:
    """The source with the revision that is in the cache; folders, and sources that name a revision, stay as they are."""
    parsed = parse_source(source)
    if parsed.is_local or parsed.revision:
        return source
    snapshot = fetch_folder(parsed.name, ["*config.json"])
    return str(replace(parsed, revision=snapshot.name))


def _write_split(preset: Preset, split: str, most: int, path: Path) -> None:
    rows = islice(read_rows(preset.data, split, preset.name), most)
    with whole_file(path) as aside, aside.open("w", encoding="utf-8", newline="\n") as file:
        for row in tqdm(rows, desc=f"{split} texts", total=most, unit="text", mininterval=2):
            file.write(json.dumps({"is_training": row["is_training"], "text": row["text"]}) + "\n")
