"""How `generate` is fast."""
