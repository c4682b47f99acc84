"""The colours of figures, views and the explorer."""

from plotly.colors import hex_to_rgb, sample_colorscale

# Okabe and Ito's palette, distinguishable under the common kinds of colour blindness.
HUES = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
"""Visible on light pages and on dark ones."""
COLOURS = [*HUES, "#000000"]
"""Of figures, which are made for white pages; the book turns black into white on dark ones."""


def distinct_colours(n: int) -> list[str]:
    """`n` colours of which no two are the same: the palette's, or samples of a colour scale if it has too few."""
    return COLOURS[:n] if n <= len(COLOURS) else sample_colorscale("Turbo", n, low=0.05, high=0.95)


def translucent(colour: str, opacity: float) -> str:
    """A hexadecimal colour, as CSS writes it with an opacity: text above it keeps its contrast on light and dark pages."""
    return f"rgba({', '.join(map(str, hex_to_rgb(colour)))}, {opacity:.2f})"
