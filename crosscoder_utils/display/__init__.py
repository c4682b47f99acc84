"""Figures, HTML and widgets."""
