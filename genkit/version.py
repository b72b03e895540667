"""The version of genkit, the one place that states it."""

__version__ = "0.1.0"
