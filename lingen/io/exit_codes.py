"""Exit codes of every command, the same under Ray, torchrun and the workflow."""

DONE = 0
BAD_CONFIGURATION = 2  # one line on stderr says what to change
PREEMPTED = 75  # the state is saved; the same command resumes
