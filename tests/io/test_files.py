"""Files that appear whole or not at all."""

import pytest

from crosscoder_utils.io.files import whole_file, whole_files


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
