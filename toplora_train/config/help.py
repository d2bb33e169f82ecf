"""The page of ``toplora-train --help``: ``help.txt`` and the option files' descriptions."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from toplora_train.config.locate import description, groups, options


def show_help(console: Console) -> None:
    """Print the page."""
    page = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8")
    before, _, after = page.partition("{groups}\n")
    console.print(before, end="", soft_wrap=True, highlight=False)
    for group in groups():
        console.print(f"  [cyan]{group}=[/cyan]")
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
        table.add_column(no_wrap=True, style="green", min_width=22)
        table.add_column()
        for option in options(group).values():
            table.add_row(f"    {escape(option.name)}", escape(description(option.path)))
        console.print(table)
    console.print(after, end="", soft_wrap=True, highlight=False)


def installed_version() -> str:
    """The version of the installed package."""
    try:
        return version("toplora-train")
    except PackageNotFoundError:
        return "(not installed: run from a checkout)"
