"""The command ``toplora-report``."""

from __future__ import annotations

import sys
from pathlib import Path

from toplora_train.config.errors import UserError
from toplora_train.launch.command import run_command

COMMAND = "toplora-report"
USAGE = """\
Compare finished runs: a leaderboard, and every method held against that of the first run, row by
row, with what the comparison could have seen. Runs that differ in their seed only are one method.
Runs that were asked different things are refused.

usage: toplora-report RUN... [output=FOLDER]

  RUN     a run directory, a later evaluation (RUN/evaluations/NAME), or a folder of runs
  output  where comparison.md, .html and .json go; ./comparison if not given"""


def main() -> int:
    """``toplora-report``: returns the exit code."""
    words = sys.argv[1:]
    if any(word in ("-h", "--help") for word in words):
        print(USAGE)  # noqa: T201  (for the user)
        return 0
    return run_command(lambda: _compare(words))


def _compare(words: list[str]) -> None:
    output, folders = Path("comparison"), []
    for word in words:
        if word.startswith("output="):
            output = Path(word.partition("=")[2] or ".")
        elif word.startswith("-") or (("=" in word) and not Path(word).exists()):
            raise UserError(f"'{word}' is no run directory; {COMMAND} takes RUN... and output=")
        else:
            folders.append(Path(word))
    if not folders:
        raise UserError(f"no run is given; {COMMAND} RUN... [output=FOLDER]")
    # Only a command that is right pays for the imports.
    from rich.console import Console

    from toplora_train.report.comparison import compare_runs
    from toplora_train.report.comparison_pages import show_comparison, write_comparison
    from toplora_train.report.runs import find_runs

    document = compare_runs(find_runs(folders))
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output={output} cannot be made: {error.strerror}") from error
    write_comparison(output, document)
    console = Console()
    show_comparison(document, console if console.is_terminal else Console(width=160))
    print(f"written to {output / 'comparison.html'} (also .md, .json)")  # noqa: T201  (for the user)
