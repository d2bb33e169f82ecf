r"""Parse the numbers in an answer, and decide when two are the same answer.

A number is read with its sign, currency, thousands commas, decimals, fraction and percent sign::

    -3    $1,234.50    1{,}234    .5    2/3    1 1/2    -\frac{2}{3}    20%    6.02e23

Two numbers are the same answer when

1. their values differ by at most one part in a million (float noise), so ``8 == 8.0``; or
2. the one with fewer decimals, at least two, is the other rounded to as many, so
   ``0.67 == 0.6666666666666666`` but not ``0.7`` or ``0.66`` (``1.25e-3`` has five decimals); or
3. only one has a percent sign, and they agree by 1. or 2. as written or after dividing it by 100,
   so ``20% == 20`` (the question asks for percent) and ``20% == 0.2`` (it asks for a fraction),
   while ``20`` and ``0.2`` differ.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

_UNSIGNED = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][+-]?\d{1,3}(?!\w))?|(?<!\w)\.\d+"
_NUMBER = re.compile(
    rf"""
    (?<![^\W_]) (?<!\d\.)                          # not in a name such as x2, nor the tail of 1.2.3
    (?P<sign>(?<![\w)\]}}%])-)?                 # a minus between two terms is not a sign
    (?:(?:USD|US\$|Rs\.?|[$€£¥₹])\s?(?P<sign_after>-)?)?
    (?:(?P<whole>\d+)\s+(?=\d+/\d))?               # the 1 of 1 1/2
    (?P<value>{_UNSIGNED})
    (?:\s?/\s?(?P<denominator>\d+)(?![\d/]|\.\d))?
    (?P<percent>\s?\\?%|\s?percent\b|\sper\scent\b)?
    """,
    re.VERBOSE,
)
_LATEX_FRACTION = re.compile(r"\\[dt]?frac\{(\d+)\}\{(\d+)\}")
_LATEX_THOUSANDS = re.compile(r"(?<=\d)(?:\{,\}|\\,)(?=\d{3}(?!\d))")
_NOISE = Fraction(1, 10**6)
_EXACT = 1000  # decimals of a fraction, so that it is never the rounded side of a comparison


@dataclass(frozen=True)
class Number:
    """A number in a text: exact value, decimals as written, whether it has a percent sign."""

    value: Fraction
    decimals: int
    percent: bool
    text: str


def find_numbers(text: str) -> list[Number]:
    """All numbers in ``text``, in order."""
    plain = _LATEX_THOUSANDS.sub("", text.replace("\N{MINUS SIGN}", "-"))
    plain = _LATEX_FRACTION.sub(_plain_fraction, plain)
    return [_number(match) for match in _NUMBER.finditer(plain)]


def _plain_fraction(match: re.Match[str]) -> str:
    """``1/2`` after a minus, which stays its sign; elsewhere apart from what is before it."""
    return match.expand(r"\1/\2" if match.string[: match.start()].endswith("-") else r" \1/\2")


def parse_number(text: str) -> Number | None:
    """Parse ``text`` as one number; None if it contains none or several."""
    found = find_numbers(text)
    return found[0] if len(found) == 1 else None


def same_number(left: Number, right: Number) -> bool:
    """Whether the two are the same answer, by the module's three rules."""
    if left.percent == right.percent:
        return _agree(left, right)
    with_sign, without = (left, right) if left.percent else (right, left)
    fraction = Number(with_sign.value / 100, with_sign.decimals + 2, False, with_sign.text)
    return _agree(with_sign, without) or _agree(fraction, without)


def _number(match: re.Match[str]) -> Number:
    digits = match["value"].replace(",", "")
    value = Fraction(digits)
    mantissa, _, exponent = digits.lower().partition("e")
    decimals = max(0, len(mantissa.partition(".")[2]) - int(exponent or 0))
    if match["denominator"] and int(match["denominator"]):
        value /= int(match["denominator"])
        decimals = _EXACT
    if match["whole"]:
        value += int(match["whole"])
    if match["sign"] or match["sign_after"]:
        value = -value
    return Number(value, decimals, bool(match["percent"]), match.group().strip())


def _agree(left: Number, right: Number) -> bool:
    difference = abs(left.value - right.value)
    if difference <= _NOISE * max(abs(left.value), abs(right.value)):
        return True
    shown = min(left.decimals, right.decimals)
    return 2 <= shown < _EXACT and difference <= Fraction(1, 2 * 10**shown)
