"""The workflow: a recipe's jobs, each when what it reads is there, skipped when done, redone when an earlier one was.

A step is done when its output has a manifest and was made with the same key (pipelines.workflow.keys), as recorded in
pipeline.json in the workflow's folder. Each job runs in a separate process: what one leaves behind does not affect the
next, and each can be run by hand with the command that is printed.
"""

from pipelines.workflow.run import ROOT, StepOutcome, Workflow
from pipelines.workflow.scheduler import StepFailed
from pipelines.workflow.steps import WorkflowStep

__all__ = ["ROOT", "StepFailed", "StepOutcome", "Workflow", "WorkflowStep"]
