"""Exit codes of the commands; 0 means success."""

EXIT_SOME_FAILED = 1
"""Some input files failed and the others succeeded, or `tables --check` or `--again` found a difference."""

EXIT_INPUT_ERROR = 2
"""The input was invalid. One line on standard error explains it."""

EXIT_INTERRUPTED = 75
"""Training stopped on request and saved its state; the same command resumes it (EX_TEMPFAIL)."""

EXIT_KEYBOARD = 130
"""Ctrl-C outside of training."""

EXIT_BROKEN_PIPE = 141
"""The reader of the output, such as `head`, closed it; 128 plus the number of SIGPIPE, as in a shell."""
