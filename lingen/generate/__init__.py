"""From a prompt to a video."""
