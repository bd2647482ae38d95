"""The one exception that means "the input was wrong, not the program".

Everything below the command line raises `InputError` for what a person can mend (a config key, a
path, an image size); the command line prints its message as one line and exits with code 2.
Anything else is a defect and keeps its traceback.
"""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """A value given from outside is unusable; the message says what, what it was, what is wanted."""


def closest(word: str, choices: Iterable[str]) -> str:
    """The choice most like `word` as the end of an error message, or the list of all choices."""
    choices = sorted(choices)
    match = difflib.get_close_matches(word, choices, n=1)
    return f"did you mean {match[0]!r}?" if match else f"known are: {', '.join(choices)}"
