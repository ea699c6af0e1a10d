"""The plan of a recipe's training or of one stage: stages from recipes and shards, the report, the refusal."""
