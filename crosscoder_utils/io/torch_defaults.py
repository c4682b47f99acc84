"""Torch's usual settings within a function, whatever the program around it has set."""

import functools
from collections.abc import Callable
from contextlib import ExitStack
from typing import TypeVar

import torch

_F = TypeVar("_F", bound=Callable)


def own_settings(function: _F) -> _F:
    """Run a function with torch's usual settings, whatever the program around it has set.

    Inference mode would forbid the gradients that a search needs, autocast would round, and random numbers depend on the
    default dtype and device.
    """

    @functools.wraps(function)
    def run(*args, **kwargs):
        dtype = torch.get_default_dtype()
        modes = [torch.inference_mode(False)]
        modes += [torch.autocast(kind, enabled=False) for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
        if torch.get_default_device().type != "cpu":  # this mode costs time at every operation
            modes.append(torch.device("cpu"))
        with ExitStack() as stack:
            for mode in modes:
                stack.enter_context(mode)
            if dtype != torch.float32:
                stack.callback(torch.set_default_dtype, dtype)
                torch.set_default_dtype(torch.float32)
            return function(*args, **kwargs)

    return run
