"""The workflow: recipes, stage order, Ray Train glue and MLflow tracking."""
