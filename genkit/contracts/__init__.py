"""The contracts of models that are cheap to check: before each training, and in the test kit."""
