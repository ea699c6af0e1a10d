"""Files, byte ranges, videos, progress and exit codes."""
