"""The training loop: learning rates, checkpoints, and what an interruption leaves."""

import pytest
import torch
from torch import nn

from crosscoder_utils.training.loop import train, warm_up_then_decay

ONE = torch.ones(1, 1)


def test_training_resumes_within_a_stage(tmp_path):
    def fit(steps_at_once, checkpoint):
        for steps in steps_at_once:
            module = nn.Sequential(nn.Linear(1, 3, bias=False), nn.Dropout(0.5))
            nn.init.ones_(module[0].weight)
            optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
            train("fit", module, [optimizer], lambda m, s: ((m(ONE) - s) ** 2).sum(), lambda s: 1.0, steps, checkpoint)
        return module[0].weight.detach().cpu()

    whole = fit([10], tmp_path / "whole.pt")
    assert torch.equal(fit([4, 10], tmp_path / "parts.pt"), whole)
    assert not torch.equal(fit([4], tmp_path / "short.pt"), whole)


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    checkpoint = tmp_path / "checkpoint.pt"

    def fit(steps):
        module = nn.Linear(1, 3, bias=False)
        optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
        train("fit", module, [optimizer], lambda m, s: m(ONE).sum(), lambda s: 1.0, steps, checkpoint)

    fit(2)
    before = checkpoint.read_bytes()

    def full(state, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match=r"no space left to write .*checkpoint\.pt; free some"):
        fit(3)
    assert checkpoint.read_bytes() == before and list(tmp_path.iterdir()) == [checkpoint]


def test_the_learning_rate_warms_up_and_decays_also_after_an_interruption(tmp_path):
    steps, warm_up, decay = 20, 4, 10
    expected = [min(1.0, (step + 1) / warm_up, (steps - step) / decay) for step in range(steps)]
    assert expected[0] == 0.25 and expected[5] == 1.0 and expected[-1] == 0.1
    seen, schedule = [], warm_up_then_decay(steps, warm_up, decay_share=0.5)
    for until in (7, steps):
        module = nn.Linear(1, 1)
        optimizers = [torch.optim.SGD([parameter], lr=lr) for parameter, lr in zip(module.parameters(), (0.1, 0.3))]

        def loss_at(module, step, optimizers=optimizers):
            seen.append([optimizer.param_groups[0]["lr"] for optimizer in optimizers])
            return module(ONE).sum()

        train("fit", module, optimizers, loss_at, schedule, until, tmp_path / "checkpoint.pt")
    assert seen == [[0.1 * factor, 0.3 * factor] for factor in expected]
