"""Features that fire in the texts of one kind and not in those of another."""

import pandas as pd
import torch

from crosscoder_utils.analysis.encoded_texts import EncodedText, some_encoded
from crosscoder_utils.io.validation import chosen, mapped


def contrast(encoded: dict[str, list[EncodedText]], high: str, low: str) -> pd.DataFrame:
    """Features by how well they tell the texts of one condition from those of another.

    Each text counts once, by the feature's largest activation on it, so that no single text decides the order.

    Args:
        encoded: Condition -> its texts, from `encode_texts`.
        high: The condition in which features are to fire.
        low: The condition in which they are not.

    Returns:
        One row per feature that fires, sorted by `separates`, then by `difference`:

        - `separates`: the share of pairs, a text of `high` and one of `low`, in which the feature is stronger on the former;
          equal ones count half. 0.5 is chance, 1 a perfect separation (AUROC).
        - `difference`: of the means over texts
        - `texts <condition>`: the share of its texts on which the feature fires

    Raises:
        ValueError: If there is no such condition, it has no texts, or it is both.
    """
    encoded = mapped("encoded", encoded, lambda name, texts: some_encoded(texts, name), "conditions to encoded texts")
    if chosen("high", high, encoded) == chosen("low", low, encoded):
        raise ValueError(f"high and low are both {high!r}; give two different conditions")
    a, b = (torch.stack([t.active.largest() for t in encoded[name]]).double().numpy() for name in (high, low))
    above = sum((one > b).mean(0) + (one == b).mean(0) / 2 for one in a)  # not all pairs at once: dictionaries are large
    columns = {"separates": above / len(a), "difference": a.mean(0) - b.mean(0)}
    columns |= {f"texts {name}": (own > 0).mean(0) for name, own in ((high, a), (low, b))}
    table = pd.DataFrame(columns).rename_axis("feature")[(a > 0).any(0) | (b > 0).any(0)]
    return table.sort_values(["separates", "difference"], ascending=False, kind="stable").reset_index()
