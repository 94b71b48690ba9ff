"""Format lengths, times, sizes and ratios for tables and figures."""

from __future__ import annotations


def length_text(length: int) -> str:
    """``64K`` or ``1M`` for multiples of these units, otherwise all digits, such as ``1,000,002``."""
    for unit, name in ((1 << 20, "M"), (1 << 10, "K")):
        if length >= unit and length % unit == 0:
            return f"{length // unit}{name}"
    return f"{length:,}"


def _digits(value: float) -> str:
    """Three digits, without an exponent."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def seconds_text(seconds: float) -> str:
    """Such as ``1.23 ms``."""
    for unit, name in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= 0.9995 * unit:
            return f"{_digits(seconds / unit)} {name}"
    return f"{_digits(seconds / 1e-6)} µs"


def bytes_text(count: float) -> str:
    """Such as ``1.23 GiB``."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count >= unit:
            return f"{_digits(count / unit)} {name}"
    return f"{count:.0f} B"


def ratio_text(ratio: float) -> str:
    """Such as ``3.21×``."""
    return f"{_digits(ratio)}×"
