"""Number formatting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

CORRELATIONS = ("matthews", "pearson", "spearman")


def percent(share: float) -> str:
    """Return a fraction as ``64.0 %``."""
    return f"{100 * share:.1f} %"


def fixed(value: float | None, form: str = ".4f") -> str:
    """Return a number in the given format; null in JSON is ``NaN``."""
    return "NaN" if value is None else format(value, form)


def percent_interval(interval: Sequence[float]) -> str:
    """Return an interval of fractions as ``59.1 to 68.6``, in percent."""
    low, high = interval
    return f"{100 * low:.1f} to {100 * high:.1f}"


def score(value: float, ci95: Sequence[float], metric: str) -> str:
    """Return a score with its 95 % interval, ``64.0 % (59.1 to 68.6)``, or ``undefined``."""
    if undefined(value, ci95, metric):
        return "undefined"
    return f"{percent(value)} ({percent_interval(ci95)})"


def score_value(one: Mapping[str, Any], metric: str) -> str:
    """Return the ``value`` of a score in a report, ``64.0 %``, or ``undefined``."""
    return "undefined" if undefined(one["value"], one["ci95"], metric) else percent(one["value"])


def score_interval(one: Mapping[str, Any], metric: str) -> str:
    """Return the interval of a score in a report, or an empty string if it is undefined."""
    hidden = undefined(one["value"], one["ci95"], metric)
    return "" if hidden else percent_interval(one["ci95"])


def any_undefined(report: Mapping[str, Any]) -> bool:
    """Whether any task's score in a report, and therefore the mean, is undefined."""
    return any(
        undefined(task["value"], task["ci95"], task["metric"]) for task in report["tasks"].values()
    )


def undefined(value: float, ci95: Sequence[float], metric: str) -> bool:
    """Whether a correlation is undefined because all labels or all answers are identical.

    It is then reported as 0 (see :mod:`toplora_train.evaluation.metrics`).
    """
    return metric in CORRELATIONS and (value, *ci95) == (0, 0, 0)


def points(difference: float) -> str:
    """Return a difference of fractions as ``+52.0``, in percentage points."""
    return f"{100 * difference:+.1f}"


def count(number: float) -> str:
    """Return an integer with thousands separators."""
    return f"{number:,.0f}"


def counted(number: int, one: str, several: str | None = None) -> str:
    """Return a count with its noun, ``1 step`` or ``1,200 steps``; the plural defaults to + s."""
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def memory(number_of_bytes: float) -> str:
    """Return a memory size in a suitable unit."""
    size = float(number_of_bytes)
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:,.0f} {unit}"
        size /= 1024
    return f"{size:,.1f} GiB"


def readable_seconds(seconds: float) -> str:
    """Return a readable duration: ``8 s``, ``3 min 5 s``, ``2 h 10 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def rate(value: float) -> str:
    """Return a learning rate as it is typed, ``2e-4`` or ``2.5e-4``."""
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def shortened(text: str, width: int = 28) -> str:
    """Return ``text`` with the middle of each word longer than ``width`` left out."""
    return " ".join(
        word
        if len(word) <= width
        else f"{word[: width - width // 3 - 1]}\N{HORIZONTAL ELLIPSIS}{word[-(width // 3) :]}"
        for word in text.split(" ")
    )
