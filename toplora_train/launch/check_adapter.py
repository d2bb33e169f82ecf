"""The command ``toplora-check-adapter``."""

from __future__ import annotations

import sys
from pathlib import Path

from toplora_train.config.errors import RunFailure, UserError, one_line
from toplora_train.config.locate import options
from toplora_train.config.plugins import find_plugins, load_plugins
from toplora_train.config.suggest import not_found
from toplora_train.launch.command import run_words

COMMAND = "toplora-check-adapter"
USAGE = """\
Check that an adapter does what every adapter must: it starts as the base model, trains its own
tensors alone, is the same after saving and loading, is switched, merged and deleted by PEFT, and
more; on tiny models with random weights, in about a minute.

usage: toplora-check-adapter MODULE

  MODULE  FOLDER/adapter/NAME.py with NAME.yaml beside it, or the name of an installed adapter

Exit code 0 if every check holds, 1 if one fails."""


def main() -> int:
    """``toplora-check-adapter``: returns the exit code."""
    return run_words(_check, USAGE)


def _check(words: list[str]) -> None:
    if len(words) != 1:
        raise UserError(f"give one adapter: {COMMAND} FOLDER/adapter/NAME.py")
    file = Path(words[0]).absolute()
    is_path = file.suffix == ".py" or file.exists()
    name, own = (file.stem, [file.parent.parent]) if is_path else (words[0], [])
    if is_path and not (file.is_file() and file.parent.name == "adapter"):
        raise UserError(
            f"{words[0]}: an adapter is a file FOLDER/adapter/NAME.py, where FOLDER is the "
            "--config-dir of its runs"
        )
    known = options("adapter", own)
    if name not in known:
        beside = f"{file.with_suffix('.yaml')}: no such file; its keys are the adapter's settings"
        raise UserError(beside if is_path else not_found("adapter", name, known))
    load_plugins(find_plugins({"adapter": {"name": name}}, own), own)

    from transformers import logging  # heavy: only for a valid command

    from toplora_train.contract.checks import CHECKS
    from toplora_train.contract.subject import Subject

    logging.set_verbosity_error()
    failed = 0
    for claim, check in CHECKS.items():
        try:
            check(Subject(name, known[name].path))
        except Exception as error:  # an adapter's code may raise anything
            failed += 1
            kind = "" if isinstance(error, AssertionError | UserError) else type(error).__name__
            _say(f"FAILS  {claim}\n       {': '.join(filter(None, [kind, one_line(error)]))}")
        else:
            _say(f"holds  {claim}")
    if failed:
        raise RunFailure(f"adapter={name}: {failed} of {len(CHECKS)} checks fail")
    _say(f"adapter={name}: all {len(CHECKS)} checks hold")


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
