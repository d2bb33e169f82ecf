"""The command ``toplora-report``."""

from __future__ import annotations

import sys
from pathlib import Path

from toplora_train.config.errors import UserError
from toplora_train.launch.command import run_command

COMMAND = "toplora-report"
USAGE = """\
Compare finished runs: a leaderboard, and pairwise comparisons of methods on the same rows, with
the smallest difference that each could detect. Runs that differ only in their seed are one method.
With one seed the verdict is on the adapters, not on the methods. Runs with different protocols are
refused.

usage: toplora-report RUN... [baseline=METHOD] [gain=POINTS] [output=FOLDER]

  RUN       a run directory, a later evaluation (RUN/evaluations/NAME), or a folder of runs
  baseline  the method to compare all others with (its name on the leaderboard, or its adapter's);
            by default all pairs are compared, so Holm's method corrects for more comparisons
  gain      report how many seeds would detect a true difference of this many points; default 1
  output    the folder for comparison.md, .html and .json; default ./comparison"""


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
                f"'{word}' is not a run directory; {COMMAND} takes RUN..., "
                + ", ".join(f"{option}=" for option in options)
            )
        else:
            folders.append(Path(word))
    gain, output = _points(options["gain"]), Path(options["output"] or ".")
    if not folders:
        raise UserError(f"no run given; {COMMAND} RUN... [baseline=METHOD] [output=FOLDER]")
    # Only a valid command pays for the imports.
    from rich.console import Console

    from toplora_train.report.comparison import compare_runs
    from toplora_train.report.comparison_pages import show_comparison, write_comparison
    from toplora_train.report.runs import find_runs

    document = compare_runs(find_runs(folders), baseline=options["baseline"] or None, gain=gain)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output={output} cannot be created: {error.strerror}") from error
    write_comparison(output, document)
    console = Console()
    show_comparison(document, console if console.is_terminal else Console(width=160))
    print(f"written to {output / 'comparison.html'} (also .md, .csv, .tex, .json)")  # noqa: T201  (for the user)


def _points(text: str) -> float:
    """Percentage points as a fraction."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 100:
        raise UserError(f"gain={text} must be a number of percentage points between 0 and 100")
    return value / 100
