"""The registry of readers."""

from pathlib import Path

import pytest

from crosscoder_utils.io.readers import READERS
from crosscoder_utils.io.readers.refused import RefusedReader

PAGE = (Path(__file__).parents[2] / "book" / "bring_your_own.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("reader", [one for one in READERS if not isinstance(one, RefusedReader)], ids=lambda one: one.name)
def test_the_book_lists_the_files_of_every_format(reader):
    rows = [line for line in PAGE.splitlines() if line.startswith("|")]
    names = [*reader.marks, *reader.others] or ["params_layer_0.safetensors"]
    names = ["7.pt", "7_cfg.json"] if reader.layout.startswith("N.pt") else names
    names = ["model.pt", "model_cfg.yaml"] if reader.layout.startswith("model.pt") else names
    assert any(all(f"`{name}`" in row for name in names) for row in rows)


def test_no_two_formats_claim_the_same_files():
    for reader in READERS:
        names = [*reader.marks, *reader.others]
        if names:
            assert [one.name for one in READERS if one.matches(names)] == [reader.name]
