"""Encoded shards, and which samples each step sees."""
