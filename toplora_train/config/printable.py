"""Text from outside, made safe to print: what would control a terminal is written as an escape."""

from __future__ import annotations

import re

# C0 and C1 controls except tab and line feed; marks that reorder text; halves of surrogate pairs.
_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    r"""The text with control characters as escapes: ESC, which starts a command, as ``\x1b``."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
