"""Finding features, sweeping interventions over them, and what comes out as tables."""
