"""The exceptions for input that is wrong."""


class InputError(ValueError):
    """Bad input. The message is one line: where it is, what is wrong, and what to do.

    The command line prints it after ``error:`` and exits with code 2. In Python it is an ordinary ``ValueError``.
    """


class WeightsError(InputError, RuntimeError):
    """Weights whose names or shapes do not fit the model. transformers and torch raise a ``RuntimeError`` there."""
