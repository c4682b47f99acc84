"""The repository's address is the same wherever it stands, and one command changes it."""

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
OTHERS = {
    f"https://github.com/{name}"
    for name in (
        "TransformerLensOrg/TransformerLens", "oli-clive-griffin/crosscode", "jkminder/dictionary_learning",
        "saprmarks/dictionary_learning", "neelnanda-io/Crosscoders", "EleutherAI/sparsify", "decoderesearch/SAELens",
        "ckkissane/crosscoder-model-diff-replication",
    )
}  # fmt: skip
"""Addresses of other people's repositories that the book refers to."""


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    """The files that git knows, but for this one."""
    if not shutil.which("git") or subprocess.run(["git", "rev-parse"], cwd=ROOT, capture_output=True).returncode:
        pytest.skip("needs a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    names = [Path(name) for name in listed.split("\0") if name and (ROOT / name).is_file()]
    return [name for name in names if ROOT / name != Path(__file__)]


def configured(root: Path = ROOT) -> str:
    return yaml.safe_load((root / "_config.yml").read_text())["repository"]["url"]


def addresses(root: Path, names: list[Path]) -> dict[str, set[str]]:
    """Address of a repository -> the files it stands in."""
    found: dict[str, set[str]] = {}
    for name in names:
        text = (root / name).read_bytes().decode(errors="ignore")
        for address in re.findall(r"https://github\.com/[\w.-]+/[\w-]+", text):
            found.setdefault(address, set()).add(str(name))
    return found


def test_one_address(tracked):
    found = addresses(ROOT, tracked)
    found.pop("https://github.com/owner/name")  # where README and Makefile say how to change it
    assert set(found) - OTHERS == {configured()}
    notebooks = {str(path.relative_to(ROOT)) for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert found[configured()] >= notebooks | {"_config.yml", "pyproject.toml", "CITATION.cff"}


def test_it_is_what_tools_read():
    url = configured()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["urls"]["Repository"] == url and all(one.startswith(url) for one in project["urls"].values())
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["repository-code"] == url
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        lines = [line for cell in json.loads(path.read_text())["cells"] for line in cell["source"] if "%pip" in line]
        assert lines and all(line.strip().endswith(f"git+{url}") for line in lines), path.name


def test_make_url_changes_it_everywhere(tracked, tmp_path):
    for name in tracked:
        if name.suffix not in (".safetensors", ".jsonl", ".png"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / name)
    subprocess.run("git init --quiet && git add .", cwd=tmp_path, shell=True, check=True)
    here = [name for name in tracked if (tmp_path / name).exists()]
    before, old, new = addresses(tmp_path, here), configured(tmp_path), "https://github.com/some-one/a_fork"
    subprocess.run(["make", "url", f"URL={new}"], cwd=tmp_path, check=True)
    assert configured(tmp_path) == new
    assert addresses(tmp_path, here) == {new if address == old else address: names for address, names in before.items()}
    assert not list(tmp_path.rglob("*.bak"))


@pytest.mark.parametrize("url", ["", "github.com/owner/name", "https://github.com/owner/name|e"])
def test_make_url_refuses_what_is_no_address(url):
    ran = subprocess.run(["make", "--always-make", "url", f"URL={url}"], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 2 and "make url URL=https://github.com/owner/name" in ran.stdout
