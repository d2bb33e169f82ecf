"""Text from outside stays text, whatever it is written into."""

import io

import pytest
from markupsafe import Markup
from rich.console import Console

from toplora_train.report.escape import PlainTable, cell, code, fenced, finalize


def test_a_code_fence_is_longer_than_the_backticks_inside():
    text = fenced("a ```` b")
    fence = text.split("text\n")[0]
    assert fence == "`" * 5
    assert text.endswith("\n" + fence)


def test_a_table_cell_is_one_line_with_markdown_escaped():
    assert cell("a|b\n*c* <d>") == r"a\|b \*c\* \<d\>"
    assert cell("![x](y) $z$ &lt; ~s~") == r"!\[x\](y) \$z\$ \&lt; \~s\~"


@pytest.mark.parametrize(
    ("value", "written"),
    [("a", "`a`"), ("a`b", "``a`b``"), ("`a", "`` `a ``"), ("a\nb\x1b[0m", r"`a b\x1b[0m`")],
)
def test_inline_code_is_one_line_with_a_fence_longer_than_its_backticks(value, written):
    assert code(value) == written


@pytest.mark.parametrize("escape", [cell, code, fenced, finalize])
def test_no_control_character_is_written(escape):
    assert "\x1b" not in escape("a\x1b]0;title\x07")


def test_what_the_package_itself_marks_as_html_is_kept():
    svg = Markup("<svg/>")
    assert finalize(svg) is svg


def test_a_plain_table_prints_brackets_and_escapes_as_they_are():
    table = PlainTable(show_header=False, box=None)
    table.add_row("[/red]", "\x1b[2J")
    output = io.StringIO()
    Console(file=output, width=80).print(table)
    assert output.getvalue().split() == ["[/red]", r"\x1b[2J"]
