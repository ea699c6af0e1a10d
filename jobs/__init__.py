"""The command-line jobs, one file each: a dataclass config (tyro), one call into the rooms below and an exit code."""
