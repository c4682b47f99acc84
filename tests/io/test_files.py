"""Files that appear whole or not at all."""

import pytest

from crosscoder_utils.io.files import (
    check_readable,
    check_writable,
    check_writable_file,
    read_json,
    read_safetensors,
    read_text,
    read_yaml,
    user_path,
    whole_file,
    whole_files,
    write_text,
)


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "rows"
    with whole_file(path) as first:
        first.write_text("first")
        with whole_file(path) as second:
            second.write_text("sec")
            assert not path.exists() and first.parent == second.parent == tmp_path
            assert all(one.name.startswith(".rows.") and one.suffix == ".partial" for one in (first, second))
        assert path.read_text() == "sec"
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]


def test_a_writer_that_fails_leaves_the_other_alone(tmp_path):
    path = tmp_path / "rows"
    with whole_file(path) as first:
        first.write_text("first")
        with pytest.raises(RuntimeError), whole_file(path) as second:
            second.write_text("sec")
            raise RuntimeError
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]


def test_several_files_appear_whole_or_not_at_all(tmp_path):
    (tmp_path / "kept").write_text("kept")
    (tmp_path / "b").write_text("former")
    with pytest.raises(RuntimeError), whole_files(tmp_path) as aside:
        (aside / "b").write_text("half")
        raise RuntimeError
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"kept": "kept", "b": "former"}
    with whole_files(tmp_path) as aside:
        (aside / "a").write_text("new")
        (aside / "b").write_text("new")
        assert (tmp_path / "b").read_text() == "former" and aside.name.startswith(".")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"kept": "kept", "a": "new", "b": "new"}


def refused(match, make, error=ValueError):
    with pytest.raises(error, match=match) as info:
        make()
    assert "\n" not in str(info.value) and len(str(info.value)) < 600


def test_home_is_expanded_everywhere(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write_text("~/a/b.txt", "text")
    with whole_files("~/c") as aside:
        (aside / "d").write_text("text", encoding="utf-8")
    assert read_text("~/a/b.txt") == "text" and (tmp_path / "c" / "d").is_file() and check_writable("~/e") == tmp_path / "e"
    assert not (tmp_path / "~").exists() and not (tmp_path / "e").exists()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("path", [None, 3, b"a", "", "a\0b", ["a"], "x" * 5000, "~nobody-of-that-name/a"])
def test_what_is_no_path(path):
    refused("^path .*(must be a text or a Path|cannot be looked at)", lambda: user_path(path))


def test_output_folders_that_cannot_be(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("", encoding="utf-8")
    refused(r"file is a file, so .*rows cannot be a folder", lambda: check_writable(tmp_path / "file" / "rows"))
    refused("is a folder; give the path of a file", lambda: check_writable_file(tmp_path))
    refused("nowhere cannot be written", lambda: check_writable("/proc/nowhere"))
    refused(r"file.*cannot be written \(Not a directory\)", lambda: write_text(tmp_path / "file" / "a", "text"))
    refused(r"cannot be written \(Is a directory\)", lambda: write_text(tmp_path, "text"))


def test_folders_that_are_only_read(tmp_path, monkeypatch):
    monkeypatch.setattr("crosscoder_utils.io.files.TemporaryFile", lambda **_: pytest.fail("a file was written"))
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert check_readable(str(tmp_path)) == tmp_path
    refused("folder .*nowhere does not exist; check the path", lambda: check_readable(tmp_path / "nowhere"), FileNotFoundError)
    refused("file is a file; give the path of the folder that it is in", lambda: check_readable(tmp_path / "file"))

    def failing(_folder):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.listdir", failing)
    refused(r"folder .* cannot be read \(Permission denied\); check its permissions", lambda: check_readable(tmp_path))


@pytest.mark.parametrize("read", [read_json, read_yaml, read_text, read_safetensors])
def test_what_the_system_does_not_let_us_read_is_not_broken(tmp_path, monkeypatch, read):
    refused("does not exist", lambda: read(tmp_path / "none"), FileNotFoundError)
    path = tmp_path / "file"
    path.write_text("{}", encoding="utf-8")

    def failing(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", failing)
    monkeypatch.setattr("crosscoder_utils.io.files.load_file", failing)
    refused(r"file cannot be read \(Permission denied\); the file itself may be fine", lambda: read(path))
    monkeypatch.undo()
    refused("is a folder|not a readable", lambda: read(tmp_path))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"\xff\xfe{\0", "is no text in UTF-8"),
        (b"[" * 100_000, "is no JSON"),
        (b"1" * 5000, "is no JSON"),
        (b"", "is no JSON"),
    ],
)
def test_what_is_no_json(tmp_path, content, match):
    (tmp_path / "a.json").write_bytes(content)
    refused(match, lambda: read_json(tmp_path / "a.json"))


def test_a_byte_order_mark_is_left_out(tmp_path):
    (tmp_path / "a").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "a") == read_yaml(tmp_path / "a") == {"a": 1}


@pytest.mark.parametrize(
    "text",
    [
        "a: !!bool maybe",
        "a: !!timestamp today",
        "a: 2001-99-99",
        "a: !!int x",
        "? [a]\n: b",
        "a: *b",
        "[" * 5000,
        "a: \0",
        "a: 'x",
    ],
)
def test_what_is_no_yaml(tmp_path, text):
    (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
    refused(r"a\.yaml (cannot be read as YAML of plain data|holds)", lambda: read_yaml(tmp_path / "a.yaml"))


@pytest.mark.parametrize("key", ["5", "null", "true", "1.5", "2001-01-01"])
def test_keys_of_yaml_are_texts(tmp_path, key):
    (tmp_path / "a.yaml").write_text(f"model: a\n{key}: b", encoding="utf-8")
    refused(r"a\.yaml has the key .*, which is no text", lambda: read_yaml(tmp_path / "a.yaml"))
