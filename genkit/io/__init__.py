"""Files, locks, run directories, processes, signals and progress. Never imports torch."""
