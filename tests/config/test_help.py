"""The page of ``--help``."""

import io

from rich.console import Console

from toplora_train.config.help import EXAMPLES, installed_version, show_help
from toplora_train.config.locate import groups, options


def page(width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    show_help(console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_page_names_every_option_of_every_group():
    text = page(120)
    for group in groups():
        assert f"{group}=" in text
        for name in options(group):
            assert name in text


def test_examples_are_not_wrapped_in_a_narrow_terminal():
    lines = [line.strip() for line in page(60).splitlines()]
    for command, _ in EXAMPLES:
        assert command in lines


def test_the_version_is_known_or_reported_as_unknown():
    assert installed_version()[0].isdigit() or "checkout" in installed_version()
