"""The command ``toplora-report``."""

from __future__ import annotations

import sys
from pathlib import Path

from toplora_train.config.errors import UserError
from toplora_train.launch.command import run_command

COMMAND = "toplora-report"
USAGE = """\
Compare finished runs: a leaderboard, and methods held against each other on the same rows, with
what each comparison could have seen. Runs that differ in their seed only are one method. With one
seed there is no verdict on methods, only on the adapters. Runs with different protocols are
refused.

usage: toplora-report RUN... [baseline=METHOD] [gain=POINTS] [output=FOLDER]

  RUN       a run directory, a later evaluation (RUN/evaluations/NAME), or a folder of runs
  baseline  the method that all others are held against (the leaderboard's name, or its adapter's);
            without it all pairs are compared, at the price of more comparisons for Holm's method
  gain      say how many seeds would find a true difference of so many points; 1 if not given
  output    where comparison.md, .html and .json go; ./comparison if not given"""


def main() -> int:
    """``toplora-report``: returns the exit code."""
    words = sys.argv[1:]
    if any(word in ("-h", "--help") for word in words):
        print(USAGE)  # noqa: T201  (for the user)
        return 0
    return run_command(lambda: _compare(words))


def _compare(words: list[str]) -> None:
    options, folders = {"output": "comparison", "baseline": "", "gain": "1"}, []
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key in options:
            options[key] = value
        elif word.startswith("-") or (equals and not Path(word).exists()):
            raise UserError(
                f"'{word}' is no run directory; {COMMAND} takes RUN..., "
                + ", ".join(f"{option}=" for option in options)
            )
        else:
            folders.append(Path(word))
    gain, output = _points(options["gain"]), Path(options["output"] or ".")
    if not folders:
        raise UserError(f"no run is given; {COMMAND} RUN... [baseline=METHOD] [output=FOLDER]")
    # Only a command that is right pays for the imports.
    from rich.console import Console

    from toplora_train.report.comparison import compare_runs
    from toplora_train.report.comparison_pages import show_comparison, write_comparison
    from toplora_train.report.runs import find_runs

    document = compare_runs(find_runs(folders), baseline=options["baseline"] or None, gain=gain)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output={output} cannot be made: {error.strerror}") from error
    write_comparison(output, document)
    console = Console()
    show_comparison(document, console if console.is_terminal else Console(width=160))
    print(f"written to {output / 'comparison.html'} (also .md, .json)")  # noqa: T201  (for the user)


def _points(text: str) -> float:
    """Percentage points as a share."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 100:
        raise UserError(f"gain={text} is no number of percentage points between 0 and 100")
    return value / 100
