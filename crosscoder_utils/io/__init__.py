"""Files: crosscoders, examples, presets' sources, atomic writes."""
