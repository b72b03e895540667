"""Builds models, and reads and writes what a run keeps: weights, training states, exports."""
