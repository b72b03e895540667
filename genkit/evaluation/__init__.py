"""Scores samples against a data set: reference, metrics, likelihood, memorisation."""
