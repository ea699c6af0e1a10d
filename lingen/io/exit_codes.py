"""Exit codes of every command, the same under Ray, torchrun and the workflow."""

DONE = 0
FAILED = 1  # one line on stderr when the disk was full or many files met a bug, a traceback for anything else
BAD_CONFIGURATION = 2  # one line on stderr says what to change
PREEMPTED = 75  # the state is saved; the same command resumes
