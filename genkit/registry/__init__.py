"""Finds, loads and lists plugins. Never imports torch."""
