"""Training one stage: flow matching, sharding, checkpoints, and what keeps a long run alive."""
