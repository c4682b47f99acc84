"""The palette is written in one place, and can be told apart."""

import re
from pathlib import Path

import pytest
from plotly.colors import hex_to_rgb

import crosscoder_utils
from crosscoder_utils.display.colours import COLOURS, HUES, distinct_colours, translucent

SOURCES = [Path(crosscoder_utils.__file__).parent / "display", Path(__file__).parents[2] / "book" / "_static"]
FILES = [path for folder in SOURCES for path in sorted(folder.iterdir()) if path.suffix in {".py", ".js", ".css", ".html"}]


def test_colours_differ():
    assert len({*COLOURS}) == len(COLOURS) and COLOURS[:-1] == HUES and distinct_colours(3) == COLOURS[:3]
    assert len({*distinct_colours(20)}) == 20
    assert translucent("#0072B2", 0.6) == "rgba(0, 114, 178, 0.60)"


@pytest.mark.parametrize("path", [path for path in FILES if path.name != "colours.py"], ids=lambda path: path.name)
def test_no_other_file_repeats_the_palette(path):
    written = re.sub(r"\s", "", path.read_text(encoding="utf-8")).lower()
    assert not [hue for hue in HUES if hue.lower() in written or f"rgba({','.join(map(str, hex_to_rgb(hue)))}," in written]
