"""The one exception that means "the input was wrong, not the program".

Everything below the command line raises `InputError` for what a person can mend (a config key, a
path, an image size); the command line prints its message as one line and exits with code 2.
Anything else is a defect and keeps its traceback.
"""

import difflib
import operator
from collections.abc import Iterable
from typing import Any, get_args


class InputError(ValueError):
    """A value given from outside is unusable; the message says what, what it was, what is wanted."""


def as_index(value: object) -> int | None:
    """Return a whole number of any type, NumPy's included, as an int; None for anything else."""
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def printable(text: str) -> str:
    """Return a line of text with everything escaped that a terminal would act on or cannot show.

    File names may contain line ends, escape sequences and bytes that are no UTF-8.
    """
    return "".join(
        character
        if character.isprintable()
        # Python's stand-in for a byte that is no UTF-8.
        else f"\\x{ord(character) - 0xDC00:02x}"
        if 0xDC80 <= ord(character) <= 0xDCFF
        else character.encode("unicode_escape").decode()
        for character in text
    )


def at_least(name: str, value: float, least: float) -> None:
    """Raises InputError unless `value` is a number from `least` on."""
    if not value >= least:
        raise InputError(f"{name} must be at least {least}; got {value}")


def closest_match(word: str, choices: Iterable[str]) -> str | None:
    """The choice most like `word`, None if none is like it."""
    matches = difflib.get_close_matches(word, sorted(choices), n=1)
    return matches[0] if matches else None


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """The choice most like `word` as the end of an error message, or the list of all choices."""
    choices = sorted(choices)
    match = closest_match(word, choices)
    return f"did you mean {match!r}?" if match else f"known are: {', '.join(choices)}"


def check_choice(name: str, value: str, choices: Any) -> None:
    """Raise InputError unless `value` is one of the strings of a `Literal`."""
    known = get_args(choices)
    if value not in known:
        raise InputError(f"no {name} {value!r}; {did_you_mean(value, known)}")
