"""The command ``toplora-report``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toplora_train.config.errors import UserError
from toplora_train.config.plugins import find_plugins, load_plugins
from toplora_train.launch.command import run_words

COMMAND = "toplora-report"
OPTIONS = ("baseline", "gain", "angles", "table", "output", "archive", "config_dir")
USAGE = """\
Compare finished runs: a leaderboard, and pairwise comparisons of methods on the same rows, with
the smallest difference that each could detect. Runs that differ only in their seed are one method.
With one seed the verdict is on the adapters, not on the methods. Runs with different protocols are
refused. Of a study the completed runs are compared and the others listed.

Of one run alone, its report.html and report.md are written anew from the files in its folder.

usage: toplora-report RUN... [baseline=METHOD] [gain=POINTS] [angles=true] [output=FOLDER]
                             [archive=FILE.json] [config_dir=FOLDER]
       toplora-report RUN... table=NAME [output=FOLDER] [config_dir=FOLDER]
       toplora-report RUN

  RUN       a run directory, a later evaluation (RUN/evaluations/NAME), a folder of runs, or an
            archive of them
  baseline  the method to compare all others with (its name on the leaderboard, or its adapter's);
            by default all pairs are compared, so Holm's method corrects for more comparisons
  gain      report how many seeds would detect a true difference of this many points; default 1
  angles    true compares the adapters too, by the principal angles between their updates; loads
            the base model, and takes the first run of each method, or two runs of a single one
  table     a published table, with the scores of these runs beside its own: dora_commonsense,
            lora_glue, toplora_ablation
  output    the folder for the files (.md, .html, .csv, .tex, .json); default ./comparison
  archive   also write what was compared, every run's settings, costs and scores by row, to one
            small file; toplora-report FILE.json compares it again without the folders
  config_dir  the folder with the metrics of your own that the runs use"""


def main() -> int:
    """``toplora-report``: returns the exit code."""
    return run_words(_compare, USAGE)


def _compare(words: list[str]) -> None:
    options, folders = _parse(words)
    if len(folders) == 1 and not options and (folders[0] / "report.json").is_file():
        from toplora_train.report.pages import rewrite_pages

        print(f"written to {rewrite_pages(folders[0])} (also .md)")
        return
    table = options.get("table")
    for key in ("baseline", "gain", "angles", "archive"):
        if table is not None and key in options:
            raise UserError(f"table={table} compares with published scores, without {key}=")
    own = [Path(options["config_dir"])] if "config_dir" in options else []
    for folder in own:
        if not folder.is_dir():
            raise UserError(f"config_dir={folder}: there is no such folder")
    compare_folders(
        folders,
        table=table,
        baseline=options.get("baseline") or None,
        gain=_points(options.get("gain", "1")),
        angles=_switch("angles", options.get("angles", "false")),
        output=Path(options.get("output") or "comparison"),
        archive=Path(options["archive"]) if options.get("archive") else None,
        own=own,
    )


def compare_folders(
    folders: Sequence[Path],
    *,
    baseline: str | None,
    gain: float,
    output: Path,
    own: Sequence[Path],
    table: str | None = None,
    angles: bool = False,
    archive: Path | None = None,
) -> dict[str, Any]:
    """Compare runs, show and write the comparison, and return it.

    Args:
        folders: Runs, later evaluations, or folders of runs.
        baseline: The method to compare all others with; None compares all pairs.
        gain: The difference, as a fraction, whose number of seeds is reported.
        output: The folder for the files.
        own: The user's folders with the metrics that the runs use.
        table: A published table to compare with instead.
        angles: Whether to compare the adapters' updates too, which loads the base model.
        archive: A file for what was compared, see :mod:`toplora_train.report.archive`.

    Raises:
        UserError: The runs cannot be compared.
    """
    if not folders:
        raise UserError(f"no run given; {COMMAND} RUN... [baseline=METHOD] [output=FOLDER]")
    # Only a valid command pays for the imports.
    from rich.console import Console

    from toplora_train.report.archive import read_runs, write_archive
    from toplora_train.report.jobs import study_commands

    terminal = Console()
    console = terminal if terminal.is_terminal else Console(width=160)
    tasks = [path.stem for folder in own for path in (folder / "task").glob("*.yaml")]
    load_plugins(find_plugins({"task": tasks}, own), own)
    if table is not None:
        from toplora_train.report.published import (
            compare_with_table,
            read_table,
            show_published,
            write_published,
        )

        document = compare_with_table(read_table(table), read_runs(folders).runs)
        _create(output)
        write_published(output, table, document)
        show_published(document, console)
    else:
        from toplora_train.report.comparison import compare_runs
        from toplora_train.report.comparison_pages import show_comparison, write_comparison

        found = read_runs(folders)
        document = compare_runs(
            found.runs,
            tuning=found.tuning,
            unfinished=found.unfinished,
            baseline=baseline,
            gain=gain,
        )
        if angles:
            from toplora_train.report.comparison import runs_to_inspect
            from toplora_train.run.inspect import compare_adapters  # heavy

            document["adapters"] = compare_adapters(runs_to_inspect(document))
        if archive is not None:
            write_archive(archive, found, study_commands(folders))
        _create(output)
        write_comparison(output, document)
        show_comparison(document, console)
    page = output / f"{table or 'comparison'}.html"
    print(f"written to {page} (also .md, .csv, .tex, .json)")
    return dict(document)


def _parse(words: list[str]) -> tuple[dict[str, str], list[Path]]:
    """The options and the folders of runs."""
    options, folders = {}, []
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key in OPTIONS:
            options[key] = value
        elif word.startswith("-") or (equals and not Path(word).exists()):
            raise UserError(
                f"'{word}' is not a run directory; {COMMAND} takes RUN..., "
                + ", ".join(f"{option}=" for option in OPTIONS)
            )
        else:
            folders.append(Path(word))
    return options, folders


def _create(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output={output} cannot be created: {error.strerror}") from error


def _switch(key: str, text: str) -> bool:
    if text not in ("true", "false"):
        raise UserError(f"{key}={text} must be true or false")
    return text == "true"


def _points(text: str) -> float:
    """Percentage points as a fraction."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 100:
        raise UserError(f"gain={text} must be a number of percentage points between 0 and 100")
    return value / 100


if __name__ == "__main__":
    sys.exit(main())
