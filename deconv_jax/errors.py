"""`InputError`, the exception for unusable input, and helpers that check values and phrase messages.

Code below the command line raises `InputError` for what a user can correct, such as a config key, a
path or an image size. The command line prints its message and exits with code 2. Any other
exception is a bug and keeps its traceback.
"""

import difflib
import operator
from collections.abc import Iterable
from typing import Any, SupportsIndex, get_args


class InputError(ValueError):
    """Unusable input. The message states the problem, the value received, and what is valid."""


def as_int(value: object) -> int | None:
    """Return an integer of any type, such as NumPy's, as an int; None for anything else.

    True and False count as 1 and 0, floats as anything else, even 2.0.
    """
    if not isinstance(value, SupportsIndex):
        return None
    try:
        return operator.index(value)
    except TypeError:  # an array with axes
        return None


def escape_unprintable(text: str) -> str:
    """Escape every character that a terminal would act on or cannot show.

    File names may contain line breaks, escape sequences and bytes that are not UTF-8.
    """
    return "".join(
        character
        if character.isprintable()
        # Python represents a byte that is not UTF-8 by such a surrogate.
        else f"\\x{ord(character) - 0xDC00:02x}"
        if 0xDC80 <= ord(character) <= 0xDCFF
        else character.encode("unicode_escape").decode()
        for character in text
    )


def at_least(name: str, value: float, least: float) -> None:
    """Raise InputError unless `value`, called `name`, is a number >= `least`; NaN is an error."""
    if not value >= least:
        raise InputError(f"{name} must be at least {least}; got {value}")


def check_choice(name: str, value: str, choices: Any) -> None:
    """Raise InputError unless `value` is one of the strings of the `Literal` type `choices`.

    The message is "no NAME 'VALUE'", with the similar choice or all choices.
    """
    known = get_args(choices)
    if value not in known:
        raise InputError(f"no {name} {value!r}; {did_you_mean(value, known)}")


def closest_match(word: str, choices: Iterable[str]) -> str | None:
    """Return the choice that is most similar to `word`, or None if no choice is similar."""
    matches = difflib.get_close_matches(word, sorted(choices), n=1)
    return matches[0] if matches else None


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return the end of an error message that suggests a choice.

    It is "did you mean 'CHOICE'?" if a choice is similar to `word`, else "known are: " and all choices.
    """
    choices = sorted(choices)
    match = closest_match(word, choices)
    return f"did you mean {match!r}?" if match else f"known are: {', '.join(choices)}"
