"""Nothing printed from a file controls the terminal."""

import pytest

from toplora_train.config.errors import RunFailure, UserError
from toplora_train.config.printable import printable


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("a\rb", r"a\rb"),
        ("\x9b31m", r"\x9b31m"),
        ("abc\u202egpj", r"abc\u202egpj"),
        ("\ud800", r"\ud800"),
    ],
)
def test_what_a_terminal_would_obey_is_shown_as_an_escape(text, escaped):
    assert printable(text) == escaped


def test_ordinary_text_of_any_language_is_unchanged():
    text = "tab\tline\nñ 漢字 עברית 🙂 \u2028"
    assert printable(text) == text


@pytest.mark.parametrize("kind", [UserError, RunFailure])
def test_no_error_line_carries_a_control_character(kind):
    assert str(kind("row 'a\x1b[2J'")) == r"row 'a\x1b[2J'"
