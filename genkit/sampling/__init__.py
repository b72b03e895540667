"""Draws seeded samples, grids, interpolations and completions."""
