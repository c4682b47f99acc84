"""Files that appear whole or not at all."""

import pytest

from crosscoder_utils.io.files import whole_file


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
