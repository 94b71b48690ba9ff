"""Errors that users of the package may want to catch."""

from __future__ import annotations


class BackendError(RuntimeError):
    """The requested backend cannot run here. The message gives every reason."""


class FarFieldError(RuntimeError):
    """The far field was asked for by name and cannot be taken. The message gives the reason, or the measured error."""
