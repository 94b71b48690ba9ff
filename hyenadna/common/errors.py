"""The one exception that means "the input is wrong, not the program"."""


class InputError(ValueError):
    """Bad input, told in one line: what is wrong, where, and what to do about it.

    The command line prints the message after ``error:`` and exits with code 2; from Python it is an
    ordinary ``ValueError``.
    """
