"""What people launch: one file a job, each a dataclass config (tyro), one call below and an exit code."""
