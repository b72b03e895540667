"""Trains and scores several models in processes of their own. Never imports torch."""
