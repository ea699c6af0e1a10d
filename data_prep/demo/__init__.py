"""The demo's own footage."""
