"""Files, progress and exit codes."""
