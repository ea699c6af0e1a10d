"""Measuring every file, once."""
