"""Check local rows before torch is imported: a mistake in a file shows at once."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from toplora_train.config.kinds import own_split, training_sources
from toplora_train.config.methods import HEADS
from toplora_train.config.schema import RunConfig
from toplora_train.config.template import columns
from toplora_train.data.encode import validate_outputs
from toplora_train.data.files import is_file_name
from toplora_train.data.parts import without_part
from toplora_train.data.rows import validate_answers
from toplora_train.data.sources import read_rows
from toplora_train.run.prepare.parsing import own_parser, row_parser, training_parser

LARGE = 64 * 2**20  # bytes; reading a larger source twice would cost more than it saves


def check_rows(config: RunConfig) -> None:
    """Read and check the rows of every local file or folder of the run that is not large.

    Rows whose prompt is a function of the user's own module are left to the worker, which imports
    it.

    Raises:
        UserError: As when the run reads them.
    """
    dataset = config.dataset
    read = partial(read_rows, data_root=config.mirror)
    parse = training_parser(config)
    heads = any(task.kind in HEADS for task in config.task.values())
    for source, _ in training_sources(dataset) if own_split(config) is None else ():
        if _is_checked(source, dataset.prompt, dataset.subset, dataset.revision):
            rows = read(source, split=dataset.split, limit=dataset.limit, parse=parse)
            if not heads:
                validate_outputs(rows.rows)
    if not config.evaluation.enabled:
        return
    for task in config.task.values():
        if _is_checked(task.source, task.prompt, task.subset, task.revision):
            needs_answer = task.kind not in HEADS
            rows = read(
                task.source, split=task.split, needs_answer=needs_answer, parse=row_parser(task)
            )
            validate_answers(rows.rows)
    if dataset.test is not None and _is_checked(dataset.test, dataset.prompt):
        validate_answers(read(dataset.test, split="test", parse=own_parser(dataset)).rows)


def _is_checked(source: str, prompt: str | None, *of_hub: str | None) -> bool:
    return (prompt is None or bool(columns(prompt))) and _is_small(source, *of_hub)


def _is_small(source: str, *of_hub: str | None) -> bool:
    """Whether a source is local; a copy of a hub data set is read by its slow library instead."""
    name = without_part(source)[1]
    path = Path(name).expanduser()
    try:
        if any(of_hub):
            return False
        if not path.exists():  # reading a missing file says so, before a model is loaded for it
            return ":" not in name and is_file_name(path)
        files = [path, *path.rglob("*")] if path.is_dir() else [path]
        return sum(file.stat().st_size for file in files if file.is_file()) <= LARGE
    except OSError:  # such as a name that is too long: the run says what is wrong with it
        return False
