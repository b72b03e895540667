"""A run's configuration: defaults, presets, files and command line. Never imports torch."""
