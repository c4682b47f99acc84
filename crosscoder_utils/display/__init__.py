"""Figures, HTML views, the explorer and the playground. Nothing else in the package imports this."""

from crosscoder_utils.display.colours import COLOURS
from crosscoder_utils.display.comparison import Comparer, Comparison
from crosscoder_utils.display.evidence_figures import FAMILIES, dose_curves, method_dots
from crosscoder_utils.display.evidence_tables import (
    DICTIONARIES,
    evidence,
    lowest_to_highest,
    percent,
    single_features,
    unseen_prompts,
)
from crosscoder_utils.display.explorer import explorer
from crosscoder_utils.display.feature_card_views import card_bars, card_figure, card_html
from crosscoder_utils.display.figures import TEMPLATE, bars_by_point, condition_scatter, effect_scatter, show
from crosscoder_utils.display.html import side_by_side, texts_table, token_strip, token_strips
from crosscoder_utils.display.playground import Playground
from crosscoder_utils.display.sweep_figures import (
    heat_maps,
    overshoot_scatter,
    side_effect_scatter,
    sweep_curves,
)

__all__ = [
    "COLOURS",
    "DICTIONARIES",
    "FAMILIES",
    "TEMPLATE",
    "Comparer",
    "Comparison",
    "Playground",
    "bars_by_point",
    "card_bars",
    "card_figure",
    "card_html",
    "condition_scatter",
    "dose_curves",
    "effect_scatter",
    "evidence",
    "explorer",
    "heat_maps",
    "lowest_to_highest",
    "method_dots",
    "overshoot_scatter",
    "percent",
    "show",
    "side_by_side",
    "side_effect_scatter",
    "single_features",
    "sweep_curves",
    "texts_table",
    "token_strip",
    "token_strips",
    "unseen_prompts",
]
