"""The workflows run commands that exist."""

import os
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_commands_exist(path):
    workflow = yaml.safe_load(path.read_text())
    targets = re.findall(r"^([\w-]+):(?!=)", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert steps and all(("run" in step) != ("uses" in step) for step in steps)
    for step in steps:
        command, *arguments = step.get("run", "true").split()
        if command == "make":
            assert arguments and set(arguments) <= set(targets)
        elif command != "true":
            assert os.access(ROOT / command, os.X_OK), command


def test_what_is_published_is_what_is_built():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "book.yml").read_text())["jobs"]
    [upload] = [step for step in jobs["build"]["steps"] if "upload-pages-artifact" in step.get("uses", "")]
    assert f"open {upload['with']['path']}/index.html" in (ROOT / "Makefile").read_text().replace("Open", "open")
    assert jobs["publish"]["needs"] == "build"
