"""Device, processes, random seeds and caches of a computation."""
