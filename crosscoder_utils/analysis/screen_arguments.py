"""Checks of what a screen is given, made before any pass of a model."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from crosscoder_utils.analysis.argument_checks import checked_feature, checked_setup, checked_texts
from crosscoder_utils.analysis.sweeps import Workers
from crosscoder_utils.io.error_messages import shown
from crosscoder_utils.io.files import check_writable
from crosscoder_utils.io.validation import (
    Progress,
    checked_progress,
    chosen,
    finite_number,
    instance,
    plain,
    several,
    texts,
    whole_number,
    whole_numbers,
)
from crosscoder_utils.loading import Setup
from crosscoder_utils.methods.base import Method
from crosscoder_utils.prompts import TokenScope, as_scope


def checked_prompts(setup: Setup, prompts: Any, tokens: str | TokenScope, max_new_tokens: Any) -> tuple[list[str], int]:
    """Prompts as a list and the number of new tokens, if there is a prompt, and each has room for the tokens and the scope."""
    checked_setup(setup)
    prompts, scope, most = texts("prompts", prompts), as_scope(tokens), whole_number("max_new_tokens", max_new_tokens, 1)
    if not prompts:
        raise ValueError("prompts=[] leaves nothing to screen; give at least one")
    for prompt in prompts:
        setup.token_ids(prompt, room_for=most)
        scope.bounds(prompt, setup.tokenizer)
    return prompts, most


def checked_settings(
    setup: Setup, method: Any, action: Any, features: Any, strengths: Any, actions: Iterable[str]
) -> tuple[list[int], list[float]]:
    """Features and strengths, each once."""
    chosen("action", action, actions)
    instance("method", method, Method, "use one with its parameters, such as ManyLayers(scale=1.0)")
    n_features = setup.crosscoder.n_features
    numbers = range(n_features) if features is None else whole_numbers("features", features)
    if not len(numbers):
        raise ValueError("features=[] leaves nothing to screen; give at least one")
    if action == "ablate" and strengths is not None:
        raise ValueError(
            "strengths= are multiples of the usual activation, for 'steer' and 'clamp'; to ablate, set the method's scale"
        )
    given = [1.0] if strengths is None else several("strengths", strengths, "numbers")
    if not given:
        raise ValueError("strengths=[] leaves nothing to screen; give at least one multiple of the usual activation")
    given = [finite_number("strength", one) for one in given]
    if 0.0 in given:
        raise ValueError("strength=0.0 changes nothing; give a finite number other than 0, such as 1.0")
    if method.strength == 0:
        raise ValueError(f"{method.name} with {method.strength_name}=0 changes nothing; give another {method.strength_name}")
    return list(dict.fromkeys(checked_feature(one, n_features) for one in numbers)), list(dict.fromkeys(given))


def checked_estimate(estimate: Any, keep: Any) -> tuple[bool | str, int | None]:
    """Whether to estimate, and how many features to run."""
    if not isinstance(plain(estimate), bool) and not (isinstance(estimate, str) and estimate == "first"):
        raise ValueError(f"estimate={shown(estimate)} is unknown; use False, True or 'first'")
    if keep is not None and estimate != "first":
        raise ValueError(f"keep={shown(keep)} is for estimate='first'; leave it out")
    return estimate, None if keep is None else whole_number("keep", keep, 1)


def checked_running(
    setup: Setup, given: Any, progress: Any, output_dir: str | Path | None, ray: Workers | None, rows_per_file: Any
) -> tuple[Sequence[str] | None, Progress, int]:
    """Texts for usual activations, whether to show progress, and rows per file; the folder can be written."""
    if ray is not None:
        instance("ray", ray, Workers, "give RayWorkers(n=2), or leave it out")
    if output_dir is not None:
        check_writable(output_dir)
    given = None if given is None else checked_texts(setup, given)
    return given, checked_progress(progress), whole_number("rows_per_file", rows_per_file, 1)
