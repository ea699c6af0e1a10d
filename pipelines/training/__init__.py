"""Ray Train around the training loops."""
