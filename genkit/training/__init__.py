"""Trains one model: batches, loop, monitor, recorder, run."""
